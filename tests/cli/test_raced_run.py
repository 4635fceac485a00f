"""One small race by the real commands: an edit after its first trial is visible everywhere, and `inspect` serves it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from vitbench.cli.commands.prepare import ExperimentRequest, data_options, read_run
from vitbench.cli.commands.run import RunOptions, run
from vitbench.report.tables import tuning_table
from vitbench.store.answers import read_answers
from vitbench.store.rows import read_rows

RACE = """
name: raced
base:
  data: {name: fake, val_fraction: 0.2}
  model: {patch_size: 4, embed_dim: 16, depth: 2, num_heads: 2, mlp_ratio: 2.0}
  train: {steps: 12, batch_size: 16}
factors: {model.pos_embed: [learned_1d, none]}
tune: {grid: {train.lr: [4e-3, 8e-3]}, by: race, extend: 0}
seeds: 3
claims:
  - id: T-1
    statement: They are equal.
    form: equivalence
    arms: [none, learned_1d]
    margin_points: 99.0
    seeds_min: 3
  - id: T-2
    form: difference
    arms: [none, learned_1d]
    metric: attention_distance_last_percent
    above_points: -500.0
    seeds_min: 3
"""
EDIT = "exploratory: margin changed after the first trial: was 99, is 90"
Cli = Callable[..., Any]


def write(folder: Path, text: str) -> Path:
    path = folder / "raced.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def raced_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results root with the race, run to its end; read it only."""
    folder = tmp_path_factory.mktemp("raced")
    options = RunOptions(folder / "results", data_options(None, False), jobs=1, quiet=True)
    assert run(ExperimentRequest(str(write(folder, RACE))), options, Console(quiet=True)) == 0
    return folder / "results"


