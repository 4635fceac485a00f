"""Rows that the index calls checked are those that a full check passes: a change of a row or of a record is found."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_plans import best, experiment

from vitbench.base.errors import ResultsError
from vitbench.bench.finished_trials import committed
from vitbench.data import DataOptions, facts
from vitbench.plan import sources
from vitbench.plan.rounds import expand
from vitbench.plan.run_table import rows, write_rows
from vitbench.plan.sources import checked_rows, contradictions
from vitbench.plan.trials import Builder
from vitbench.store.index import INDEX_FILE
from vitbench.store.rows import read_records
from vitbench.store.trials import Store

NUM_SEEDS = 8
TICK_SECONDS = 0.02


pytestmark = pytest.mark.usefixtures("everything_is_indexed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with committed trials and their rows."""
    made = experiment(f"arms:\n  a: {{train.lr: 1e-3}}\n  b: {{train.lr: 2e-3}}\nseeds: {NUM_SEEDS}\n")
    plan = expand(Builder(made, lambda name: facts(name, DataOptions())), {}, best)
    records = {trial.trial_id: committed(trial, number) for number, trial in enumerate(plan.trials)}
    for trial_id, record in records.items():
        place = tmp_path / "trials" / trial_id
        place.mkdir(parents=True)
        (place / "record.json").write_text(record.model_dump_json(exclude_none=True))
    write_rows(tmp_path / "run", rows(plan, records))
    return tmp_path / "run"


def fully(folder: Path) -> list[dict[str, Any]] | str:
    """The rows after a full check, or the first problem."""
    Store._read.clear()
    try:
        out = read_records(folder / "records.jsonl")
        problems = list(contradictions(folder, out))
    except ResultsError as error:
        return str(error)
    return problems[0] if problems else out


def quickly(folder: Path) -> list[dict[str, Any]] | str:
    """The rows by way of the index, or the first problem."""
    try:
        return checked_rows(folder)
    except ResultsError as error:
        return str(error).partition("; ")[0] if "differ" not in str(error) else str(error).split(";")[0]


def edit_row(folder: Path, draw: random.Random) -> None:
    path = folder / "records.jsonl"
    lines = path.read_text().splitlines()
    place = draw.randrange(len(lines))
    row = json.loads(lines[place])
    change = draw.choice(["score", "seed", "status", "torn"])
    if change == "score":
        row["result"]["val_top1_percent"] = 1.0
    elif change == "seed":
        row["seed"] += 100
    elif change == "status":
        row["status"] = "diverged"
    lines[place] = json.dumps(row, sort_keys=True, separators=(",", ":")) if change != "torn" else lines[place][:-9]
    path.write_text("".join(line + "\n" for line in lines))


def edit_record(folder: Path, draw: random.Random) -> None:
    path = draw.choice(sorted((folder.parent / "trials").glob("*/record.json")))
    change = draw.choice(["score", "remove", "cut"])
    if change == "remove":
        path.unlink()
    else:
        text = path.read_text()
        path.write_text(text.replace('"test_loss":1.0', '"test_loss":2.0') if change == "score" else text[:-9])


@pytest.mark.parametrize("seed", range(3))
def test_a_change_is_found_as_by_a_full_check(folder: Path, seed: int) -> None:
    draw = random.Random(seed)
    saved = {path: path.read_bytes() for path in folder.parent.rglob("*.json*")}
    for number in range(8):
        assert quickly(folder) == fully(folder) == quickly(folder)
        time.sleep(TICK_SECONDS)
        if number % 2:
            for path, content in saved.items():
                path.write_bytes(content)
        else:
            draw.choice([edit_row, edit_record])(folder, draw)


def test_rows_that_were_checked_are_not_checked_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = checked_rows(folder)

    def refuse(*_: object) -> Iterator[str]:
        raise AssertionError("checked again")

    monkeypatch.setattr(sources, "_identity", refuse)
    assert checked_rows(folder) == first
    monkeypatch.setattr(sources, "_checks", lambda: "other code")
    with pytest.raises(AssertionError, match="checked again"):
        checked_rows(folder)


def test_a_record_that_was_absent_is_held_against_its_row(folder: Path) -> None:
    """Rows without their trials are checked too; a trial that comes back is compared."""
    path = sorted((folder.parent / "trials").glob("*/record.json"))[0]
    content = path.read_text()
    path.unlink()
    checked_rows(folder)
    path.write_text(content.replace('"test_loss":1.0', '"test_loss":2.0'))
    with pytest.raises(ResultsError, match="differs from its committed record"):
        checked_rows(folder)


def test_a_root_without_trials_gets_no_index(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "run"
    moved.parent.mkdir()
    folder.rename(moved)
    assert checked_rows(moved)
    assert not (moved.parent / "trials").exists()
    assert not list(moved.parent.rglob(INDEX_FILE))
