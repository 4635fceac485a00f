"""Overrides from outside a file, in this order: the suite's, `--data`, `--seeds`, `--set`. The last one wins."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

from vitbench.base.errors import InputError
from vitbench.spec.checks import seed_problems
from vitbench.spec.experiment import Experiment, Suite
from vitbench.spec.messages import show, translate
from vitbench.spec.paths import get_path, merge, path_problem, same_knob, set_path, split_stage, value_problems
from vitbench.spec.trial import DURATIONS, DataSpec
from vitbench.spec.yaml import read

SETTABLE = (
    "seeds", "seeds.num", "seeds.chosen", "seeds.looks", "tune.by", "tune.first", "tune.alpha",
    "tune.seeds", "tune.extend", "report.metric",
)  # fmt: skip
"""Keys that `--set` accepts beside spec paths."""

_SIZE_PATHS = ("model.patch_size", "model.img_size", "data.img_size")
_PATCHED_VIT = re.compile(r"((?:ViT-)?[A-Za-z]+)/(\d+)")
_SEEDS = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")


def apply_suite(suite: Suite, experiment: Experiment) -> Experiment:
    """The experiment with its suite's `base`, `tune` (if the experiment tunes) and `seeds`.

    A duration in the suite's base applies to the experiments that count in the same unit. The suite's levels of a path
    replace the experiment's, in every stage that tunes the path; levels for a named stage have priority.
    """
    changed: dict[str, Any] = {"base": merge(experiment.base, _fitting(suite.base, experiment.base))}
    if suite.tune is not None and experiment.tune is not None:
        over = suite.tune.grid
        names = {stage.name for stage in experiment.stages}
        grid = {
            path: over.get(path, over.get(split_stage(path, names)[1], levels))
            for path, levels in experiment.tune.grid.items()
        }
        changed["tune"] = {**suite.tune.model_dump(exclude_unset=True), "grid": grid}
    if suite.seeds is not None:
        changed["seeds"] = suite.seeds.model_dump(exclude_unset=True)
    return _changed(experiment, changed, f"suite {suite.name}, {experiment.name}")


def _fitting(over: dict[str, Any], under: dict[str, Any]) -> dict[str, Any]:
    """`over` without durations in another unit than that of `under`."""
    train = {k: v for k, v in over.get("train", {}).items() if k not in DURATIONS or k in under.get("train", {})}
    return {**over, "train": train} if "train" in over else over


def override(
    experiment: Experiment,
    *,
    data: str | None,
    seeds: str | None,
    sets: Sequence[str],
    suits: Callable[[int], bool] | None = None,
) -> Experiment:
    """The experiment with the overrides of the command line.

    Other data keep the file's `data.img_size` and patch sizes. Without an image size in the file, a patch size that
    does not suit the new images is derived from their size, unless the file varies the patch. `suits` says whether a
    patch size suits them (None: not known yet). Raises InputError with one line per refused option.
    """
    if data is not None:
        experiment = _with_data(experiment, data, suits or (lambda _: False))
    if seeds is not None:
        experiment = _changed(experiment, {"seeds": parse_seeds(seeds)}, f"--seeds {seeds}")
    problems = []
    for text in sets:
        try:
            experiment = _with_set(experiment, text)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    return experiment


def _changed(experiment: Experiment, changed: dict[str, Any], where: str) -> Experiment:
    """The experiment with some of its keys replaced, validated again."""
    try:
        return Experiment.model_validate({**experiment.model_dump(exclude_unset=True), **changed})
    except ValidationError as error:
        raise InputError("\n".join(dict.fromkeys(translate(error, lambda _: where)))) from error


def parse_seeds(text: str) -> dict[str, Any]:
    """`5` as {num: 5}; `0-4`, `0,3,7` and `0-2,7` as {chosen: [...]}; raises InputError."""
    parts = [_SEEDS.fullmatch(part.strip()) for part in text.split(",")]
    if not all(parts):
        raise InputError(f"--seeds {text}: needs a number of seeds (5), a range (0-4) or a list (0,3,7)")
    if "," not in text and "-" not in text:
        seeds: dict[str, Any] = {"num": int(text)}
    else:
        spans = [(int(part[1]), int(part[2] or part[1])) for part in parts if part]
        seeds = {"chosen": [seed for first, last in spans for seed in range(first, last + 1)]}
    problems = seed_problems(seeds, lambda _: f"--seeds {text}")
    if problems:
        raise InputError("\n".join(problems))
    return seeds


def _with_data(experiment: Experiment, data: str, suits: Callable[[int], bool]) -> Experiment:
    """The experiment on other images, without a patch size that does not suit them."""
    if varied := _varied_by(experiment, "data.name"):
        raise InputError(f"--data {data}: data.name is {varied}")
    changed: dict[str, Any] = {"base": set_path(experiment.base, "data.name", data)}
    replaced = data != experiment.base.get("data", {}).get("name", DataSpec.model_fields["name"].default)
    sized = experiment.base.get("data", {}).get("img_size") is not None
    if replaced and not sized and not _varies_patch(experiment):
        stages = [stage.model_dump(exclude_unset=True) for stage in experiment.stages]
        changed["base"] = _without_patch(changed["base"], suits)
        changed["stages"] = [stage if _names_data(stage) else _without_patch(stage, suits) for stage in stages]
        changed["arms"] = {name: _without_patch_paths(fields, suits) for name, fields in experiment.arms.items()}
    return _changed(experiment, changed, f"--data {data}")


def _names_data(stage: dict[str, Any]) -> bool:
    """True if the file names the data of this stage, which then keeps them."""
    return "name" in stage.get("data", {})


def patches(experiment: Experiment) -> set[int]:
    """The patch sizes that the file sets outside its factors."""
    sections = [experiment.base, *(stage.model_dump(exclude_unset=True) for stage in experiment.stages)]
    pairs = [(f"model.{key}", value) for part in sections for key, value in part.get("model", {}).items()]
    pairs += [pair for fields in experiment.arms.values() for pair in fields.items()]
    return {patch for path, value in pairs if (patch := _patch_in(path, value))}


def _patch_in(path: str, value: Any) -> int | None:
    """The patch size that a setting states, directly or in a model's name."""
    if path.endswith("model.patch_size"):
        return value if isinstance(value, int) else None
    match = _PATCHED_VIT.fullmatch(str(value)) if path.endswith("model.name") else None
    return int(match[2]) if match else None


