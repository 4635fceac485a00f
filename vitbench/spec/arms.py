"""The arms of an experiment, and the arms that a claim or a command names."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitbench.base.errors import InputError, nearest
from vitbench.spec.claims import ArmRef
from vitbench.spec.experiment import Experiment

Assignment = Mapping[str, Any]


@dataclass(frozen=True)
class Arm:
    """One full assignment. `levels` maps each factor to its level (named arms are the levels of the factor `arm`);
    `assignment` maps each spec path that the arm sets to its value."""

    name: str
    levels: Assignment
    assignment: Assignment


def level_name(level: Any) -> str:
    """A level as it appears in an arm's name: `avg`, `true`, `0.001`, `3x4x6x3`, `depthwise(kernel_size=5)`."""
    if isinstance(level, Mapping):
        fields = ", ".join(f"{key}={level_name(value)}" for key, value in sorted(level.items()) if key != "name")
        return f"{level.get('name')}({fields})" if fields else str(level.get("name"))
    if isinstance(level, bool):
        return str(level).lower()
    if isinstance(level, (list, tuple)):
        return "x".join(level_name(item) for item in level)
    return f"{level:g}" if isinstance(level, float) else str(level)


def arms(experiment: Experiment) -> tuple[Arm, ...]:
    """Every arm in file order, the baseline first: named arms (if any) crossed with the factors, less `exclude`."""
    axes: list[list[tuple[str, Any, Assignment]]] = []
    if experiment.arms:
        axes.append([("arm", name, fields) for name, fields in experiment.arms.items()])
    for path, values in experiment.factors.items():
        axes.append([(path, level, {path: level}) for level in values])
    out = []
    for cell in itertools.product(*axes):
        levels = {path: level for path, level, _ in cell}
        assignment = {path: value for _, _, fields in cell for path, value in fields.items()}
        if not any(_matches({**assignment, **levels}, rule) for rule in experiment.exclude):
            out.append(Arm("+".join(level_name(level) for _, level, _ in cell) or "baseline", levels, assignment))
    return tuple(out)


def _matches(levels: Assignment, rule: Assignment) -> bool:
    return all(level_name(levels.get(path)) == level_name(level) for path, level in rule.items())


def find_arms(experiment: Experiment, ref: ArmRef, where: Assignment | None = None) -> tuple[Arm, ...]:
    """The arm that `ref` names, or several arms if it averages `over` a factor.

    `ref` is a full name, a level's name if it is unique, or a partial assignment {path: level, "over": [path]}.
    Factors that `ref` does not name are at `where` (a claim's `at`), else at the baseline's level.
    Raises InputError if `ref` names no arm or more than one.
    """
    all_arms = arms(experiment)
    if isinstance(ref, str):
        exact = [arm for arm in all_arms if arm.name == ref]
        if exact and not where:
            return (exact[0],)
        named = dict(exact[0].levels) if exact else _level_called(all_arms, ref)
        over: list[str] = []
    else:
        named = {path: level for path, level in ref.items() if path != "over"}
        over = list(ref.get("over", []))
    levels = {**dict(all_arms[0].levels), **(where or {}), **named}
    factors = all_arms[0].levels
    for path in (*levels, *over):
        if path not in factors:
            raise InputError(f"arm {ref!r}: {path} is not a factor; factors are {', '.join(factors) or 'none'}")
    fixed = {path: level for path, level in levels.items() if path not in over}
    matching = tuple(arm for arm in all_arms if _matches(arm.levels, fixed))
    if not matching:
        raise InputError(f"arm {ref!r}: no such arm; arms are {', '.join(arm.name for arm in all_arms)}")
    return matching


def _level_called(all_arms: tuple[Arm, ...], name: str) -> dict[str, Any]:
    """{path: level} of the only factor level that is called `name`. Raises InputError if there is none or several."""
    hits = {
        (path, level_name(level)): level
        for arm in all_arms
        for path, level in arm.levels.items()
        if level_name(level) == name
    }
    if len(hits) == 1:
        ((path, _), level) = next(iter(hits.items()))
        return {path: level}
    names = {level_name(level) for arm in all_arms for level in arm.levels.values()} | {arm.name for arm in all_arms}
    if hits:
        raise InputError(f"arm {name!r}: a level of {' and of '.join(p for p, _ in hits)}; write {{path: {name}}}")
    raise InputError(
        f"arm {name!r}: no such arm or level.{nearest(name, names)} Arms: {', '.join(a.name for a in all_arms)}"
    )
