"""The settings at which an arm is trained beside its own choice: `report.also_at`, and claims that fix a setting."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vitbench.base.errors import InputError
from vitbench.spec.arms import Assignment, find_arms
from vitbench.spec.claims import ArmRef, Claim
from vitbench.spec.experiment import Experiment


def claim_references(experiment: Experiment, claim: Claim) -> Iterator[tuple[list[ArmRef], dict[str, Any]]]:
    """Groups of arm references that one claim compares, and the factor levels at which they stand."""
    tuned = tuned_paths(experiment)
    fixed = {path: value for path, value in claim.at.items() if path not in tuned and path != "metric"}
    axis = [{path: level} for path, levels in claim.levels.items() if path != "metric" for level in levels] or [{}]
    groups = [list(claim.arms), *map(list, claim.pairs), [ref for tier in claim.tiers for ref in tier]]
    for refs in groups:
        for level in axis if refs else ():
            yield refs, fixed | level


def claimed_arms(experiment: Experiment, claim: Claim) -> set[str]:
    """The arms that a claim or its parts read, those whose choice it reads included; none of a claim that is not
    tested."""
    out: set[str] = set()
    for part in claim.part_claims():
        for refs, where in claim_references(experiment, part) if part.untested is None else ():
            for ref in refs:
                out |= _names(experiment, ref, where)
                values = [*part.at.values(), *(ref.values() if isinstance(ref, dict) else ())]
                out |= {name for value in values if (name := best_of(experiment, value)) is not None}
    return out


def tuned_paths(experiment: Experiment) -> set[str]:
    """The spec paths that the experiment tunes."""
    return set(experiment.tune.grid) if experiment.tune else set()


def factors_only(experiment: Experiment, ref: ArmRef) -> ArmRef:
    """A reference without tuned paths and without the metric."""
    if isinstance(ref, str):
        return ref
    dropped = tuned_paths(experiment) | {"metric"}
    return {path: value for path, value in ref.items() if path not in dropped}


def shared_values(experiment: Experiment, arm: str) -> dict[str, list[Any]]:
    """{tuned path: values} at which one arm is trained beside its own choice: a value, `grid` or `best_of(ARM)`.

    In a race a claim's own `at` counts too: the race could drop the setting that the claim reads.
    """
    out = {path: list(values) for path, values in experiment.report.also_at.items()}
    if experiment.tune is not None and experiment.tune.races:
        for path, value in _claimed_values(experiment, arm):
            if value not in out.setdefault(path, []):
                out[path].append(value)
    return {path: values for path, values in out.items() if values}


def _claimed_values(experiment: Experiment, arm: str) -> Iterator[tuple[str, Any]]:
    """(tuned path, value) of every claim that reads the arm at a fixed value."""
    tuned = tuned_paths(experiment)
    for claim in (part for whole in experiment.claims for part in whole.part_claims()):
        shared = [(path, value) for path, value in claim.at.items() if path in tuned]
        for refs, where in claim_references(experiment, claim) if claim.untested is None else ():
            for ref in refs:
                fixed = [*shared, *((p, v) for p, v in ref.items() if p in tuned)] if isinstance(ref, dict) else shared
                if fixed and arm in _names(experiment, ref, where):
                    for path, value in fixed:
                        yield from ((path, one) for one in (value if isinstance(value, (list, tuple)) else [value]))


def _names(experiment: Experiment, ref: ArmRef, where: Mapping[str, Any]) -> set[str]:
    """The arms that a reference names; none if it is wrong, which the checks before a run report."""
    try:
        return {arm.name for arm in find_arms(experiment, factors_only(experiment, ref), dict(where))}
    except InputError:
        return set()


def best_of(experiment: Experiment, value: Any) -> str | None:
    """The arm of `best_of(ARM)`; None for any other value."""
    match = re.fullmatch(r"best_of\((.+)\)", value) if isinstance(value, str) else None
    return find_arms(experiment, match[1])[0].name if match else None


def shared_settings(
    experiment: Experiment, arm: str, choices: Mapping[str, Assignment], grid: Sequence[Assignment]
) -> list[Assignment]:
    """One arm's shared settings: fixed values, other arms' choices, or the whole grid, over the arm's own choice."""
    out: list[Assignment] = []
    for path, values in shared_values(experiment, arm).items():
        for value in values:
            other = best_of(experiment, value)
            if value == "grid":
                out.extend(grid)
            elif other is None:
                out.append({**choices[arm], path: value})
            elif other in choices:
                out.append({**choices[arm], path: choices[other][path]})
    return out


def shared_counts(experiment: Experiment, arm: str, grid: Sequence[Assignment]) -> tuple[int, int, int]:
    """Numbers of shared settings: outside the grid, inside it, and other arms' choices."""
    outside = inside = choices = 0
    for path, values in shared_values(experiment, arm).items():
        levels = [setting.get(path) for setting in grid]
        for value in values:
            other = best_of(experiment, value)
            if other is not None:
                choices += other != arm
            elif value == "grid":
                inside += len(grid)
            else:
                inside, outside = inside + (value in levels), outside + (value not in levels)
    return outside, inside, choices


def num_shared(experiment: Experiment, arm: str, num_settings: int) -> int:
    """The greatest number of settings at which a first-edition arm is reported beside its own choice."""
    count = 0
    for value in (value for values in shared_values(experiment, arm).values() for value in values):
        count += num_settings - 1 if value == "grid" else best_of(experiment, value) != arm
    return count