def _varies_patch(experiment: Experiment) -> bool:
    """True if the file varies the patch or image size by a factor or between arms."""
    names = {stage.name for stage in experiment.stages}

    def patches(path: str, value: Any) -> set[Any]:
        spec_path = split_stage(path, names)[1]
        if spec_path == "model.name":
            match = _PATCHED_VIT.fullmatch(str(value))
            return {int(match[2])} if match else set()
        return {value} if spec_path in _SIZE_PATHS else set()

    if any(patches(path, level) for path, levels in experiment.factors.items() for level in levels):
        return True
    return len({p for fields in experiment.arms.values() for item in fields.items() for p in patches(*item)}) > 1


def _without_patch(sections: dict[str, Any], suits: Callable[[int], bool]) -> dict[str, Any]:
    """`base` or a stage without the model's image size, and without a patch size that does not suit the images."""
    out = dict(sections)
    if "model" in out:
        nested = {f"model.{key}": value for key, value in out["model"].items()}
        out["model"] = {path.partition(".")[2]: value for path, value in _without_patch_paths(nested, suits).items()}
    return out


def _without_patch_paths(fields: dict[str, Any], suits: Callable[[int], bool]) -> dict[str, Any]:
    """The same for settings by path, including those of a stage; a hybrid's name keeps its stride."""
    out: dict[str, Any] = {}
    for path, value in fields.items():
        patch = _patch_in(path, value)
        if path.endswith("model.img_size") or (path.endswith("model.patch_size") and not (patch and suits(patch))):
            continue
        match = _PATCHED_VIT.fullmatch(value) if patch and isinstance(value, str) else None
        out[path] = match[1] if match and patch and not suits(patch) else value
    return out


