"""`vitbench report` and `compare`: from committed records only, without training and without torch."""

from __future__ import annotations

import multiprocessing
import stat
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from vitbench.base.contained import read
from vitbench.base.errors import InputError, nearest
from vitbench.cli.commands.prepare import read_run, started_runs
from vitbench.engines.options import num_cores
from vitbench.plan.arm_diff import flatten
from vitbench.plan.run_table import Row
from vitbench.plan.sources import cautions, checked_rows
from vitbench.spec.experiment import Experiment
from vitbench.spec.trial import TrialSpec
from vitbench.store.rows import read_records

if TYPE_CHECKING:
    from vitbench.data import DataOptions
    from vitbench.report.formats import Format
    from vitbench.report.pages.page import RunReport

CHECKED = ("table.md", "table.csv", "table.tex")
"""Files that `report --check` compares; plots and pages also depend on library versions."""


@dataclass(frozen=True)
class ReportOptions:
    """The options of `vitbench report`."""

    formats: str
    open: bool
    images: bool
    data: DataOptions


def report(names: Sequence[str], root: Path, console: Console, options: ReportOptions) -> int:
    """Write tables, plots and pages of the named runs (default: all runs of the root), and print the tables."""
    from vitbench.report.formats import to_rich
    from vitbench.report.scoreboard.board import scoreboard

    formats, judged = formats_of(options.formats), {}
    for folder, experiment, written, note in _reports(started_runs(root, names), formats, options):
        console.print(f"\n[bold]{escape(folder.name)}[/]: {escape(experiment.question)}", highlight=False)
        if written is None:
            console.print("no finished trials yet")
            continue
        judged[folder] = written.verdicts
        for table in written.tables:
            console.print(to_rich(table, console.width))
        for line in (note, f"Written: {folder}"):
            console.print(line, markup=False, highlight=False, soft_wrap=True, end="\n" if line else "")
    console.print(to_rich(scoreboard(root, started_runs(root, ()), formats, judged), console.width))
    page = root / "index.html"
    console.print(f"Scoreboard: {page}" if page.is_file() else f"Written: {root}", highlight=False, soft_wrap=True)
    if options.open:
        _open(page)
    return 0


def _reports(
    folders: Sequence[Path], formats: Sequence[Format], options: ReportOptions
) -> Iterator[tuple[Path, Experiment, RunReport | None, str]]:
    """(run, experiment, its report, a note) in the order of `folders`, written in parallel, one process per core."""
    from vitbench.report.scoreboard import board  # noqa: F401  # load it once, before the processes fork

    jobs = [(folder, tuple(formats), options) for folder in folders]
    if len(jobs) == 1 or multiprocessing.get_start_method() != "fork":
        yield from map(_write, jobs)
        return
    with ProcessPoolExecutor(min(len(jobs), num_cores()), multiprocessing.get_context("fork")) as pool:
        yield from pool.map(_write, jobs)


def _write(job: tuple[Path, tuple[Format, ...], ReportOptions]) -> tuple[Path, Experiment, RunReport | None, str]:
    """Write the report of one run; None instead of a report if the run has no trials."""
    from vitbench.report.pages.page import report as write_report
    from vitbench.report.run_pictures import add_samples

    folder, formats, options = job
    experiment, rows = read_run(folder), checked_rows(folder)
    if not rows:
        return folder, experiment, None, ""
    note = add_samples(folder, rows, options.data, options.images) if "html" in formats else ""
    note = "\n".join(filter(None, (note, *(f"caution: {line}" for line in cautions(rows)))))
    return folder, experiment, write_report(experiment, rows, folder, formats), note


def formats_of(text: str) -> tuple[Format, ...]:
    """The formats that a list such as `md,tex` names. Raises InputError."""
    from vitbench.report.formats import ALL

    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in ALL:
            raise InputError(f"--format {text}: no format {word!r}.{nearest(word, ALL)} Allowed: {', '.join(ALL)}")
    return tuple(name for name in ALL if name in words)


def _open(page: Path) -> None:
    """Open the page in the user's browser. Raises InputError if it does not exist."""
    import webbrowser

    if not page.is_file():
        raise InputError(f"{page}: this page does not exist; `vitbench report --format html` writes it")
    webbrowser.open(page.resolve().as_uri())


