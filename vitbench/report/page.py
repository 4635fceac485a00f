"""Everything that a report writes: tables, plots and one self-contained page per run, and the scoreboard of a root.

Pages hold no script and ask for nothing outside themselves; the same records give the same bytes.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from vitbench.experiment import Experiment
from vitbench.load import header, load
from vitbench.report.claims import (
    Glyph,
    data_names,
    effect_text,
    facts_of,
    glyph,
    located_text,
    outlook_text,
    region_text,
    scale_of,
)
from vitbench.report.formats import Table, printable, to_csv, to_latex, to_markdown
from vitbench.report.inline import inline_svg
from vitbench.report.machine import commits, cost_table, environment_table
from vitbench.report.plots import caption, plots_for, save
from vitbench.report.rows import arm_order, metric_label, score, setting_label, setting_of
from vitbench.report.side import read_answers, side_table
from vitbench.report.tables import p_cell, result_frame, result_table, shared_table, tables_for, tuning_table
from vitbench.stats.outcome import Verdict
from vitbench.stats.scoreboard import judge_all, with_q
from vitbench.stats.table import Row
from vitbench.store import read_lines

STATES = ("supported", "contradicted", "inconclusive", "untested")
LONGEST_WORD = 16
"""Characters that a narrow column must hold on one line."""
BIBTEX = """@inproceedings{dosovitskiy2021image,
  title     = {An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale},
  author    = {Dosovitskiy, Alexey and Beyer, Lucas and Kolesnikov, Alexander and Weissenborn, Dirk and
               Zhai, Xiaohua and Unterthiner, Thomas and Dehghani, Mostafa and Minderer, Matthias and
               Heigold, Georg and Gelly, Sylvain and Uszkoreit, Jakob and Houlsby, Neil},
  booktitle = {International Conference on Learning Representations},
  year      = {2021}
}"""


@dataclass(frozen=True)
class Said:
    """A verdict with its words and its drawing."""

    verdict: Verdict
    effect: str
    region: str
    outlook: str
    located: str
    glyph: Glyph | None


def report(experiment: Experiment, rows: Sequence[Row], folder: Path) -> None:
    """Writes `table.{md,csv,tex}`, `plots/` and `index.html` of one run into its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tables, side = tables_for(experiment, rows), side_table(experiment, rows, read_answers(folder))
    verdicts = judge_all(experiment, rows, facts_of(rows, folder))
    _write(folder / "table.md", "\n".join(to_markdown(table) for table in (*tables, side)))
    _write(folder / "table.csv", to_csv(result_frame(experiment, rows)))
    slug = re.sub(r"[^a-z0-9]+", "-", experiment.name.lower())
    _write(folder / "table.tex", "\n".join(to_latex(table, f"tab:{slug}-{i}") for i, table in enumerate(tables, 1)))
    drawings = save(plots_for(experiment, rows, verdicts), folder / "plots")
    command = command_of(experiment, folder)
    _write(folder / "index.html", experiment_page(experiment, rows, command, verdicts, side, drawings))


def experiment_page(
    experiment: Experiment,
    rows: Sequence[Row],
    command: str,
    verdicts: Sequence[Verdict],
    side: Table,
    drawings: Mapping[str, str],
) -> str:
    """The page of one run, made by `command`; `drawings` are its plots as SVG text."""
    anchors = {arm: f"arm-{i}" for i, arm in enumerate(arm_order(experiment, rows))}
    shared = shared_table(experiment, rows)
    return _render(
        "experiment.html.j2",
        title=f"{experiment.name} | vitbench",
        experiment=experiment,
        command=command,
        scale=scale_of(rows),
        counts=_counts(rows),
        verdicts=[said(verdict) for verdict in verdicts],
        results=[result_table(experiment, rows), *([shared] if shared else [])],
        tuning=tuning_table(experiment, rows),
        side=side,
        plots=[
            {"name": name, "caption": caption(name), "svg": inline_svg(drawing, name, caption(name))}
            for name, drawing in drawings.items()
        ],
        metric=metric_label(experiment.report.metric),
        lost=[_trial_line(row, experiment) for row in rows if row["status"] != "ok"],
        trials=_trial_groups(experiment, rows, anchors),
        anchors=anchors,
        cost=cost_table(rows),
        environment=environment_table(rows),
        commits=commits(rows),
        bibtex=BIBTEX,
    )


def command_of(experiment: Experiment, folder: Path) -> str:
    """The command that made a run, as its experiment.yaml says."""
    path = folder / "experiment.yaml"
    return (header(path)["run"] if path.is_file() else "") or f"vitbench run {experiment.name}"


def said(verdict: Verdict) -> Said:
    """The verdict with what a page says of it."""
    words = effect_text(verdict), region_text(verdict), outlook_text(verdict), located_text(verdict)
    return Said(verdict, *words, glyph(verdict))


def _counts(rows: Sequence[Row]) -> str:
    """`40 trials: 38 ok, 2 diverged`."""
    unique = {row["trial_id"]: row["status"] for row in rows}
    counted = Counter(unique.values())
    return f"{len(unique)} trials: " + ", ".join(f"{n} {status}" for status, n in counted.most_common())


