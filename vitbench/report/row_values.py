"""Rows (a record each, with its arm) read for display: order, scores, settings and their labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vitbench.spec.arms import arms, level_name
from vitbench.spec.experiment import Experiment
from vitbench.spec.metrics import metric_named
from vitbench.stats.table import Row, metric_value
from vitbench.store.record import REPORTS, TUNES

Setting = tuple[tuple[str, Any], ...]
"""A tuned setting as sorted (path, value) pairs, so that it can be a key."""
Behind = tuple[str, str, Setting]
"""The trials behind a number: their arm, role and setting."""


def arm_order(experiment: Experiment, rows: Iterable[Row] = ()) -> list[str]:
    """Names of all arms in the file's order, the baseline first; arms that only `rows` know follow."""
    return list(dict.fromkeys([*(arm.name for arm in arms(experiment)), *(row["arm"] for row in rows)]))


def setting_key(setting: Mapping[str, Any]) -> Setting:
    """A setting as a key; lists become tuples."""
    return tuple(sorted((path, tuple(v) if isinstance(v, list) else v) for path, v in setting.items()))


def setting_of(row: Row) -> Setting:
    """The row's tuned setting as a key."""
    return setting_key(row.get("setting", {}))


def setting_label(setting: Setting) -> str:
    """`lr 0.002`, or `lr 0.002, weight_decay 0.1`; `-` where nothing is tuned."""
    return ", ".join(f"{short(path)} {level_name(value)}" for path, value in setting) or "-"


def short(path: str) -> str:
    """The last word of a spec path: `train.lr` gives `lr`."""
    return path.rsplit(".", 1)[-1]


def score(row: Row, metric: str) -> float | None:
    """The row's value of `metric`; None if the trial is not `ok` or has no finite value."""
    return metric_value(row, metric) if row["status"] == "ok" else None


def scores_by_seed(rows: Iterable[Row], metric: str) -> dict[int, float]:
    """{seed: score} over the rows that have one, by seed."""
    scores = {int(row["seed"]): score(row, metric) for row in rows}
    return {seed: value for seed, value in sorted(scores.items()) if value is not None}


def dot_links(rows: Iterable[Row], values: Mapping[int, float], form: str = ".2f") -> list[str]:
    """One link a seed of `values`, for its dot on a plot: `#trial-ID|seed 3: 92.48` (see `inline`)."""
    ids = {int(row["seed"]): row["trial_id"] for row in rows}
    return [f"#trial-{ids[seed]}|seed {seed}: {value:{form}}" for seed, value in values.items()]


def own_best(rows: Iterable[Row]) -> list[Row]:
    """Reporting rows at their own arm's chosen setting."""
    return [row for row in rows if row["role"] in REPORTS and row.get("chosen", True)]


def tuning(rows: Iterable[Row]) -> list[Row]:
    """Rows whose validation score may have chosen a setting."""
    return [row for row in rows if row["role"] in TUNES]


def shared_settings(rows: Sequence[Row]) -> list[Setting]:
    """Settings at which every arm has reporting rows, ascending; with one arm there is nothing to share.

    Settings that a race dropped in some arm are not shared: they lack that arm's later seeds.
    """
    reporting = [row for row in rows if row["role"] in REPORTS]
    if any(row["role"] == "trial" for row in reporting):
        reporting = _at_every_seed(reporting)
    present = {row["arm"] for row in reporting}
    by_setting: dict[Setting, set[str]] = {}
    for row in reporting:
        by_setting.setdefault(setting_of(row), set()).add(row["arm"])
    return sorted(
        (s for s, its_arms in by_setting.items() if s and its_arms == present and len(present) > 1), key=_by_size
    )


def _at_every_seed(rows: Sequence[Row]) -> list[Row]:
    """The rows at settings that have every seed of their arm."""
    seeds: dict[tuple[str, Setting], set[int]] = {}
    for row in rows:
        seeds.setdefault((row["arm"], setting_of(row)), set()).add(int(row["seed"]))
    most = {arm: max(len(its) for (name, _), its in seeds.items() if name == arm) for arm, _ in seeds}
    return [row for row in rows if len(seeds[row["arm"], setting_of(row)]) == most[row["arm"]]]


def _by_size(setting: Setting) -> tuple[tuple[str, float, str], ...]:
    return tuple((path, *size_key(value)) for path, value in setting)


def size_key(value: Any) -> tuple[float, str]:
    """A sort key under which numbers stand by size, before words."""
    return (float(value), "") if isinstance(value, (int, float)) else (math.inf, str(value))


def metric_label(metric: str) -> str:
    """A metric's name as an axis or a column says it."""
    return metric_named(metric).label


def quantity(value: float) -> str:
    """Three digits with a decimal prefix: 35210 gives `35.2k`; `-` for nothing."""
    if not value:
        return "-"
    for power, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 0.9995 * 10**power:
            return f"{value / 10**power:.3g}{prefix}"
    return f"{value:.3g}"


SCALE_PATHS = (
    "data.train_fraction", "model.patch_size", "train.epochs", "train.steps", "train.images", "train.train_flops",
)  # fmt: skip
"""Factors along which an arm is one thing in several sizes, in any stage: drawn as one line in one colour."""


def series_of(experiment: Experiment, rows: Iterable[Row] = ()) -> dict[str, str]:
    """{arm: its series}: the arm's name without the levels of the scale factors."""
    levels = {arm.name: arm.levels for arm in arms(experiment)}
    return {arm: _series(arm, levels.get(arm, {})) for arm in arm_order(experiment, rows)}


def _series(arm: str, levels: Mapping[str, Any]) -> str:
    kept = [level_name(level) for path, level in levels.items() if not _scales(path)]
    return arm if len(kept) == len(levels) else "+".join(kept) or "all arms"


def _scales(path: str) -> bool:
    """True for a path of SCALE_PATHS, also behind the name of a stage."""
    return path in SCALE_PATHS or path.partition(".")[2] in SCALE_PATHS
