"""`vitbench verdict`: judge the claims of finished runs; a table for a terminal, a line per claim for a pipe."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from vitbench.base.errors import InputError, nearest, printable
from vitbench.cli.commands.prepare import read_run, started_runs
from vitbench.cli.text_table import column_widths, indented, table_lines
from vitbench.plan.run_table import Row
from vitbench.plan.sources import cautions, checked_rows
from vitbench.spec.experiment import Experiment
from vitbench.stats.verdict_types import Verdict

HEADER = ("claim", "verdict", "effect [interval]", "claimed", "source", "n", "why")
STYLES = {"supported": "green", "contradicted": "red", "inconclusive": "yellow", "untested": "dim"}


@dataclass(frozen=True)
class VerdictOptions:
    """Which claims to judge (`claim` is an id or its beginning), and how to print the verdicts."""

    claim: str | None = None
    runs: tuple[str, ...] = ()
    check: bool = False
    verbose: bool = False
    as_json: bool = False


@dataclass(frozen=True)
class Judged:
    """One claim of one run with its verdict."""

    run: str
    verdict: Verdict


def verdict(root: Path, options: VerdictOptions, console: Console) -> int:
    """Print the verdicts; with `check`, return 4 if a claim is contradicted or does not meet its `expect`.

    An exploratory verdict meets no expectation.
    """
    judged = _selected(_judge(root, options.runs), options.claim)
    if options.as_json:
        print(json.dumps([{"run": item.run, **_plain(item.verdict)} for item in judged], allow_nan=False))
    elif console.is_terminal:
        for text in verdict_lines(judged, console.width, verbose=options.verbose):
            console.print(text, highlight=False, soft_wrap=True)
    else:
        for item in judged:
            print(record_line(item))
    failures = [v.claim for v in (item.verdict for item in judged) if _fails_check(v)]
    if not (options.check and failures):
        return 0
    console.print(f"[red]check failed:[/] {', '.join(failures)}")
    return 4


def verdicts_of(experiment: Experiment, rows: Sequence[Row], folder: Path) -> list[Verdict]:
    """The verdicts on an experiment's claims from its rows."""
    from vitbench.report.verdict_text import facts_of
    from vitbench.stats.verdict_list import judge_all

    return judge_all(experiment, rows, facts_of(rows, folder, experiment))


def _judge(root: Path, names: Sequence[str]) -> list[Judged]:
    out: list[Judged] = []
    for folder in started_runs(root, names):
        experiment, rows = read_run(folder), checked_rows(folder)
        for line in cautions(rows):
            print(f"caution: {folder.name}: {printable(line)}", file=sys.stderr)
        verdicts = verdicts_of(experiment, rows, folder)
        out += [Judged(folder.name, item) for item in verdicts]
    return out


def _selected(judged: list[Judged], claim: str | None) -> list[Judged]:
    """The verdicts on claims whose id starts with `claim`. Raises InputError if there are none."""
    if claim is None:
        return judged
    selected = [item for item in judged if item.verdict.claim.startswith(claim)]
    if not selected:
        near = nearest(claim, [item.verdict.claim for item in judged])
        raise InputError(f"claim {claim}: these runs do not declare it.{near}")
    return selected


def _fails_check(verdict: Verdict) -> bool:
    unexpected = verdict.expect and (verdict.state != verdict.expect or verdict.exploratory)
    return verdict.state == "contradicted" or bool(unexpected)


def _plain(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain data for JSON, without empty fields."""
    return {key: value for key, value in dataclasses.asdict(verdict).items() if value not in (None, (), "", {})}


def record_line(judged: Judged) -> str:
    """A verdict with all of its reasons and notes on one line, for pipes."""
    from vitbench.stats.wording import one_line

    line = one_line(judged.verdict)
    notes = [note for note in judged.verdict.notes if note not in line]
    return printable(f"{judged.run}  {'; '.join([line, *notes])}")


def verdict_lines(judged: Iterable[Judged], width: int, *, verbose: bool = False) -> Iterator[Text]:
    """A table with a heading per run; `verbose` adds statement, reasons and notes below every row."""
    items = list(judged)
    rows = [_cells(item.verdict) for item in items]
    widths = column_widths([HEADER, *rows])
    yield from (Text(line, "bold") for line in table_lines(HEADER, widths, width))
    lines = iter(zip(items, rows, strict=True))
    for run, group in groupby(lines, lambda pair: pair[0].run):
        members = list(group)
        yield Text()
        yield Text(printable(run), "bold").append(printable(f"  {members[0][0].verdict.scale}"), "not bold")
        for item, row in members:
            yield from _row_lines(item.verdict, row, (widths, width), verbose)
    if not verbose and items:
        yield Text("\nvitbench verdict CLAIM -v prints the full reasons", "dim")


def _row_lines(
    verdict: Verdict, row: Sequence[str], layout: tuple[Sequence[int], int], verbose: bool
) -> Iterator[Text]:
    from vitbench.stats.wording import one_line

    widths, width = layout
    for line in table_lines(row, widths, width):
        text = Text(line)
        text.highlight_regex(rf"\b{verdict.state}\b", STYLES[verdict.state])
        yield text
    if verbose:
        sentence = one_line(verdict)
        notes = [note for note in verdict.notes if note not in sentence]
        for part in filter(None, (verdict.statement, sentence, *notes)):
            yield from (Text(line, "dim") for line in indented(printable(part), width))


def _cells(verdict: Verdict) -> tuple[str, ...]:
    from vitbench.report.verdict_text import effect_text, region_text

    source = "" if verdict.paper_effect is None else f"{verdict.paper_effect:+g}"
    effect, state, n = effect_text(verdict, with_level=False), verdict.state_words, str(verdict.n or "")
    return verdict.claim, state, effect, region_text(verdict), source, n, why(verdict)


def why(verdict: Verdict) -> str:
    """The decisive comparison and the reason for the state, in a few words."""
    if verdict.effect is None:
        return verdict.reason
    parts = [verdict.label] if verdict.label else []
    match verdict.state:
        case "supported":
            parts.append("interval inside the claimed region")
        case "contradicted":
            parts.append("interval outside the claimed region")
        case _:
            parts.append(verdict.reason or "interval crosses the edge of the claimed region")
    outlook = _outlook(verdict)
    return "; ".join([*verdict.exploratory, ": ".join(parts), *([outlook] if outlook else [])])


def _outlook(verdict: Verdict) -> str:
    """What more seeds would do."""
    if verdict.state != "inconclusive" or not verdict.forecast:
        return ""
    likely = next((coming for coming in verdict.forecast if coming.chance >= 0.5), verdict.forecast[-1])
    return f"{100 * likely.chance:.0f}% chance to settle by n = {likely.n}"
