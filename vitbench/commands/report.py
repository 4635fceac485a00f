"""`vitbench report` and `vitbench verdict`: from committed records alone, no training and no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from vitbench.collect import Row
from vitbench.commands.prepare import read_run, runs_named
from vitbench.errors import InputError
from vitbench.experiment import Experiment
from vitbench.store import read_lines


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run folder. Raises InputError where there are none."""
    path = folder / "records.jsonl"
    if not path.is_file():
        raise InputError(f"{folder}: no records.jsonl; run the experiment first")
    return read_lines(path)


def report(names: Sequence[str], root: Path, console: Console) -> int:
    """Write tables, plots and pages of the named runs (all of the root's without names), and print the tables."""
    from vitbench.report.page import report as write_report
    from vitbench.report.page import scoreboard

    folders = runs_named(root, names)
    for folder in folders:
        experiment, found = read_run(folder), read_rows(folder)
        if not found:
            console.print(f"{folder.name}: no finished trials yet")
            continue
        write_report(experiment, found, folder)
        show_tables(experiment, found, console)
        console.print(f"Tables, plots and page: {folder}", soft_wrap=True)
    scoreboard(root, folders)
    return 0


def show_tables(experiment: Experiment, found: Sequence[Row], console: Console, *, quiet: bool = False) -> None:
    """Print the tables of an experiment."""
    from vitbench.report.formats import to_rich
    from vitbench.report.tables import tables_for

    if not found:
        console.print(f"{experiment.name}: no finished trials")
        return
    if not quiet and experiment.question:
        console.print(f"\n[bold]{experiment.name}[/]: {experiment.question}", highlight=False)
    for table in tables_for(experiment, found):
        console.print(to_rich(table, console.width))
