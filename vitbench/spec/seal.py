"""The seal of a run: the declarations before its first trial, and later changes to them.

A run's folder keeps it as `sealed.json`. A later change of a margin, cut, claim, look or grid makes the verdicts that
depend on it exploratory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vitbench.base.contained import exists, read_text
from vitbench.base.errors import ResultsError
from vitbench.spec.claims import Claim
from vitbench.spec.experiment import Experiment
from vitbench.spec.metrics import DEFAULT_TUNING

FILE = "sealed.json"
DECLARED = (
    "form", "arms", "pairs", "tiers", "at", "above_points", "below_points", "margin_points", "margin_points_digits",
    "gap_points", "tie_points", "tie_points_digits", "x", "levels", "split_at", "share", "ratio", "metric", "seeds_min",
    "all_parts",
)  # fmt: skip
"""The fields of a claim that decide its verdict. Words and the source's numbers may be corrected later."""
WORDS = {
    "margin_points": "margin", "margin_points_digits": "margin on digits", "above_points": "cut", "below_points": "cut",
    "gap_points": "gap", "tie_points": "tie", "tie_points_digits": "tie on digits", "seeds_min": "least seeds",
    "looks": "looks", "seeds": "seeds",
}  # fmt: skip


def seal_of(
    experiment: Experiment, file_looks: tuple[int, ...] | None = None, num_trials: int = 0, num_before: int = 0
) -> dict[str, Any]:
    """The seal of an experiment: its claims, looks, maximum and grid, with their hash.

    `file_looks`: the looks of the file, if a declared maximum cut them. `num_before` of the `num_trials` planned had a
    record when the seal was written, because other runs share them.
    """
    content = _declared(experiment)
    looks = list(file_looks or experiment.seeds.looks or ())
    others = {"file_looks": looks, "num_trials": num_trials, "num_before": num_before}
    return {**content, **others, "sha256": _hash({**content, **others})}


def seal_text(seal: Mapping[str, Any]) -> str:
    """A seal as the text of its file."""
    return json.dumps(seal, indent=1, sort_keys=True, allow_nan=False) + "\n"


def read_seal(folder: Path) -> dict[str, Any] | None:
    """The seal of a run's folder, or None. Raises ResultsError if the file is damaged or was edited."""
    path = folder / FILE
    if not exists(path):
        return None
    try:
        seal = json.loads(read_text(path))
        intact = seal["sha256"] == _hash({key: value for key, value in seal.items() if key != "sha256"})
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ResultsError(f"{path}: cannot be read ({error}); restore it from a copy") from error
    if not intact:
        raise ResultsError(
            f"{path}: does not fit its hash: it was edited after the first trial; restore it from a copy"
        )
    return dict(seal)


def edits(seal: Mapping[str, Any] | None, experiment: Experiment) -> dict[str, tuple[str, ...]]:
    """{claim: why its verdict is exploratory}; the empty name stands for every claim.

    A race without a seal was not declared before its trials. First-edition runs have no seal.
    """
    if seal is not None:
        all_before = seal["num_trials"] > 0 and seal["num_before"] == seal["num_trials"]
        late = ("every trial was there before the claims were sealed",) if all_before else ()
        changed = changes(seal, experiment)
        return {**changed, "": (*late, *changed.get("", ()))} if late else changed
    raced = experiment.tune is not None and experiment.tune.races
    return {"": (f"its claims were not sealed at the first trial ({FILE} is missing)",)} if raced else {}


def changes(seal: Mapping[str, Any], experiment: Experiment) -> dict[str, tuple[str, ...]]:
    """Edits after the first trial: {claim: its changes}; the empty name stands for every claim.

    Looks beyond the declared maximum do not count: they are declared as `extended`.
    """
    now = _declared(experiment)
    out: dict[str, tuple[str, ...]] = {}
    common = [
        *_differences("seeds", seal["seeds"], now["seeds"]),
        *_differences("tune", seal["tune"], now["tune"]),
        *([_changed("metric", seal["metric"], now["metric"])] if seal["metric"] != now["metric"] else []),
    ]
    if common:
        out[""] = tuple(common)
    for claim, fields in now["claims"].items():
        before = seal["claims"].get(claim)
        differences = ["added after the first trial"] if before is None else list(_differences("", before, fields))
        if differences:
            out[claim] = tuple(differences)
    removed = [claim for claim in seal["claims"] if claim not in now["claims"]]
    if removed:
        out[""] = (*out.get("", ()), f"claims removed after the first trial: {', '.join(removed)}")
    return out


def _declared(experiment: Experiment) -> dict[str, Any]:
    """The declarations of an experiment that decide its verdicts, as plain JSON."""
    tune = experiment.tune.model_dump(mode="json") if experiment.tune else {}
    if tune.get("metric") == DEFAULT_TUNING:  # As in the seals of runs that had no choice of it.
        del tune["metric"]
    seeds = experiment.seeds.model_dump(mode="json", exclude={"extended"})
    claims = {part.id: _fields(part) for claim in experiment.claims for part in (claim, *claim.part_claims())}
    content = {"claims": claims, "seeds": seeds, "tune": tune, "metric": experiment.report.metric}
    return json.loads(json.dumps(content))  # type: ignore[no-any-return]


def _fields(claim: Claim) -> dict[str, Any]:
    fields = {key: value for key, value in claim.model_dump(mode="json").items() if key in DECLARED}
    return {**fields, "parts": [part.id for part in claim.part_claims()] if claim.parts else []}


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _differences(prefix: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """One line per field that differs."""
    for key in dict.fromkeys([*before, *now]):
        if before.get(key) != now.get(key):
            name = WORDS.get(key, key) if prefix in ("", "seeds") else f"{prefix}.{key}"
            yield _changed(name, before.get(key), now.get(key))


def _changed(name: str, before: Any, now: Any) -> str:
    """`margin changed after the first trial: was 2, is 9`."""
    return f"{name} changed after the first trial: was {_show(before)}, is {_show(now)}"


def _show(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:g}"
    return "none" if value is None else json.dumps(value)
