"""`vitbench report` as it is typed: which formats are written, what is printed, which page is opened."""

from __future__ import annotations

import shutil
import webbrowser
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from golden_report import GOLDEN
from sample_rows import position_experiment, position_rows, store_run

TABLES = {"table.md", "table.csv", "table.tex"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "results/class_token_vs_gap"
    folder.mkdir(parents=True)
    for name in ("experiment.yaml", "records.jsonl"):
        (folder / name).write_bytes((GOLDEN / "class_token_vs_gap" / name).read_bytes())
    return tmp_path / "results"


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix in (".md", ".csv", ".tex", ".html", ".svg", ".png")}


@pytest.mark.slow
@pytest.mark.parametrize("formats", ["md", "csv,tex", "html"])
def test_only_the_formats_asked_for_are_written(cli: Cli, root: Path, formats: str) -> None:
    answer = cli("report", "--results", str(root), "--format", formats)
    assert answer.code == 0, answer.out
    wanted = set(formats.split(","))
    assert files(root / "class_token_vs_gap") == {
        {"md": "table.md", "csv": "table.csv", "tex": "table.tex", "html": "index.html"}[name] for name in wanted
    }
    page = {"index.html", "scoreboard.svg", "scoreboard.png"} if "html" in wanted else set()
    assert files(root) == page | {f"scoreboard.{name}" for name in wanted - {"html"}}
    assert (root / "class_token_vs_gap/plots").is_dir() == ("html" in wanted)


def test_a_format_that_does_not_exist_is_one_line(cli: Cli, root: Path) -> None:
    answer = cli("report", "--results", str(root), "--format", "md,hmtl")
    assert answer.code == 2
    assert "no format 'hmtl'" in answer.err
    assert "html" in answer.err
    assert len(answer.err.splitlines()) == 1


def test_the_terminal_shows_verdicts_both_readings_and_side_evidence(cli: Cli, root: Path) -> None:
    out = cli("report", "--results", str(root), "--format", "md").out
    titles = ("Verdicts", "each arm at its own best", "own best beside a shared setting", "how the arms were tuned")
    places = [out.index(title) for title in (*titles, "secondary evidence", "Scoreboard")]
    assert places == sorted(places)
    assert "+0.97 (90%: +0.00 to +1.94)" in out


@pytest.mark.slow
def test_runs_written_side_by_side_are_those_written_alone(cli: Cli, root: Path, tmp_path: Path) -> None:
    store_run(root, position_experiment(), position_rows())
    both = cli("report", "--results", str(root))
    alone = {path: path.read_bytes() for path in root.rglob("*.*") if path.is_file()}
    one = cli("report", "class_token_vs_gap", "--results", str(root))
    two = cli("report", "position_encoding", "--results", str(root))
    assert (both.code, one.code, two.code) == (0, 0, 0)
    assert {path: path.read_bytes() for path in root.rglob("*.*") if path.is_file()} == alone
    assert both.out.index("class_token_vs_gap: each arm") < both.out.index("\nposition_encoding: ")


@pytest.mark.slow
def test_open_shows_the_scoreboard(cli: Cli, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    assert cli("report", "--results", str(root), "--format", "csv", "--open").code == 2
    assert cli("report", "--results", str(root), "--format", "html", "--open").code == 0
    assert opened == [(root / "index.html").as_uri()]


@pytest.mark.slow
@pytest.mark.parametrize("words", [("report",), ("report", "--check"), ("verdict",)])
def test_a_run_that_has_just_begun_keeps_nobody_from_the_others(cli: Cli, root: Path, words: tuple[str, ...]) -> None:
    assert cli("report", "--results", str(root)).code == 0
    begun = root / "begun"
    begun.mkdir()
    shutil.copy(root / "class_token_vs_gap" / "experiment.yaml", begun)
    answer = cli(*words, "--results", str(root))
    assert answer.code == 0, answer.err
    assert not list(begun.glob("table.*"))
