"""The JSON Schema against the loader: what one accepts the other accepts, and planted mistakes fail in both. Under 1 s.

`problems` is a checker of our own for the part of JSON Schema that the schema uses (a word that it does not know is an
error), so that no further package is needed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from sample_files import SAMPLE, STAGED

from vitbench.base.errors import InputError
from vitbench.spec.json_schema import schema
from vitbench.spec.load import available, loads
from vitbench.spec.paths import SPEC_PATHS
from vitbench.spec.yaml import read, read_text

SCHEMA = schema()
NOTES = {"title", "description", "default", "$schema", "$defs"}
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


def problems(value: Any, rules: Any, at: str = "") -> list[str]:
    """What is wrong with `value` under a schema."""
    if isinstance(rules, bool):
        return [] if rules else [f"{at}: not allowed"]
    if "$ref" in rules:
        return problems(value, _target(rules["$ref"]), at)
    out = []
    for word in rules.keys() - NOTES - {"then", "else", "patternProperties", "additionalProperties"}:
        out += _problems_of(word, value, rules, at)
    if isinstance(value, dict):
        out += _properties(value, rules, at)
    return out


def _target(pointer: str) -> Any:
    found: Any = SCHEMA
    for part in pointer.removeprefix("#/").split("/"):
        found = found[part]
    return found


def _problems_of(word: str, value: Any, rules: Any, at: str) -> list[str]:
    rule = rules[word]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    match word:
        case "type":
            fits = isinstance(value, TYPES[rule]) and (rule == "boolean" or not isinstance(value, bool))
        case "enum":
            fits = value in rule
        case "const":
            fits = value == rule
        case "pattern":
            fits = not isinstance(value, str) or re.search(rule, value) is not None
        case "minimum":
            fits = not is_number or value >= rule
        case "maximum":
            fits = not is_number or value <= rule
        case "exclusiveMinimum":
            fits = not is_number or value > rule
        case "exclusiveMaximum":
            fits = not is_number or value < rule
        case "minItems":
            fits = not isinstance(value, list) or len(value) >= rule
        case "minProperties":
            fits = not isinstance(value, dict) or len(value) >= rule
        case "maxProperties":
            fits = not isinstance(value, dict) or len(value) <= rule
        case "required":
            fits = not isinstance(value, dict) or all(key in value for key in rule)
        case "anyOf":
            fits = any(not problems(value, branch) for branch in rule)
        case "propertyNames":
            fits = not isinstance(value, dict) or all(not problems(key, rule) for key in value)
        case "items":
            return [
                p
                for i, item in enumerate(value if isinstance(value, list) else [])
                for p in problems(item, rule, f"{at}[{i}]")
            ]
        case "if":
            return problems(value, rules["else" if problems(value, rule) else "then"], at)
        case "properties":
            return []
        case _:
            raise AssertionError(f"the checker does not know {word}")
    return [] if fits else [f"{at}: {word}"]


def _properties(value: dict[str, Any], rules: Any, at: str) -> list[str]:
    out = []
    for key, item in value.items():
        inside = [rules["properties"][key]] if key in rules.get("properties", {}) else []
        inside += [rule for pattern, rule in rules.get("patternProperties", {}).items() if re.search(pattern, key)]
        for rule in inside or [rules.get("additionalProperties", True)]:
            out += problems(item, rule, f"{at}.{key}".removeprefix("."))
    return out


def _schema_problems(text: str) -> list[str]:
    return problems(read(text, "f").value, SCHEMA)


ACCEPTED = [
    SAMPLE,
    STAGED,
    "name: x",
    "name: x\nseeds: [0, 3]\nbudget: {train_flops: 1e14}",
    "name: x\narms: {a: {model.name: Mu/2, train.train_flops: total_of(b)}, b: {}}\nexclude: [{arm: a}]",
    "name: x\nsuite: []\nbase: {train: {epochs: 1}}\nseeds: 3",
    "name: x\nfactors: {model.layers: [[3, 4, 6, 3], null]}",
]


@pytest.mark.parametrize("text", ACCEPTED, ids=range(len(ACCEPTED)))
def test_what_loads_fits_the_schema(text: str) -> None:
    loads(text, "f.yaml")
    assert _schema_problems(text) == []


def test_every_shipped_file_fits_the_schema() -> None:
    for path in available().values():
        assert _schema_problems(read_text(path)) == [], path


REFUSED = [
    ("name: class_token_vs_gap", "name: a/b", "name: pattern"),
    ("name: class_token_vs_gap", "nam: x", ": anyOf"),
    ("question", "Question", "Question: not allowed"),
    ("epochs: 20", "epoch: 20", "base.train.epoch: not allowed"),
    ("epochs: 20", "epochs: fast", "base.train.epochs: anyOf"),
    ("epochs: 20", "batchsize: 20", "base.train.batchsize: not allowed"),
    ("batch_size: 64", "batch_size: 6.4", "base.train.batch_size: type"),
    ("val_fraction: 0.15", "val_fraction: 1", "base.data.val_fraction: exclusiveMaximum"),
    ("model.global_pool", "model.global_pol", "factors.model.global_pol: not allowed"),
    ("[token, avg]\n", "[]\n", "factors.model.global_pool: minItems"),
    ("[1e-3, 2e-3", "[-1, 2e-3", "tune.train.lr[0]: exclusiveMinimum"),
    ("  seeds: 3", "  seeds: 0", "tune.seeds: exclusiveMinimum"),
    ("  seeds: 3", "  sedes: 3", "tune.sedes: not allowed"),
    ("{looks: [5, 8, 12, 20]}", "five", "seeds: anyOf"),
    ("form: equivalence", "form: equal", "claims[0].form: enum"),
]


@pytest.mark.parametrize(("old", "new", "problem"), REFUSED)
def test_planted_mistakes_fail_in_both(old: str, new: str, problem: str) -> None:
    text = SAMPLE.replace(old, new, 1)
    assert text != SAMPLE
    assert problem in _schema_problems(text)
    with pytest.raises(InputError):
        loads(text, "f.yaml")


def test_every_spec_path_is_offered_as_factor_arm_and_grid() -> None:
    experiment = SCHEMA["$defs"]["Experiment"]["properties"]
    for offered in (experiment["factors"], experiment["tune"], experiment["arms"]["additionalProperties"]):
        assert set(SPEC_PATHS) <= set(offered["properties"])


def test_the_committed_schema_is_the_packages() -> None:
    """Editors read the committed file; `vitbench schema > schema.json` writes it."""
    committed = (Path(__file__).parents[2] / "schema.json").read_text(encoding="utf-8")
    assert json.loads(committed) == json.loads(json.dumps(SCHEMA, allow_nan=False))