def check_tables(names: Sequence[str], root: Path, console: Console) -> int:
    """Rebuild the tables of every named run in a temporary folder and compare; return 4 if one differs."""
    from vitbench.report.pages.page import report as write_report

    stale, folders = [], started_runs(root, names)
    for folder in folders:
        with tempfile.TemporaryDirectory() as scratch:
            rebuilt = Path(scratch) / folder.name
            _copy_sources(folder, rebuilt)
            write_report(read_run(folder), checked_rows(folder), rebuilt, ("md", "csv", "tex"))
            stale += [f"{folder}: {name}" for name in CHECKED if not _equal(folder / name, rebuilt / name)]
    for line in stale:
        console.print(f"[red]table differs from its records:[/] {line}", soft_wrap=True)
    if not stale:
        console.print(f"{len(folders)} runs: every table agrees with its records")
    return 4 if stale else 0


def _copy_sources(run_folder: Path, target: Path) -> None:
    """Copy what a report is made of: the folder's regular files, tables apart, without their permissions.

    `shutil.copytree` would follow links, and a folder that may not be written would have a copy that may not either.
    """
    target.mkdir()
    for path in run_folder.iterdir():
        if not path.name.startswith("table.") and path.name != "index.html" and stat.S_ISREG(path.lstat().st_mode):
            (target / path.name).write_bytes(read(path))


def _equal(a: Path, b: Path) -> bool:
    return a.is_file() and b.is_file() and a.read_bytes() == b.read_bytes()


def compare(a: str, b: str, root: Path, metric: str, mixed: bool, console: Console) -> int:
    """Print A minus B, paired by seed. Each side is RUN:ARM, or a records file with an arm as FILE:ARM."""
    from vitbench.spec.metrics import metric_named
    from vitbench.stats.compare import compare_arms, single_run_note

    (first, second) = (_side(text, root) for text in (a, b))
    differences = _differences(first, second)
    mixture = [key for key in ("data_fingerprint", "algorithm_version") if key in differences]
    if mixture and not mixed:
        raise InputError(f"{a} and {b} differ in {' and '.join(mixture)}; add --mixed to compare them anyway")
    comparison = compare_arms(first, second, metric)
    interval, unit = comparison.interval, metric_named(metric).points
    console.print(f"{a} minus {b}, {metric}, paired by seed", highlight=False)
    if interval.refused:
        console.print(f"  no interval: {interval.reason}")
        if interval.n == 1 and interval.mean is not None:
            console.print(f"  {interval.mean:+.2f} {unit}, {single_run_note(interval.mean)}", highlight=False)
    else:
        p = "-" if comparison.p is None else f"{comparison.p:.3g}"
        console.print(
            f"  {interval.mean:+.2f} {unit}, 95% interval [{interval.low:+.2f}, {interval.high:+.2f}], "
            f"n = {interval.n}, p = {p}",
            highlight=False,
            markup=False,
        )
    if comparison.variance_saved is not None:
        console.print(f"  pairing removed {100 * comparison.variance_saved:.0f}% of the variance of the difference")
    for line in comparison.left_out:
        console.print(f"  left out: {line}", markup=False)
    for key, (left, right) in differences.items():
        console.print(f"  differs: {key}: {left} and {right}", markup=False, highlight=False)
    return 0


def _side(text: str, root: Path) -> list[dict[str, Any]]:
    """The rows of RUN:ARM or FILE:ARM. `:ARM` is optional if there is only one arm."""
    for where, arm in ((text, ""), (text.rpartition(":")[0], text.rpartition(":")[2])):
        path = Path(where) if where.endswith(".jsonl") else root / where / "records.jsonl"
        if where and path.is_file():
            rows = [row for row in read_records(path) if not arm or row["arm"] == arm]
            if rows:
                return rows
            names = sorted({str(row["arm"]) for row in read_records(path)})
            raise InputError(f"{text}: no arm {arm} in {path}.{nearest(arm, names)} Arms: {', '.join(names)}")
    raise InputError(f"{text}: no such run in {root} and no such records file; write RUN:ARM or FILE.jsonl:ARM")


def _differences(first: Sequence[Row], second: Sequence[Row]) -> dict[str, tuple[Any, Any]]:
    """Data, code version and spec keys in which the rows of two arms differ."""
    a, b = (next((row for row in side if row.get("chosen")), side[-1]) for side in (first, second))
    defaults = flatten(TrialSpec().model_dump(mode="json"))
    out = {
        key: (a.get(key), b.get(key)) for key in ("data_fingerprint", "algorithm_version") if a.get(key) != b.get(key)
    }
    left, right = flatten(a["spec"]), flatten(b["spec"])
    for key in dict.fromkeys([*left, *right]):
        if left.get(key) != right.get(key):
            out[key] = (left.get(key, defaults.get(key)), right.get(key, defaults.get(key)))
    return out
