"""Whatever lies where records should: a Record or rows, or one ResultsError; and what passes can be reported.

690 cases in about 4 s.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fuzz_profile import cases
from hypothesis import given
from hypothesis import strategies as st

from vitbench.base.errors import ResultsError, VitbenchError
from vitbench.report.formats import to_csv, to_latex, to_markdown
from vitbench.report.tables import result_frame, tables_for
from vitbench.report.verdict_text import facts_of
from vitbench.spec.experiment import Experiment
from vitbench.spec.load import load
from vitbench.stats.verdict_list import judge_all
from vitbench.store.record import Record, Result, Run
from vitbench.store.rows import read_records
from vitbench.store.trials import Store

ID = "0123456789abcdef"
VALID = Record(
    trial_id=ID, status="ok", seed=0, data_fingerprint="f" * 64, spec={"train": {"lr": 1e-3}},
    result=Result(test_top1_percent=50.0, metrics={"knn_percent": 3.0}), run=Run(),
).model_dump_json().encode()  # fmt: skip
REFERENCE = Path(__file__).parents[2] / "results" / "tier1-digits" / "class_token_vs_gap"

edits = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 3), st.binary(max_size=4)), min_size=1, max_size=3)
scalars = st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats() | st.sampled_from(["", "ok", "a", "\x1b[2J"])
trees = st.recursive(scalars, lambda t: st.lists(t, max_size=3) | st.dictionaries(st.text(max_size=4), t, max_size=3))


def mutated(content: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for where, length, new in changes:
        start = where % (len(content) + 1)
        content = content[:start] + new + content[start + length :]
    return content


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store(tmp_path_factory.mktemp("records"))
    made.folder(ID).mkdir(parents=True)
    return made


def read(store: Store, content: bytes) -> Record | None:
    """The record, or None where it is refused in one line; any other exception fails the test."""
    (store.folder(ID) / "record.json").write_bytes(content)
    try:
        found = store.read(ID)
    except ResultsError as error:
        said = str(error)
    else:
        assert found is not None
        json.dumps(found.model_dump(mode="json"), allow_nan=False)
        return found
    assert "\n" not in said
    assert "record.json: " in said
    return None


def test_the_valid_record_is_read(store: Store) -> None:
    assert read(store, VALID) is not None


@pytest.mark.slow
@cases(200)
@given(content=st.binary(max_size=60) | trees.map(lambda tree: json.dumps(tree).encode()))
def test_any_bytes_and_any_json(store: Store, content: bytes) -> None:
    assert read(store, content) is None


@cases(250)
@given(changes=edits)
def test_any_mutation_of_a_record(store: Store, changes: list[tuple[int, int, bytes]]) -> None:
    read(store, mutated(VALID, changes))


LINES = (REFERENCE / "records.jsonl").read_text().splitlines()
ROWS = [json.loads(line) for line in LINES]
SMALL = [row for row in ROWS if row["seed"] in (0, 1, 1000)]


def rows_of(path: Path, content: bytes) -> list[dict[str, Any]] | None:
    """The rows, or None where they are refused in one line."""
    path.write_bytes(content)
    try:
        return read_records(path)
    except ResultsError as error:
        said = str(error)
    assert "\n" not in said
    assert str(path) in said
    return None


@cases(200)
@given(changes=edits)
def test_any_mutation_of_the_rows(store: Store, changes: list[tuple[int, int, bytes]]) -> None:
    rows_of(store.root / "records.jsonl", mutated("\n".join(LINES[:3]).encode(), changes))


def report(experiment: Experiment, rows: list[dict[str, Any]], folder: Path) -> str:
    """All that `report` says in tables and verdicts."""
    verdicts = judge_all(experiment, rows, facts_of(rows, folder))
    tables = tables_for(experiment, rows)
    text = [
        *map(to_markdown, tables),
        *(to_latex(table, "t") for table in tables),
        to_csv(result_frame(experiment, rows)),
    ]
    return "\n".join([*text, *map(str, verdicts)])


places = st.sampled_from(sorted({(key,) for key in SMALL[0]} | {("result", key) for key in SMALL[0]["result"]}))
sources = st.sampled_from(ROWS)
absent = object()
changes_of_rows = st.lists(
    st.tuples(st.integers(0, len(SMALL) - 1), places, trees | sources | sources | st.just(absent)),
    min_size=1,
    max_size=3,
)


def changed(rows: list[dict[str, Any]], number: int, path: tuple[str, ...], value: Any) -> None:
    """Put a value, or what another row has at that place, or nothing."""
    inside = rows[number]
    for key in path[:-1]:
        if not isinstance(inside.get(key), dict):
            return
        inside, value = inside[key], value[key] if value in ROWS else value
    if value is absent:
        inside.pop(path[-1], None)
    else:
        inside[path[-1]] = value[path[-1]] if isinstance(value, dict) and path[-1] in value else value


@pytest.mark.slow
@cases(40)
@given(changes=changes_of_rows)
def test_rows_that_pass_can_be_reported(store: Store, changes: list[tuple[int, tuple[str, ...], Any]]) -> None:
    rows = json.loads(json.dumps(SMALL))
    for number, path, value in changes:
        changed(rows, number, path, value)
    found = rows_of(store.root / "records.jsonl", "\n".join(map(json.dumps, rows)).encode())
    if not found:
        return
    experiment = load(REFERENCE / "experiment.yaml")
    assert isinstance(experiment, Experiment)
    try:
        text = report(experiment, found, store.root)
    except VitbenchError as error:
        text = str(error)
    assert "nan" not in text.lower().replace("finance", "")
    assert "\x1b" not in text
