"""Every number is held against its source: an edit of a committed result is refused, a circumstance is reported."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli

from vitbench.base.errors import ResultsError
from vitbench.plan.sources import cautions, checked_rows, contradictions, record_contradictions
from vitbench.store.answers import predictions_sha256
from vitbench.store.record import Record
from vitbench.store.rows import read_records
from vitbench.store.trials import Store

RESULTS = Path(__file__).parents[2] / "results"
REFERENCE = RESULTS / "tier1-digits" / "patch_size"
Row = dict[str, Any]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(REFERENCE, tmp_path / "results" / "patch_size"))


def rows_of(run: Path) -> list[Row]:
    return [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]


def write(run: Path, rows: list[Row]) -> None:
    (run / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def a_reporting_row(rows: list[Row]) -> Row:
    return next(row for row in rows if row["role"] == "reporting" and row["status"] == "ok")


def test_every_committed_result_agrees_with_its_sources() -> None:
    count = 0
    for path in sorted(RESULTS.glob("*/*/records.jsonl")):
        rows = read_records(path)
        assert list(contradictions(path.parent, rows)) == []
        assert list(cautions(rows)) == []
        count += len(rows)
    assert count > 2000


def accuracy(row: Row, rows: list[Row]) -> None:
    row["result"]["test_top1_percent"] += 0.1


def seed(row: Row, rows: list[Row]) -> None:
    row["seed"] = 99


def setting(row: Row, rows: list[Row]) -> None:
    row["spec"]["train"]["lr"] = 0.123


def label(row: Row, rows: list[Row]) -> None:
    """Two arms exchange one trial."""
    other = next(r for r in rows if (r["role"], r["seed"]) == (row["role"], row["seed"]) and r["arm"] != row["arm"])
    for key in ("arm", "levels", "setting", "chosen"):
        row[key], other[key] = other[key], row[key]


def arm(row: Row, rows: list[Row]) -> None:
    """The same, by name only."""
    other = next(r for r in rows if (r["role"], r["seed"]) == (row["role"], row["seed"]) and r["arm"] != row["arm"])
    row["arm"], other["arm"] = other["arm"], row["arm"]


def identity(row: Row, rows: list[Row]) -> None:
    row["trial_id"] = "0" * 16


def invalid(row: Row, rows: list[Row]) -> None:
    row["spec"]["model"]["embed_dim"] = "wide"


def answers_hash(row: Row, rows: list[Row]) -> None:
    row["result"]["predictions_sha256"] = "0" * 64


def num_images(row: Row, rows: list[Row]) -> None:
    row["result"]["num_test_images"] = 10


EDITS: dict[Callable[[Row, list[Row]], None], str] = {
    accuracy: "its stored answers give",
    seed: "has another spec, seed or data than its id says",
    setting: "has another spec, seed or data than its id says",
    label: "its spec says",
    arm: "its levels are",
    identity: "has another spec, seed or data than its id says",
    invalid: "has an invalid spec",
    answers_hash: "predictions_sha256",
    num_images: "num_test_images",
}


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edited_row_is_refused(edit: Callable[[Row, list[Row]], None], run: Path) -> None:
    rows = rows_of(run)
    edit(a_reporting_row(rows), rows)
    write(run, rows)
    with pytest.raises(ResultsError, match=EDITS[edit]) as error:
        checked_rows(run)
    assert error.value.exit_code == 5
    assert "\n" not in str(error.value)


def test_any_edit_of_any_accuracy_is_refused(run: Path) -> None:
    """40 seeded edits; one in a hundred thousand of a point is enough."""
    draw, whole = random.Random(0), rows_of(run)
    reporting = [i for i, row in enumerate(whole) if row["role"] == "reporting" and row["status"] == "ok"]
    refused = 0
    for _ in range(40):
        rows = json.loads(json.dumps(whole))
        result = rows[draw.choice(reporting)]["result"]
        result["test_top1_percent"] = abs(result["test_top1_percent"] - draw.choice([1e-5, 0.27, 1.0, 5.0, 50.0]))
        refused += len(list(contradictions(run, rows))) == 1
    assert refused == 40


def test_edited_answers_are_refused(run: Path) -> None:
    with np.load(run / "predictions.npz", allow_pickle=False) as stored:
        parts = {key: stored[key] for key in stored.files}
    parts["predicted"] = parts["predicted"].copy()
    parts["predicted"][0, 0] = (parts["predicted"][0, 0] + 1) % 10
    np.savez_compressed(run / "predictions.npz", **parts)
    with pytest.raises(ResultsError, match="stored answers"):
        checked_rows(run)


def test_every_command_that_judges_refuses(run: Path, cli: Cli) -> None:
    rows = rows_of(run)
    accuracy(a_reporting_row(rows), rows)
    write(run, rows)
    before = (run / "table.md").read_bytes()
    for words in (["verdict"], ["report", "--format", "md"], ["report", "--check"]):
        answer = cli(*words, "--results", run.parent)
        assert answer.code == 5, words
        assert "its stored answers give" in answer.err
    assert (run / "table.md").read_bytes() == before
    answer = cli("doctor", "--results", run.parent)
    assert answer.code == 5
    assert "contradiction: " in answer.out


def committed(run: Path, row: Row) -> Store:
    """The trial of a row as its record stands on the disk; its curve has more digits than the row's."""
    store = Store(run.parent)
    keys = ("trial_id", "status", "seed", "parent", "data_fingerprint", "spec", "result", "run")
    record = Record.model_validate({key: row[key] for key in keys})
    store.commit(record, store.begin_attempt(record.trial_id), {})
    return store


