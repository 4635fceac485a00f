"""The scoreboard of a results root: every claim, its verdict, our effect beside the source's, and its run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vitbench.base.durable import replace_all
from vitbench.plan.sources import checked_rows
from vitbench.report.cost_tables import root_cost_table
from vitbench.report.formats import ALL, Format, Table, to_csv, to_latex, to_markdown
from vitbench.report.pages.html import render
from vitbench.report.plots.arm_plots import drawn
from vitbench.report.scoreboard.ledger import LedgerEntry, entry_of, ledger
from vitbench.report.scoreboard.plot import board_plot
from vitbench.report.trial_lists import claim_cells, trials_of
from vitbench.report.verdict_text import VerdictText, data_names, facts_of, verdict_table, verdict_text
from vitbench.spec.experiment import Experiment
from vitbench.spec.load import load
from vitbench.stats.verdict_list import judge_all, with_q
from vitbench.stats.verdict_types import Verdict
from vitbench.stats.wording import qualifying

STATES = ("supported", "contradicted", "inconclusive", "untested")
MOST_IN_PICTURE = 60
OTHER = "Your own claims"


@dataclass(frozen=True)
class Line:
    """One claim in one run."""

    text: VerdictText
    run: str
    page: str
    data: str
    trials: str
    """Address of the first trials that the verdict reads; the claim's address if it reads no trials."""

    @property
    def verdict(self) -> Verdict:
        """What was judged."""
        return self.text.verdict

    @property
    def href(self) -> str:
        """The claim on its run's page."""
        return f"{self.page}#claim-{quote(self.verdict.claim)}"

    @property
    def effect(self) -> str:
        """Our effect alone."""
        return self.text.effect.partition(" (")[0]

    @property
    def interval(self) -> str:
        """The interval alone."""
        return self.text.effect.partition(" (")[2].rstrip(")")

    @property
    def qualified(self) -> str:
        """Qualifications of the state, for example that the arms were under-trained."""
        return "; ".join(qualifying(self.verdict))

    @property
    def section(self) -> str:
        """The part of the ledger that the claim stands in."""
        entry = entry_of(self.verdict.claim)
        return entry.section if entry else OTHER


Judged = Mapping[Path, Sequence[Verdict]]


def scoreboard(
    root: Path, runs: Sequence[Path], formats: Sequence[Format] = ALL, judged: Judged | None = None
) -> Table:
    """The verdicts of all runs as a table, after writing `index.html`, the picture and `scoreboard.{md,csv,tex}`.

    Claims come in the ledger's order; q is over all of the runs. `judged` has the verdicts of runs that were judged.
    """
    experiments = {folder: load(folder / "experiment.yaml") for folder in runs}
    with_rows = {folder: (e, checked_rows(folder)) for folder, e in experiments.items() if isinstance(e, Experiment)}
    lines, listed = _lines(with_rows, judged or {})
    cost = root_cost_table({folder.name: rows for folder, (_, rows) in with_rows.items()})
    table = verdict_table([line.verdict for line in lines], [line.run for line in lines])
    files: dict[str, bytes] = {}
    if "md" in formats:
        files["scoreboard.md"] = f"{to_markdown(table)}\n{to_markdown(cost)}".encode()
    if "csv" in formats:
        files["scoreboard.csv"] = scoreboard_csv(lines).encode()
    if "tex" in formats:
        files["scoreboard.tex"] = to_latex(table, "tab:scoreboard").encode()
    if "html" in formats:
        shown = [line.verdict for line in lines if line.verdict.interval is not None][:MOST_IN_PICTURE]
        if shown:
            files |= drawn({"scoreboard": board_plot(shown)})[1]
        files["index.html"] = _page(lines, listed, cost).encode()
    replace_all(root, files)
    return table