@pytest.fixture(scope="module")
def edited_root(raced_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same root after the margin was edited and the command was given again, with its report; read it only."""
    folder = tmp_path_factory.mktemp("edited")
    root = shutil.copytree(raced_root, folder / "results")
    options = RunOptions(root, data_options(None, False), jobs=1, quiet=True)
    edited = write(folder, RACE.replace("margin_points: 99.0", "margin_points: 90.0"))
    out = io.StringIO()
    assert run(ExperimentRequest(str(edited)), options, Console(file=out, width=200)) == 0
    return root


def test_before_an_edit_nothing_is_exploratory(cli: Cli, raced_root: Path) -> None:
    assert "T-1 supported: " in cli("verdict", "--results", raced_root).out
    assert "exploratory" not in cli("verdict", "--results", raced_root).out
    assert "sealed" not in cli("doctor", "--results", raced_root).out


def test_the_verdict_names_the_edit(cli: Cli, edited_root: Path) -> None:
    said = cli("verdict", "--results", edited_root).out
    assert "T-1 supported, exploratory: " in said
    assert EDIT in said
    (first, *_) = json.loads(cli("verdict", "--results", edited_root, "--json").out)
    assert EDIT in first["notes"]


def test_an_exploratory_verdict_meets_no_expectation(cli: Cli, edited_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(edited_root, tmp_path / "results")
    file = root / "raced" / "experiment.yaml"
    file.write_text(
        file.read_text().replace("statement: They are equal.", "statement: They are equal.\n  expect: supported")
    )
    assert cli("verdict", "T-1", "--results", root, "--check").code == 4
    file.write_text(file.read_text().replace("margin_points: 90.0", "margin_points: 99.0"))
    assert cli("verdict", "T-1", "--results", root, "--check").code == 0


def test_page_tables_and_scoreboard_name_the_edit(cli: Cli, edited_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(edited_root, tmp_path / "results")
    assert cli("report", "--results", root).code == 0
    for file in (root / "raced" / "index.html", root / "index.html"):
        page = file.read_text()
        assert '>supported</span><br><span class="muted">exploratory</span>' in page
        assert EDIT in page
    assert "They are equal. (exploratory)" in (root / "index.html").read_text()
    assert "supported, exploratory" in (root / "raced" / "table.md").read_text()
    assert "supported, exploratory" in (root / "scoreboard.md").read_text()
    assert EDIT in (root / "scoreboard.csv").read_text()
    assert "supported," in (root / "scoreboard.svg").read_text()


def test_the_tuning_table_counts_the_seeds_of_a_race(raced_root: Path) -> None:
    folder = raced_root / "raced"
    made = read_run(folder)
    rows = read_rows(folder)
    table = tuning_table(made, rows)
    assert table is not None
    assert "over 3 seeds" in table.notes[0]
    late = [row for row in rows if not (row["setting"] == {"train.lr": 0.004} and row["seed"] == 2)]
    shorter = tuning_table(made, late)
    assert shorter is not None
    assert any("(n = 2)" in cell for row in shorter.rows for cell in row)


def test_doctor_names_the_edit(cli: Cli, edited_root: Path) -> None:
    said = " ".join(cli("doctor", "--results", edited_root).out.split())
    assert "raced, T-1: margin changed after the first trial: was 99, is 90" in said


def test_an_edited_grid_is_refused_and_a_new_name_does_not_hide_an_edit(
    cli: Cli, edited_root: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(edited_root, tmp_path / "results")
    refused = cli("run", write(tmp_path, RACE.replace("8e-3", "1.6e-2")), "--results", root, "-j", 1)
    assert refused.code == 5
    assert "holds results of another experiment" in refused.err
    renamed = write(tmp_path, RACE.replace("margin_points: 99.0", "margin_points: 90.0"))
    assert cli("run", renamed, "--results", root, "-j", 1, "--as", "again", "--quiet").code == 0
    said = cli("verdict", "--run", "again", "--results", root).out
    assert "exploratory: every trial was there before the claims were sealed" in said


@pytest.fixture
def copied_page(raced_root: Path, tmp_path: Path) -> Path:
    """The files of the race's page in a new root, without its trials."""
    shutil.copytree(raced_root / "raced", tmp_path / "results" / "raced")
    return tmp_path / "results"


def test_a_copied_page_goes_on_where_it_stopped(cli: Cli, raced_root: Path, copied_page: Path, tmp_path: Path) -> None:
    """Nothing trains again, and the run writes the same rows and answers."""
    said = cli("run", write(tmp_path, RACE), "--results", copied_page, "-j", 1)
    assert said.code == 0
    assert "raced: goes on from the 12 trials in its records.jsonl" in said.out
    for name in ("records.jsonl", "sealed.json"):
        assert (copied_page / "raced" / name).read_bytes() == (raced_root / "raced" / name).read_bytes()
    ours, theirs = (read_answers(root / "raced") for root in (copied_page, raced_root))
    assert ours is not None
    assert theirs is not None
    for trial, predicted in theirs.predicted.items():
        np.testing.assert_array_equal(ours.predicted[trial], predicted)
        np.testing.assert_array_equal(ours.confidence[trial], theirs.confidence[trial])


def test_a_copied_page_trains_only_what_is_torn_or_edited(cli: Cli, copied_page: Path, tmp_path: Path) -> None:
    path = copied_page / "raced" / "records.jsonl"
    whole = path.read_text()
    lines = whole.splitlines()
    lines[0], lines[1] = lines[0][:200], lines[1].replace('"seed":1', '"seed":2')
    path.write_text("".join(f"{line}\n" for line in lines))
    said = cli("run", write(tmp_path, RACE), "--results", copied_page, "-j", 1)
    assert said.code == 0
    assert "goes on from the 10 trials" in said.out
    now = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["result"] for row in now] == [json.loads(line)["result"] for line in whole.splitlines()]


def test_a_stopped_run_keeps_the_rows_of_a_copied_page(cli: Cli, copied_page: Path, tmp_path: Path) -> None:
    path = copied_page / "raced" / "records.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line}\n" for line in lines[:-3]))
    assert cli("run", write(tmp_path, RACE), "--results", copied_page, "-j", 1, "--limit", 1).code == 3
    kept, now = ([json.loads(line) for line in text] for text in (lines[:-3], path.read_text().splitlines()))
    results = {row["trial_id"]: row["result"] for row in now}
    assert len(now) == len(kept) + 1
    assert [results[row["trial_id"]] for row in kept] == [row["result"] for row in kept]


def test_inspect_measures_every_setting_that_a_claim_may_need(cli: Cli, raced_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(raced_root, tmp_path / "results")
    assert "no trial has the metric" in cli("verdict", "T-2", "--results", root).out
    said = cli("inspect", "raced", "--what", "distance", "--limit", 4, "--results", root).out
    assert "none, seed 0, train.lr 0.00" in said
    lines = [json.loads(line) for line in (root / "raced" / "analysis.jsonl").read_text().splitlines()]
    assert len({line["trial_id"] for line in lines}) == 12
    assert "T-2 supported: " in cli("verdict", "T-2", "--results", root).out