def _with_set(experiment: Experiment, text: str) -> Experiment:
    """The experiment with one `KEY=VALUE` applied."""
    key, equals, value_text = text.partition("=")
    option = f"--set {text if text.isprintable() else repr(text)}"
    if key[:1] in ("+", "~"):
        use = "write KEY=VALUE without it" if key[0] == "+" else "keys cannot be deleted; KEY=null may do the same"
        raise InputError(f"{option}: {key[0]!r} is Hydra's; {use}")
    if not equals:
        alike = re.fullmatch(r"([\w.]+):\s*(.*)", text)
        example = f"{alike[1]}={alike[2]}" if alike else "train.epochs=5"
        raise InputError(f"{option}: needs KEY=VALUE, for example --set {example}")
    value = read(value_text, option).value
    if key in SETTABLE:
        return _with_key(experiment, key, value, option)
    return _with_setting(experiment, key, value, option)


def _with_key(experiment: Experiment, key: str, value: Any, option: str) -> Experiment:
    """The experiment with one key outside the spec changed: seeds, tuning, the metric."""
    head, _, last = key.partition(".")
    if head == "seeds":
        seeds = {last: value} if last else value
        if problems := seed_problems(seeds, lambda _: option):
            raise InputError("\n".join(problems))
        return _changed(experiment, {"seeds": seeds}, option)
    section: Any = getattr(experiment, head)
    if section is None:
        raise InputError(f"{option}: {experiment.name} has no `tune` section")
    return _changed(experiment, {head: {**section.model_dump(exclude_unset=True), last: value}}, option)


def _with_setting(experiment: Experiment, path: str, value: Any, option: str) -> Experiment:
    """The experiment with a spec path set in `base`, or in the stage that the path starts with."""
    names = [stage.name for stage in experiment.stages]
    if problem := path_problem(path, names, SETTABLE):
        raise InputError(f"{option}: {problem}")
    if varied := _varied_by(experiment, path):
        raise InputError(f"{option}: {path} is {varied}; to change it, write a file with `extends:`")
    for stage in experiment.stages:
        if any(_has(stage.model_dump(exclude_unset=True), knob) for knob in same_knob(path)):
            raise InputError(f"{option}: the stage {stage.name} sets this path itself; write {stage.name}.{path}")
    if problems := value_problems(path, value, names, option):
        raise InputError("\n".join(problems))
    name, spec_path = split_stage(path, names)
    if not name:
        return _changed(experiment, {"base": set_path(experiment.base, path, value)}, option)
    stages = [
        set_path(stage.model_dump(exclude_unset=True), spec_path, value) if stage.name == name else stage
        for stage in experiment.stages
    ]
    return _changed(experiment, {"stages": stages}, option)


def _varied_by(experiment: Experiment, path: str) -> str | None:
    """The factor, tuned grid or arm that sets `path` in place of `base`, in words; None if `base` sets it."""
    knobs = same_knob(path)
    tuned = experiment.tune.grid if experiment.tune else {}
    for role, paths in (("a factor of", experiment.factors), ("tuned in", tuned)):
        for knob in knobs & paths.keys():
            return f"{role} {experiment.name} ({knob}: {show(paths[knob])})"
    for name, fields in experiment.arms.items():
        if knobs & fields.keys():
            return f"set by the arm {name}"
    return None


def _has(mapping: dict[str, Any], path: str) -> bool:
    try:
        get_path(mapping, path)
    except KeyError:
        return False
    return True
