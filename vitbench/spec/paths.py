"""Dotted spec paths (`model.global_pool`, `pretrain.train.lr`): read, set, merge and check them."""

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
    """The value at a dotted path. Raises KeyError if there is none."""
    value: Any = mapping
    for part in path.split("."):
        if not isinstance(value, Mapping):
            raise KeyError(path)
        value = value[part]
    return value


def set_path(mapping: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A deep copy of `mapping` with `value` at a dotted path; one duration replaces another."""
    head, _, rest = path.partition(".")
    if not rest:
        return {**_without_durations(mapping, {head}), head: copy.deepcopy(value)}
    below = mapping.get(head, {})
    if not isinstance(below, Mapping):
        raise InputError(f"{path}: {head} is {show(below)}, not a section")
    return {**copy.deepcopy(dict(mapping)), head: set_path(below, rest, value)}


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of `under` with the values of `over`, merged mapping by mapping. Lists are replaced.

    One duration replaces another: a file with `train_flops` can extend a file with `epochs`.
    """
    out = _without_durations(under, over.keys())
    for key, value in over.items():
        below = out.get(key)
        if isinstance(below, dict) and isinstance(value, Mapping):
            out[key] = merge(below, value)
        else:
            out[key] = copy.deepcopy(value)
    return out


def _without_durations(mapping: Mapping[str, Any], new: Collection[str]) -> dict[str, Any]:
    """A deep copy, without its durations if `new` has a duration."""
    dropped = DURATIONS if any(key in DURATIONS for key in new) else ()
    return {key: copy.deepcopy(value) for key, value in mapping.items() if key not in dropped}


def split_stage(path: str, stages: Collection[str]) -> tuple[str, str]:
    """(stage, spec path) of `pretrain.train.lr`: ("pretrain", "train.lr") if there is such a stage, else ("", path)."""
    head, _, rest = path.partition(".")
    return (head, rest) if head in stages else ("", path)


def same_knob(path: str) -> set[str]:
    """The paths that a value at `path` decides: `path`, and for a duration (`train.steps`) the other durations."""
    parent, _, last = path.rpartition(".")
    return {f"{parent}.{duration}" for duration in DURATIONS} if last in DURATIONS else {path}


def path_problem(path: str, stages: Collection[str], also: Collection[str] = ()) -> str | None:
    """Why `path` is no setting of the spec, of a stage, or of `also`; None if it is one."""
    settings = [*SPEC_PATHS, *(f"{stage}.{inner}" for stage in stages for inner in (*SPEC_PATHS, "enabled")), *also]
    if path in settings:
        return None
    inside = [setting for setting in settings if setting.startswith(f"{path}.")]
    if inside:
        return f"{path} is a section; set one of {', '.join(inside)}"
    stage, _ = split_stage(path, stages)
    return f"unknown setting {path}{hint(path, [setting for setting in settings if setting.startswith(stage)])}"


def value_problems(path: str, value: Any, stages: Collection[str], where: str) -> list[str]:
    """One line for every mistake in a level of a valid path."""
    stage, spec_path = split_stage(path, stages)
    if stage and spec_path == "enabled":
        return [] if isinstance(value, bool) else [f"{where}: needs true or false, not {show(value)}"]
    if spec_path == "train.train_flops" and isinstance(value, str) and re.fullmatch(r"total_of\(.+\)", value):
        return []
    return spec_problems(set_path({}, spec_path, value), lambda _: where)


def spec_problems(written: Any, locate: Locate, *, of_suite: bool = False) -> list[str]:
    """One line for every mistake in a partial TrialSpec: unknown keys, values, two durations at once.

    A suite may state one duration per unit: every experiment takes the one in its unit.
    """
    try:
        TrialSpec.model_validate(written)
    except ValidationError as error:
        return translate(error, locate)
    stated = [name for name in DURATIONS if name in written.get("train", {})]
    if len(stated) > 1 and not of_suite:
        return [f"{locate(('train', stated[1]))}: only one duration is allowed, not {' and '.join(stated)}"]
    return []


def validate_trial(base: Mapping[str, Any], stage: Stage, assigned: Mapping[str, Any]) -> TrialSpec:
    """The spec of one stage of a trial: `base`, then the stage's sections, then the paths that arm and setting assign.

    Raises InputError, one line per problem, each starting with the key path.
    """
    written = merge(base, stage.model_dump(include=set(SECTIONS), exclude_unset=True))
    for path, value in assigned.items():
        written = set_path(written, path, value)
    try:
        return TrialSpec.model_validate(written)
    except ValidationError as error:
        raise InputError("\n".join(translate(error, key_path))) from error
