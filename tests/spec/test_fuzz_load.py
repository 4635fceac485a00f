"""Whatever a file or an option says: an Experiment, a Suite, or one InputError whose every line names the place.

1300 cases in about 4 s: 300 texts (each also below a name), 400 mutated files, 300 mappings, 100 trees, 200 options of
`--set`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from fuzz_profile import cases
from hypothesis import event, given
from hypothesis import strategies as st
from sample_files import SAMPLE, STAGED

from vitbench.base.errors import InputError
from vitbench.spec.experiment import Experiment, Suite
from vitbench.spec.load import loads, override
from vitbench.spec.paths import SPEC_PATHS
from vitbench.spec.yaml import dump, read

WORDS = re.findall(
    r"\S+",
    """avg token best_of(avg) grid total_of(a) equivalence difference ordering slope 1e-3 no ~ .nan - a.yaml .. Mu/2
    digits fake pretrain classify masked_patch adamw {x} %s é""",
)
WORDS += ["", "x" * 90, "a\nb"]
OWN_KEYS = re.findall(
    r"\S+",
    """name question base factors arms exclude stages tune seeds report claims differs suite extends budget grid looks
    num chosen id form enabled model train data evaluate metric also_at at paper parts above_points margin_points""",
)

scalars = st.none() | st.booleans() | st.integers(-3, 2000) | st.floats(allow_nan=False) | st.sampled_from(WORDS)
paths = st.sampled_from([*SPEC_PATHS, "arm", "pretrain.train.lr", "pretrain.enabled"])
keys = st.sampled_from([*OWN_KEYS, "epochs", "lr", "depth", "name"]) | paths | st.text(max_size=5)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=10
)
levels = st.dictionaries(paths, st.lists(scalars, max_size=3) | trees, max_size=2)
assignments = st.dictionaries(paths, scalars, max_size=3)
partial = st.dictionaries(
    st.sampled_from(["model", "data", "train", "evaluate", "name", "enabled"]),
    st.dictionaries(keys, trees, max_size=2) | st.just({"name": "digits"}) | scalars,
    max_size=3,
)
SECTIONS: dict[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from(["y", "a b", 3]),
    "base": partial,
    "factors": levels | trees,
    "arms": st.dictionaries(st.sampled_from(["a", "b", "a b", ""]), assignments | trees, max_size=2),
    "exclude": st.lists(assignments, max_size=2),
    "stages": st.lists(partial, max_size=2),
    "tune": levels | trees,
    "seeds": st.integers(-1, 1200) | st.lists(st.integers(-1, 1200), max_size=3) | trees,
    "report": st.fixed_dictionaries({}, optional={"metric": scalars, "also_at": levels}) | trees,
    "claims": st.lists(st.dictionaries(st.sampled_from(OWN_KEYS), trees, max_size=5), max_size=2),
    "suite": st.lists(st.sampled_from(WORDS), max_size=2),
    "extends": st.sampled_from(WORDS),
    "budget": st.dictionaries(st.sampled_from(["epochs", "steps", "hours"]), scalars, max_size=2) | scalars,
}
sound = st.sampled_from([*read(SAMPLE, "s").value.items(), *read(STAGED, "s").value.items(), ("budget", {"steps": 5})])
random = st.sampled_from(sorted(SECTIONS)).flatmap(lambda key: st.tuples(st.just(key), SECTIONS[key]))
mappings = st.lists(sound | random, max_size=3).map(lambda items: {"name": "x", **dict(items)})


def outcome(call: Callable[[], Any]) -> Any:
    """What the call gives, or its InputError; any other exception fails the test."""
    try:
        found = call()
    except InputError as error:
        event("refused")
        return error
    event("accepted")
    return found


def check(text: str) -> None:
    found = outcome(lambda: loads(text, "fuzz.yaml"))
    if isinstance(found, InputError):
        for line in str(found).split("\n"):
            assert line.startswith("fuzz.yaml:")
            assert len(line.splitlines()) == 1
    else:
        check_copy(found)


def check_copy(found: Any) -> None:
    """A run's own copy of its experiment says the same."""
    assert isinstance(found, (Experiment, Suite))
    assert loads(dump(found.model_dump(mode="json", exclude_defaults=True)), "again.yaml") == found


def test_the_check_can_fail() -> None:
    with pytest.raises(ZeroDivisionError):
        outcome(lambda: 1 / 0)
    with pytest.raises(AssertionError):
        check_copy({"name": "x"})
    with pytest.raises(AssertionError):  # a tuple comes back as a list
        check_copy(Experiment(name="x", base={"data": {"classes": (1, 2)}}))


@cases(300)
@given(st.text(max_size=80) | st.text(alphabet="ab:-[]{}#&*!|>'\"%@`,?\n\t 0\\", max_size=60))
def test_any_text(text: str) -> None:
    check(text)
    check("name: x\n" + text)


EDIT = st.tuples(st.floats(0, 1), st.integers(0, 6), st.sampled_from(WORDS) | st.text(max_size=4))


@pytest.mark.slow
@cases(400)
@given(base=st.sampled_from([SAMPLE, STAGED]), edits=st.lists(EDIT, max_size=2))
def test_any_mutation_of_a_valid_file(base: str, edits: list[tuple[float, int, str]]) -> None:
    for where, length, new in edits:
        start = int(where * len(base))
        base = base[:start] + new + base[start + length :]
    check(base)


@pytest.mark.slow
@cases(300)
@given(mappings)
def test_any_mapping(mapping: dict[str, Any]) -> None:
    check(json.dumps(mapping, ensure_ascii=False))


@cases(100)
@given(trees)
def test_any_tree_is_read_back_or_refused(tree: Any) -> None:
    found = outcome(lambda: read(dump(tree), "f").value)
    if isinstance(found, InputError):
        assert any(reason in str(found) for reason in ("a control character", "one line of text"))
    else:
        assert found == tree or "inf" in repr(tree)


STAGED_EXPERIMENT = loads(STAGED, "staged.yaml")
OPTIONS = [*SPEC_PATHS, "seeds", "tune.seeds", "report.metric", "pretrain.train.lr", "transfer.enabled"]
assigning = st.builds("{}={}".format, st.sampled_from(OPTIONS), st.sampled_from(WORDS) | scalars.map(json.dumps))


@cases(200)
@given(st.text(max_size=30) | assigning)
def test_any_set(text: str) -> None:
    assert isinstance(STAGED_EXPERIMENT, Experiment)
    found = outcome(lambda: override(STAGED_EXPERIMENT, data=None, seeds=None, sets=[text]))
    if isinstance(found, InputError):
        assert all(line.startswith("--set ") for line in str(found).split("\n"))
    else:
        check_copy(found)