def _trial_groups(experiment: Experiment, rows: Sequence[Row], anchors: Mapping[str, str]) -> list[dict[str, Any]]:
    """The trials arm by arm; an arm with a lost trial stands open. A trial of several arms has its anchor once."""
    groups, anchored = [], set[str]()
    for arm, anchor in anchors.items():
        lines = []
        for row in (row for row in rows if row["arm"] == arm):
            lines.append(_trial_line(row, experiment) | {"has_anchor": row["trial_id"] not in anchored})
            anchored.add(row["trial_id"])
        has_lost = any(line["status"] != "ok" for line in lines)
        groups.append({"arm": arm, "anchor": anchor, "rows": lines, "has_lost": has_lost})
    return groups


def _trial_line(row: Row, experiment: Experiment) -> dict[str, Any]:
    metric, validation = score(row, experiment.report.metric), score(row, "val_top1_percent")
    return {
        "arm": row["arm"],
        "role": row.get("stage") if row["role"] == "stage" else row["role"],
        "setting": setting_label(setting_of(row)),
        "seed": row["seed"],
        "status": row["status"],
        "reason": row["reason"] or "",
        "score": "-" if metric is None or row["role"] == "tuning" else f"{metric:.2f}",
        "validation": "-" if validation is None else f"{validation:.2f}",
        "seconds": f"{row['run'].get('train_seconds', 0.0):.1f}",
        "trial_id": row["trial_id"],
    }


@dataclass(frozen=True)
class Line:
    """One claim on the scoreboard."""

    said: Said
    run: str
    page: str
    data: str

    @property
    def claim(self) -> str:
        """The claim's id."""
        return self.said.verdict.claim

    @property
    def href(self) -> str:
        """The claim on its run's page."""
        return f"{self.page}#claim-{quote(self.said.verdict.claim)}"


def scoreboard(root: Path, runs: Sequence[Path]) -> None:
    """Writes `index.html` and `scoreboard.csv` of a results root, claims by id; q is over all of its run folders."""
    found: list[tuple[Path, Verdict, str]] = []
    listed = []
    for folder in runs:
        experiment, rows = load(folder / "experiment.yaml"), read_lines(folder / "records.jsonl")
        if not isinstance(experiment, Experiment):
            continue
        listed.append(
            {"name": folder.name, "page": f"{quote(folder.name)}/index.html", "question": experiment.question}
        )
        data = ", ".join(data_names(rows))
        found += [(folder, verdict, data) for verdict in judge_all(experiment, rows, facts_of(rows, folder))]
    judged = with_q([verdict for _, verdict, _ in found])
    lines = [
        Line(said(verdict), folder.name, _page_of(folder), data)
        for (folder, _, data), verdict in zip(found, judged, strict=True)
    ]
    lines.sort(key=lambda line: (_claim_key(line.claim), line.run))
    tally = {state: Counter(line.claim for line in lines if line.said.verdict.state == state) for state in STATES}
    claims = {line.claim: [other for other in lines if other.claim == line.claim] for line in lines}
    content = {"claims": claims, "tally": tally, "runs": listed}
    _write(root / "index.html", _render("scoreboard.html.j2", title="vitbench", **content))
    _write(root / "scoreboard.csv", scoreboard_csv(lines))


def _claim_key(claim: str) -> list[tuple[int, str]]:
    """A sort key under which CLS-9 stands before CLS-10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", claim)]


def _page_of(folder: Path) -> str:
    return f"{quote(folder.name)}/index.html"


def scoreboard_csv(lines: Sequence[Line]) -> str:
    """The scoreboard as CSV, one line a claim, numbers with four decimals."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = (
        "claim", "verdict", "label", "effect", "low", "high", "level", "above", "below", "unit", "n", "p", "q",
        "paper_effect", "paper_source", "data", "scale", "run", "statement", "reason",
    )  # fmt: skip
    writer.writerow(columns)
    for line in lines:
        verdict = line.said.verdict
        found = verdict.interval
        facts = vars(verdict) | {"verdict": verdict.state, "data": line.data, "run": line.run}
        facts |= {name: getattr(found, name, None) for name in ("low", "high", "level")}
        writer.writerow([_csv_cell(facts[name]) for name in columns])
    return out.getvalue()


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}"
    text = printable(str(value))
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _render(template: str, **content: Any) -> str:
    environment = Environment(
        loader=PackageLoader("vitbench.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"minus": _minus, "p_value": p_cell, "breakable": _breakable}
    css = environment.loader.get_source(environment, "style.css")[0] if environment.loader else ""
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return environment.get_template(template).render(css=Markup(css), css_hash=f"sha256-{digest}", **content)


def _minus(text: object) -> str:
    """`text` with a true minus sign before numbers."""
    return re.sub(r"(?<![\w-])-(?=\d)", "−", str(text))


def _breakable(name: object) -> Markup:
    """A name, escaped, that may be broken after `+`, and inside a long word after `_`."""

    def joints(word: re.Match[str]) -> str:
        return re.sub("_(?=.)", "_<wbr>", word[0]) if len(word[0]) > LONGEST_WORD else word[0]

    return Markup(re.sub(r"\+(?=.)", "+<wbr>", re.sub("[^+ ]+", joints, str(escape(name)))))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
