"""Notes that qualify a verdict in words. They never change it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from vitbench.base.seeding import derive_seed
from vitbench.spec.arms import find_arms
from vitbench.spec.experiment import Experiment
from vitbench.spec.metrics import is_probe
from vitbench.spec.trial import DURATIONS
from vitbench.stats.claim_data import Case
from vitbench.stats.decision import Settlement
from vitbench.stats.design import races
from vitbench.stats.distributions import Floats
from vitbench.stats.intervals import NO_SPREAD
from vitbench.stats.scores import trials_at
from vitbench.stats.table import Row, metric_value
from vitbench.stats.verdict_types import Context, State
from vitbench.stats.wording import count


def notes_on(case: Case, settled: Settlement, state: State, facts: Context) -> tuple[str, ...]:
    """The design, looks, tuning, diverged trials, the sensitivity lines of a single contrast, and poor evidence."""
    notes = list(case.design.notes)
    looks = case.design.plan.looks
    if state in ("supported", "contradicted") and len(looks) > 1 and settled.settled_at < len(looks) - 1:
        notes.append(f"settled at n = {looks[int(settled.settled_at)]}; an effect at an early stop is too large")
    notes += _tuning_notes(case)
    if case.sample.diverged.any():
        notes.append(f"diverged trials ({case.sample.diverged.sum()}) count from chance to the arm's best")
    if len(case.question.parts) == 1 and not case.sample.diverged.any():
        notes += _sensitivity(case)
    return (*notes, *_evidence(case, facts))


def _tuning_notes(case: Case) -> list[str]:
    """Choices at an end of their grid, and tuning on fewer seeds than the margin asks for."""
    arms = list(dict.fromkeys(cell.arm for cell in case.variances if cell.arm in case.table.tuning))
    searches = {arm: case.table.tuning[arm] for arm in arms}
    edge = [arm for arm, search in searches.items() if search.choice and search.choice.at_edge]
    if races(case.experiment):
        return [f"tuned at the end of its grid: {', '.join(edge)}"] if edge else []
    notes = [f"best at the edge of its grid: {', '.join(edge)}"] if edge else []
    margins = [region.high for region in case.regions if region.level == 0.90]
    advised = 5 if margins and min(margins) <= 1.0 else 3
    used = min((len(search.seeds) for search in searches.values()), default=advised)
    return notes + ([f"tuned on {count(used, 'seed')}; {advised} are advised"] if used < advised else [])


def _sensitivity(case: Case) -> list[str]:
    """Sign-flip and bootstrap-t lines for the contrast of a single part."""
    values, region = case.data()[0][:, 0], case.regions[0]
    notes = []
    cut = region.low if np.isfinite(region.low) else region.high
    if region.level == 0.95 and (p := sign_flip_p(values, cut)) is not None:
        notes.append(f"sign-flip p {'< 0.001' if p < 0.001 else f'= {p:.3f}'} against {cut:g}")
    limits = bootstrap_t(values, region.level, np.random.default_rng(derive_seed(0, "stats/bootstrap")))
    if limits:
        notes.append(f"bootstrap-t {100 * region.level:.0f}% [{limits[0]:+.2f}, {limits[1]:+.2f}]")
    return notes


def _evidence(case: Case, facts: Context) -> tuple[str, ...]:
    """Notes on the experiment's baseline arm at its own setting; none on a probe of features from before the last
    stage, which that stage's own accuracy says nothing about."""
    baseline = find_arms(case.experiment, {})[0].name
    rows = trials_at(case.table, baseline).values()
    features = {row.get("spec", {}).get("evaluate", {}).get("features") for row in rows}
    if is_probe(case.claim.metric or case.experiment.report.metric) and features == {"start"}:
        return ()
    return evidence_notes(case.experiment, rows, facts.baseline_floor_percent)


LAST_SHARE = 0.1
RISING_POINTS = 1.0


def late_gain(row: Row) -> float | None:
    """Points of validation top-1 gained over the last 10% of the steps; None if the curve has too few points."""
    points = [
        (point["step"], point["val_top1_percent"])
        for point in (row["result"].get("curve") or ())
        if point.get("val_top1_percent") is not None
    ]
    if len(points) < 2:
        return None
    last_step, last = points[-1]
    steps, values = zip(*points, strict=True)
    before = (1.0 - LAST_SHARE) * last_step
    return float(last - np.interp(before, steps, values)) if before >= steps[0] else None


def length_is_a_factor(experiment: Experiment) -> bool:
    """Whether arms differ in how long they train. A curve that still rises is then part of the question."""
    paths: list[Any] = [*experiment.factors, *(path for arm in experiment.arms.values() for path in arm)]
    return any(str(path).rsplit(".", 1)[-1] in DURATIONS for path in paths)


def evidence_notes(experiment: Experiment, baseline: Iterable[Row], floor_percent: float | None) -> tuple[str, ...]:
    """Why the baseline arm's trials make poor evidence, in words; empty if they do not.

    `floor_percent` is the least test top-1 of a sane model on these data (None: not checked).
    """
    rows = [row for row in baseline if row["status"] == "ok"]
    scores = [score for row in rows if (score := metric_value(row, "test_top1_percent")) is not None]
    notes = []
    if floor_percent is not None and scores and np.mean(scores) < floor_percent:
        notes.append(f"under-trained: the baseline reaches {np.mean(scores):.1f}%, a sane model {floor_percent:.1f}%")
    gains = [gain for row in rows if (gain := late_gain(row)) is not None]
    if gains and not length_is_a_factor(experiment) and np.mean(gains) >= RISING_POINTS:
        notes.append(f"under-trained: validation rose {np.mean(gains):.1f} points over the last 10% of the steps")
    return tuple(notes)


LEAST_FOR_SIGN_FLIP = 6
MOST_FOR_SIGN_FLIP = 20
LEAST_FOR_BOOTSTRAP = 10
NUM_RESAMPLES = 4_000


def sign_flip_p(values: Floats, reference: float = 0.0) -> float | None:
    """Two-sided exact p of the mean of `values` [n] against `reference`, over all 2^n signs.

    None below 6 seeds, where it cannot reach .05, above 20, and where nothing varies. It assumes symmetry.
    """
    data = np.asarray(values, dtype=np.float64) - reference
    if not LEAST_FOR_SIGN_FLIP <= len(data) <= MOST_FOR_SIGN_FLIP or np.ptp(data) < NO_SPREAD:
        return None
    sums = np.zeros(1)
    for value in data:
        sums = np.concatenate([sums + value, sums - value])
    return float(np.mean(np.abs(sums) >= abs(data.sum()) * (1.0 - 1e-12)))


def bootstrap_t(values: Floats, level: float, rng: np.random.Generator) -> tuple[float, float] | None:
    """The bootstrap-t interval of the mean of `values` [n], a check on skew; None below 10 seeds or without spread."""
    data = np.asarray(values, dtype=np.float64)
    n = len(data)
    if n < LEAST_FOR_BOOTSTRAP or np.ptp(data) < NO_SPREAD:
        return None
    drawn = data[rng.integers(0, n, (NUM_RESAMPLES, n))]
    sd = drawn.std(axis=1, ddof=1)
    varied = sd > NO_SPREAD
    statistic = (drawn.mean(axis=1)[varied] - data.mean()) / (sd[varied] / np.sqrt(n))
    upper, lower = np.quantile(statistic, [0.5 + level / 2.0, 0.5 - level / 2.0])
    se = data.std(ddof=1) / np.sqrt(n)
    return float(data.mean() - upper * se), float(data.mean() - lower * se)