def test_a_row_repeats_its_record(run: Path) -> None:
    rows = rows_of(run)
    row = a_reporting_row(rows)
    store = committed(run, row)
    assert list(contradictions(run, rows)) == []
    row["result"]["val_top1_percent"] = 1.0
    (problem,) = contradictions(run, rows)
    assert "differs from its committed record" in problem
    record = store.read(row["trial_id"])
    assert record is not None
    assert list(record_contradictions(record, store)) == []


def test_a_record_is_held_against_its_own_answers(run: Path, cli: Cli) -> None:
    row = a_reporting_row(rows_of(run))
    count, right = row["result"]["num_test_images"], row["result"]["test_top1_percent"]
    labels = np.zeros(count, np.uint8)
    predicted = np.ones(count, np.uint8)
    predicted[: round(count * right / 100)] = 0
    row["result"]["predictions_sha256"] = predictions_sha256(predicted)
    store = committed(run, row)
    path = store.folder(row["trial_id"]) / "predictions.npz"
    np.savez_compressed(path, index=np.arange(count), label=labels, predicted=predicted, confidence=labels + 1.0)
    record = store.read(row["trial_id"])
    assert record is not None
    assert list(record_contradictions(record, store)) == []
    file = store.folder(row["trial_id"]) / "record.json"
    text = file.read_text()
    file.write_text(text.replace(f'"test_top1_percent": {right}', '"test_top1_percent": 99.5'))
    answer = cli("doctor", "--results", run.parent)
    assert answer.code == 5
    assert "has test_top1_percent 99.5, its stored answers give" in answer.out


def test_two_results_of_one_trial_are_a_conflict(run: Path) -> None:
    rows = rows_of(run)
    row = a_reporting_row(rows)
    twin = json.loads(json.dumps(row))
    twin["arm"] = "another arm of the same trial"
    write(run, [*rows, twin])
    assert len(read_records(run / "records.jsonl")) == len(rows) + 1, "one trial may be a cell of two arms"
    twin["result"]["test_loss"] = 0.5
    write(run, [*rows, twin])
    with pytest.raises(ResultsError, match=f"conflict, trial {row['trial_id']} has another result"):
        read_records(run / "records.jsonl")


def test_equal_weights_under_two_seeds_are_reported(run: Path, cli: Cli) -> None:
    rows = rows_of(run)
    first, second = [r for r in rows if r["role"] == "reporting" and r["arm"] == a_reporting_row(rows)["arm"]][:2]
    second["result"]["weights_sha256"] = first["result"]["weights_sha256"]
    (line,) = cautions(rows)
    assert line.startswith("trials with different seeds ended with equal weights: ")
    write(run, rows)
    answer = cli("verdict", "--results", run.parent)
    assert answer.code == 0
    assert "caution: patch_size: trials with different seeds" in answer.err


@pytest.mark.parametrize("key", ["device", "torch"])
def test_an_arm_confounded_with_a_machine_is_reported(key: str) -> None:
    rows = rows_of(REFERENCE)
    arm = a_reporting_row(rows)["arm"]
    for row in rows:
        if row["arm"] == arm:
            row["run"]["versions" if key == "torch" else key] = {"torch": "2.11.0"} if key == "torch" else "cuda:0 (X)"
    lines = list(cautions(rows))
    assert lines
    assert all("confounded" in line for line in lines)
    same = [{**row, "run": rows[0]["run"]} for row in rows]
    assert list(cautions(same)) == []


def test_rows_of_another_version_are_reported(run: Path) -> None:
    rows = [{**row, "algorithm_version": 7} for row in rows_of(run)]
    assert any("made by algorithm version 7" in line for line in cautions(rows))
    assert list(contradictions(run, rows)) == [], "their ids are of another code"
