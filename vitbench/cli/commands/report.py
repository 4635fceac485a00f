"""`vitbench report`, `verdict` and `compare`: from committed records alone, no training and no torch."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from vitbench.base.errors import InputError, nearest, printable
from vitbench.cli.commands.prepare import read_run, runs_named
from vitbench.engines.options import num_cores
from vitbench.plan.arm_diff import flatten
from vitbench.plan.run_table import Row
from vitbench.plan.sources import cautions, checked_rows
from vitbench.spec.experiment import Experiment
from vitbench.spec.trial import TrialSpec
from vitbench.stats.verdict_types import Verdict
from vitbench.store.rows import read_records

if TYPE_CHECKING:
    from vitbench.data import DataOptions
    from vitbench.report.formats import Format
    from vitbench.report.pages.page import RunReport

CHECKED = ("table.md", "table.csv", "table.tex")
"""What `report --check` holds against the records; plots and pages depend on the versions of their libraries."""


def report(names: Sequence[str], root: Path, console: Console, wanted: Wanted) -> int:
    """Write tables, plots and pages of the named runs (all of the root's without names), and print the tables."""
    from vitbench.report.formats import to_rich
    from vitbench.report.scoreboard.board import scoreboard

    formats, judged = formats_of(wanted.formats), {}
    for folder, experiment, told, note in _each(_begun(root, names), formats, wanted):
        console.print(f"\n[bold]{escape(folder.name)}[/]: {escape(experiment.question)}", highlight=False)
        if told is None:
            console.print("no finished trials yet")
            continue
        judged[folder] = told.verdicts
        for table in told.tables:
            console.print(to_rich(table, console.width))
        for line in (note, f"Written: {folder}"):
            console.print(line, markup=False, highlight=False, soft_wrap=True, end="\n" if line else "")
    console.print(to_rich(scoreboard(root, _begun(root, ()), formats, judged), console.width))
    page = root / "index.html"
    console.print(f"Scoreboard: {page}" if page.is_file() else f"Written: {root}", highlight=False, soft_wrap=True)
    if wanted.open:
        _open(page)
    return 0


def _begun(root: Path, names: Sequence[str]) -> list[Path]:
    """The runs that are meant; without names those with rows: another shell may just have started one."""
    found = runs_named(root, names)
    return found if names else [folder for folder in found if (folder / "records.jsonl").is_file()] or found


def _each(
    folders: Sequence[Path], formats: Sequence[Format], wanted: Wanted
) -> Iterator[tuple[Path, Experiment, RunReport | None, str]]:
    """(run, experiment, what its report says, a note), in order; the runs are written side by side, a core each."""
    from vitbench.report.scoreboard import board  # noqa: F401  # loaded once, before the processes part

    jobs = [(folder, tuple(formats), wanted) for folder in folders]
    if len(jobs) == 1 or multiprocessing.get_start_method() != "fork":
        yield from map(_write, jobs)
        return
    with ProcessPoolExecutor(min(len(jobs), num_cores()), multiprocessing.get_context("fork")) as pool:
        yield from pool.map(_write, jobs)


def _write(job: tuple[Path, tuple[Format, ...], Wanted]) -> tuple[Path, Experiment, RunReport | None, str]:
    """One run's report, written; None for a run without trials."""
    from vitbench.report.pages.page import report as write_report
    from vitbench.report.run_pictures import add_samples

    folder, formats, wanted = job
    experiment, found = read_run(folder), checked_rows(folder)
    if not found:
        return folder, experiment, None, ""
    note = add_samples(folder, found, wanted.data, wanted.images) if "html" in formats else ""
    note = "\n".join(filter(None, (note, *(f"caution: {line}" for line in cautions(found)))))
    return folder, experiment, write_report(experiment, found, folder, formats), note


@dataclass(frozen=True)
class Wanted:
    """What `vitbench report` was asked for beside its runs."""

    formats: str
    open: bool
    images: bool
    data: DataOptions


def formats_of(text: str) -> tuple[Format, ...]:
    """The formats that `md,tex` means. Raises InputError."""
    from vitbench.report.formats import ALL

    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in ALL:
            raise InputError(f"--format {text}: no format {word!r}.{nearest(word, ALL)} Allowed: {', '.join(ALL)}")
    return tuple(name for name in ALL if name in words)


def _open(page: Path) -> None:
    """The page in the user's browser. Raises InputError where there is no page."""
    import webbrowser

    if not page.is_file():
        raise InputError(f"{page}: no page to open; `vitbench report --format html` writes it")
    webbrowser.open(page.resolve().as_uri())


def check_tables(names: Sequence[str], root: Path, console: Console) -> int:
    """Rebuild every named run's tables in a temporary folder and compare; 4 where one differs."""
    from vitbench.report.pages.page import report as write_report

    stale, folders = [], _begun(root, names)
    for folder in folders:
        with tempfile.TemporaryDirectory() as scratch:
            fresh = Path(scratch) / folder.name
            shutil.copytree(folder, fresh, ignore=shutil.ignore_patterns("table.*", "plots", "index.html"))
            write_report(read_run(folder), checked_rows(folder), fresh, ("md", "csv", "tex"))
            stale += [f"{folder}: {name}" for name in CHECKED if not _equal(folder / name, fresh / name)]
    for line in stale:
        console.print(f"[red]not what the records give:[/] {line}", soft_wrap=True)
    if not stale:
        console.print(f"{len(folders)} runs: every table is what its records give")
    return 4 if stale else 0


def _equal(a: Path, b: Path) -> bool:
    return a.is_file() and b.is_file() and a.read_bytes() == b.read_bytes()


def judged(experiment: Experiment, found: Sequence[Row], folder: Path) -> list[Verdict]:
    """The verdicts on an experiment's claims from its rows."""
    from vitbench.report.verdict_text import facts_of
    from vitbench.stats.verdict_list import judge_all

    return judge_all(experiment, found, facts_of(found, folder))


def verdict(claim: str | None, root: Path, names: Sequence[str], console: Console, check: bool, as_json: bool) -> int:
    """Print the verdicts of the runs' claims; with `check`, 4 where one is contradicted or fails its `expect`."""
    from vitbench.stats.wording import one_line

    out: list[tuple[str, Verdict]] = []
    for folder in _begun(root, names):
        experiment, found = read_run(folder), checked_rows(folder)
        for line in cautions(found):
            print(f"caution: {folder.name}: {printable(line)}", file=sys.stderr)
        out += [(folder.name, v) for v in judged(experiment, found, folder)]
    if claim is not None:
        known = [v.claim for _, v in out]
        out = [(run, v) for run, v in out if v.claim == claim or v.claim.startswith(claim)]
        if not out:
            raise InputError(f"claim {claim}: none of these runs declares it.{nearest(claim, known)}")
    if as_json:
        print(json.dumps([{"run": run, **_plain(v)} for run, v in out], allow_nan=False))
    else:
        for run, v in out:
            line = one_line(v)
            console.print(f"[bold]{run}[/]  {escape(line)}", highlight=False, soft_wrap=True)
            for note in (note for note in v.notes if note not in line):
                console.print(f"    {note}", highlight=False, markup=False, soft_wrap=True)
    bad = [v.claim for _, v in out if v.state == "contradicted" or (v.expect and v.state != v.expect)]
    if check and bad:
        console.print(f"[red]check failed:[/] {', '.join(bad)}")
    return 4 if check and bad else 0


def _plain(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain data for JSON."""
    return {key: value for key, value in dataclasses.asdict(verdict).items() if value not in (None, (), "", {})}


def compare(a: str, b: str, root: Path, metric: str, mixed: bool, console: Console) -> int:
    """Print A minus B, paired by seed; each is RUN:ARM, or a records file with an arm as FILE:ARM."""
    from vitbench.spec.metrics import metric_named
    from vitbench.stats.compare import compare_arms, single_run_note

    (first, second) = (_side(text, root) for text in (a, b))
    differing = _what_differs(first, second)
    mixture = [key for key in ("data_fingerprint", "algorithm_version") if key in differing]
    if mixture and not mixed:
        raise InputError(f"{a} and {b} differ in {' and '.join(mixture)}; --mixed compares them all the same")
    found = compare_arms(first, second, metric)
    interval, unit = found.interval, metric_named(metric).points
    console.print(f"{a} minus {b}, {metric}, paired by seed", highlight=False)
    if interval.refused:
        console.print(f"  no interval: {interval.reason}")
        if interval.n == 1 and interval.mean is not None:
            console.print(f"  {interval.mean:+.2f} {unit}, {single_run_note(interval.mean)}", highlight=False)
    else:
        p = "none" if found.p is None else f"{found.p:.3g}"
        console.print(
            f"  {interval.mean:+.2f} {unit}, 95% from {interval.low:+.2f} to {interval.high:+.2f}, "
            f"n = {interval.n}, p {p}",
            highlight=False,
        )
    if found.variance_saved is not None:
        console.print(f"  pairing removed {100 * found.variance_saved:.0f}% of the variance of the difference")
    for line in found.left_out:
        console.print(f"  left out: {line}", markup=False)
    for key, (left, right) in differing.items():
        console.print(f"  differs: {key}: {left} and {right}", markup=False, highlight=False)
    return 0


def _side(text: str, root: Path) -> list[dict[str, Any]]:
    """The rows of RUN:ARM or FILE:ARM (`:ARM` may be left out where there is one arm)."""
    for where, arm in ((text, ""), (text.rpartition(":")[0], text.rpartition(":")[2])):
        path = Path(where) if where.endswith(".jsonl") else root / where / "records.jsonl"
        if where and path.is_file():
            found = [row for row in read_records(path) if not arm or row["arm"] == arm]
            if found:
                return found
            names = sorted({str(row["arm"]) for row in read_records(path)})
            raise InputError(f"{text}: no arm {arm} in {path}.{nearest(arm, names)} Arms: {', '.join(names)}")
    raise InputError(f"{text}: no such run in {root} and no such records file; write RUN:ARM or FILE.jsonl:ARM")


def _what_differs(first: Sequence[Row], second: Sequence[Row]) -> dict[str, tuple[Any, Any]]:
    """Data, code version and spec keys in which two arms' rows differ."""
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