def _lines(
    runs: Mapping[Path, tuple[Experiment, list[dict[str, Any]]]], judged: Judged
) -> tuple[list[Line], list[dict[str, str]]]:
    """Every claim of every run, in the ledger's order, and the runs themselves."""
    entries: list[tuple[dict[str, str], str, Verdict]] = []
    listed = []
    for folder, (experiment, rows) in runs.items():
        page, data = f"{quote(folder.name)}/index.html", ", ".join(data_names(rows))
        listed.append({"name": folder.name, "page": page, "question": experiment.question, "data": data})
        behind, read = trials_of(experiment, rows).behind, claim_cells(experiment, rows)
        context = facts_of(rows, folder, experiment)
        for verdict in judged[folder] if folder in judged else judge_all(experiment, rows, context):
            anchor = next((behind[cell] for cell in read[verdict.claim] if cell in behind), f"claim-{verdict.claim}")
            entries.append((listed[-1], f"{page}#{quote(anchor)}", verdict))
    verdicts = with_q([verdict for *_, verdict in entries])
    lines = [
        Line(verdict_text(verdict), run["name"], run["page"], run["data"], trials)
        for (run, trials, _), verdict in zip(entries, verdicts, strict=True)
    ]
    return sorted(lines, key=_place), listed


def _place(line: Line) -> tuple[int, list[tuple[int, str]], str]:
    """A sort key: the ledger's sections, in them CLS-9 before CLS-10, then the runs of a claim."""
    sections = [entry.section for entry in ledger().values()]
    parts = re.split(r"(\d+)", line.verdict.claim)
    claim = [(int(part), "") if part.isdigit() else (0, part) for part in parts]
    return (sections.index(line.section) if line.section in sections else len(sections), claim, line.run)


def _page(lines: Sequence[Line], listed: Sequence[dict[str, str]], cost: Table) -> str:
    declared = {entry.claim for line in lines if (entry := entry_of(line.verdict.claim))}
    tally = {state: Counter(line.verdict.claim for line in lines if line.verdict.state == state) for state in STATES}
    sections = {line.section: [other for other in lines if other.section == line.section] for line in lines}
    undeclared: dict[str, list[LedgerEntry]] = {}
    for entry in ledger().values():
        if entry.claim not in declared:
            undeclared.setdefault(entry.section, []).append(entry)
    first: dict[str, Line] = {}
    for line in lines:
        first.setdefault(line.verdict.claim, line)
    return render(
        "scoreboard.html.j2",
        title="vitbench: the scoreboard",
        sections=sections,
        anchored=list(first.values()),
        statements={claim: _statement(line.verdict) for claim, line in first.items()},
        tally=tally,
        num_verdicts=len(lines),
        num_declared=len(declared),
        num_claims=len(ledger()),
        undeclared=undeclared,
        has_picture=any(line.verdict.interval for line in lines),
        runs=listed,
        cost=cost,
    )


def _statement(verdict: Verdict) -> str:
    """What a claim says, with a mark where its verdict is exploratory."""
    return (verdict.statement or verdict.claim) + (" (exploratory)" if verdict.exploratory else "")


def scoreboard_csv(lines: Sequence[Line]) -> str:
    """The scoreboard as CSV, one line per verdict, numbers with four decimals."""
    import pandas as pd  # Late: a run prints no frame, and pandas takes a second and 40 MiB.

    columns = (
        "claim", "verdict", "label", "effect", "low", "high", "level", "above", "below", "unit", "n", "p", "q",
        "paper_effect", "paper_source", "data", "scale", "run", "statement", "reason", "qualified",
    )  # fmt: skip
    rows = []
    for line in lines:
        verdict = line.verdict
        facts = vars(verdict) | {
            "verdict": verdict.state,
            "data": line.data,
            "run": line.run,
            "qualified": line.qualified,
        }
        facts |= {name: getattr(verdict.interval, name, None) for name in ("low", "high", "level")}
        rows.append({name: _csv_cell(facts[name]) for name in columns})
    return to_csv(pd.DataFrame(rows, columns=list(columns)))


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
