"""Dotted spec paths (`model.global_pool`, `pretrain.train.lr`): reading, setting, merging and checking them."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from vitbench.base.errors import InputError
from vitbench.spec.experiment import Stage
from vitbench.spec.messages import Locate, hint, key_path, show, translate
from vitbench.spec.trial import DURATIONS, TrialSpec

SECTIONS = tuple(TrialSpec.model_fields)


def _leaves(model: type[BaseModel], prefix: str) -> list[str]:
    out: list[str] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        section = isinstance(inner, type) and issubclass(inner, BaseModel)
        out += _leaves(inner, f"{prefix}{name}.") if section else [prefix + name]  # type: ignore[arg-type]
    return out


SPEC_PATHS = tuple(_leaves(TrialSpec, ""))
"""Every path that a factor, an arm, a grid or `--set` may name."""


def get_path(mapping: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; raises KeyError where there is none."""
    value: Any = mapping
    for part in path.split("."):
        if not isinstance(value, Mapping):
            raise KeyError(path)
        value = value[part]
    return value


def set_path(mapping: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A deep copy of `mapping` with `value` at a dotted path, whatever stood there; one duration replaces another."""
    head, _, rest = path.partition(".")
    if not rest:
        return {**_without_durations(mapping, {head}), head: copy.deepcopy(value)}
    below = mapping.get(head, {})
    if not isinstance(below, Mapping):
        raise InputError(f"{path}: {head} is {show(below)}, not a section")
    return {**copy.deepcopy(dict(mapping)), head: set_path(below, rest, value)}


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of `under` with `over` laid on it, mapping by mapping; lists are replaced, and one duration replaces
    another (a file that states `epochs` can be extended by one that states `train_flops`)."""
    out = _without_durations(under, over.keys())
    for key, value in over.items():
        below = out.get(key)
        if isinstance(below, dict) and isinstance(value, Mapping):
            out[key] = merge(below, value)
        else:
            out[key] = copy.deepcopy(value)
    return out


def _without_durations(mapping: Mapping[str, Any], new: Collection[str]) -> dict[str, Any]:
    """A deep copy without the durations where `new` has one."""
    dropped = DURATIONS if any(key in DURATIONS for key in new) else ()
    return {key: copy.deepcopy(value) for key, value in mapping.items() if key not in dropped}


def split_stage(path: str, stages: Collection[str]) -> tuple[str, str]:
    """(stage, spec path) of `pretrain.train.lr`: ("pretrain", "train.lr") if there is such a stage, else ("", path)."""
    head, _, rest = path.partition(".")
    return (head, rest) if head in stages else ("", path)


def same_knob(path: str) -> set[str]:
    """The paths that a value at `path` decides: itself, and for a duration (`train.steps`) the other durations."""
    parent, _, last = path.rpartition(".")
    return {f"{parent}.{duration}" for duration in DURATIONS} if last in DURATIONS else {path}


def path_problem(path: str, stages: Collection[str], also: Collection[str] = ()) -> str | None:
    """Why `path` names no setting of the spec, of a stage, or of `also`; None where it names one."""
    known = [*SPEC_PATHS, *(f"{stage}.{own}" for stage in stages for own in (*SPEC_PATHS, "enabled")), *also]
    if path in known:
        return None
    inside = [setting for setting in known if setting.startswith(f"{path}.")]
    if inside:
        return f"{path} is a section; set one of {', '.join(inside)}"
    stage, _ = split_stage(path, stages)
    return f"unknown setting {path}{hint(path, [k for k in known if k.startswith(stage)])}"


def value_problems(path: str, value: Any, stages: Collection[str], where: str) -> list[str]:
    """One line for everything that is wrong with a level of a known path; none where the level is valid."""
    stage, own = split_stage(path, stages)
    if stage and own == "enabled":
        return [] if isinstance(value, bool) else [f"{where}: needs true or false, not {show(value)}"]
    if own == "train.train_flops" and isinstance(value, str) and re.fullmatch(r"total_of\(.+\)", value):
        return []
    return spec_problems(set_path({}, own, value), lambda _: where)


def spec_problems(written: Any, locate: Locate, *, of_suite: bool = False) -> list[str]:
    """One line for everything that is wrong with a partial TrialSpec: unknown keys, values, two durations at once.

    A suite may give one in each unit: every experiment takes the one in which it counts.
    """
    try:
        TrialSpec.model_validate(written)
    except ValidationError as error:
        return translate(error, locate)
    found = [name for name in DURATIONS if name in written.get("train", {})]
    if len(found) > 1 and not of_suite:
        return [f"{locate(('train', found[1]))}: one duration at a time; {' and '.join(found)} are given"]
    return []


def validate_trial(base: Mapping[str, Any], stage: Stage, own: Mapping[str, Any]) -> TrialSpec:
    """The spec of one stage of a trial: `base`, then the stage's sections, then the arm's and the setting's paths.

    Raises InputError, one line per problem, each starting with the key path.
    """
    written = merge(base, stage.model_dump(include=set(SECTIONS), exclude_unset=True))
    for path, value in own.items():
        written = set_path(written, path, value)
    try:
        return TrialSpec.model_validate(written)
    except ValidationError as error:
        raise InputError("\n".join(translate(error, key_path))) from error
