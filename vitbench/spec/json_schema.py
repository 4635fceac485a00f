"""The JSON Schema of experiment files, for editors: completion, descriptions and errors while typing.

The schema covers rules about single keys. `vitbench.spec.load` checks the rules that need the whole file: names of
stages, repeated levels, the form of a claim.
"""

from __future__ import annotations

from typing import Any

from vitbench.spec.experiment import Experiment, Suite
from vitbench.spec.limits import LAST_SEED
from vitbench.spec.paths import SECTIONS, SPEC_PATHS
from vitbench.spec.trial import DURATIONS, TrialSpec

Schema = dict[str, Any]


def schema() -> Schema:
    """The JSON Schema of an experiment or a suite, in draft 7, which editors support best."""
    definitions: Schema = {}
    for model in (TrialSpec, Experiment, Suite):
        written = model.model_json_schema()
        definitions |= written.pop("$defs", {})
        definitions[model.__name__] = written
    _fit_experiment(definitions)
    _fit_suite(definitions)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "vitbench experiment",
        "type": "object",
        "if": {"required": ["suite"]},
        "then": _ref("Suite"),
        "else": _ref("Experiment"),
        "$defs": definitions,
    }


def _ref(*parts: str) -> Schema:
    return {"$ref": "/".join(["#", "$defs", *parts])}


def _fit_experiment(definitions: Schema) -> None:
    """Adapt, in place, the keys of an experiment that a file writes differently from the object."""
    levels = {path: {"type": "array", "minItems": 1, "items": _level(definitions, path)} for path in SPEC_PATHS}
    values = {path: _level(definitions, path) for path in SPEC_PATHS}
    experiment, properties = definitions["Experiment"], definitions["Experiment"]["properties"]
    _fit_common(properties, levels)
    properties["factors"] |= _by_path(levels, {"type": "array"})
    properties["arms"]["additionalProperties"] = _by_path(values, {})
    properties["exclude"]["items"] = _by_path({**values, "arm": {"type": "string"}}, {})
    properties["budget"] = {
        "description": "Short for base.train: how long every arm trains",
        **_by_path({key: _level(definitions, f"train.{key}") for key in DURATIONS}, None),
        "minProperties": 1,
        "maxProperties": 1,
    }
    properties["extends"] = {
        "description": "A file, relative to this one, that this one is laid over",
        "type": "string",
        "pattern": r"\.ya?ml$",
    }
    del experiment["required"]
    experiment["anyOf"] = [{"required": ["name"]}, {"required": ["extends"]}]
    for section in SECTIONS:
        definitions["Stage"]["properties"][section] = definitions["TrialSpec"]["properties"][section]


def _fit_suite(definitions: Schema) -> None:
    levels = {path: {"type": "array", "minItems": 1, "items": _level(definitions, path)} for path in SPEC_PATHS}
    _fit_common(definitions["Suite"]["properties"], levels)


def _fit_common(properties: Schema, levels: Schema) -> None:
    """Adapt, in place, `base`, `tune` and `seeds`, which experiments and suites write alike."""
    properties["base"] = _ref("TrialSpec")
    grid = {key: _ref("Tune", "properties", key) for key in ("by", "metric", "first", "alpha", "seeds", "extend")}
    paths = {"description": "The tuned paths, in place of writing them here", "type": "object"}
    properties["tune"] = {
        "description": "The grid, searched alike in every arm: a race, or (`seeds`) tuning seeds of its own",
        **_by_path({**levels, "grid": paths, **grid}, {"type": "array"}),
    }
    chosen = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": LAST_SEED}}
    properties["seeds"] = {
        "description": "Reporting seeds: how many, which, or the looks at which verdicts may be drawn",
        "anyOf": [{"type": "integer", "minimum": 1}, chosen, _ref("Seeds")],
    }


def _by_path(properties: Schema, in_stage: Schema | None) -> Schema:
    """An object with these keys only; `in_stage` is the schema of a path that starts with a stage's name."""
    inside = {rf"^[A-Za-z0-9][A-Za-z0-9_-]*\.(enabled$|({'|'.join(SECTIONS)})\.)": in_stage}
    pattern = {} if in_stage is None else {"patternProperties": inside}
    return {"type": "object", "properties": properties, **pattern, "additionalProperties": False}


def _level(definitions: Schema, path: str) -> Schema:
    """The schema of a spec path, as a pointer into the schema of TrialSpec."""
    name = "TrialSpec"
    *parents, last = path.split(".")
    for parent in parents:
        name = definitions[name]["properties"][parent]["$ref"].rpartition("/")[2]
    pointer = _ref(name, "properties", last)
    return (
        {"anyOf": [pointer, {"type": "string", "pattern": r"^total_of\(.+\)$"}]}
        if path == "train.train_flops"
        else pointer
    )
