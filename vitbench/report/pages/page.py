"""Everything that a report writes of one run: tables, plots and one self-contained page.

Pages hold no script and ask for nothing outside themselves; the same records give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitbench.base.durable import replace_all
from vitbench.report.class_evidence import class_table, confusion_frame
from vitbench.report.cost_tables import commits, cost_table, environment_table
from vitbench.report.formats import ALL, Format, Table, to_csv, to_latex, to_markdown
from vitbench.report.pages.html import render
from vitbench.report.pages.inline_svg import inline_svg
from vitbench.report.plots.arm_plots import caption, drawn, plots_for
from vitbench.report.row_values import metric_label
from vitbench.report.run_pictures import pictures_of
from vitbench.report.secondary_evidence import has_class_names, side_table
from vitbench.report.tables import result_frame, result_table, shared_table, tables_for, tuning_table
from vitbench.report.trial_lists import claim_cells, trials_of
from vitbench.report.verdict_text import facts_of, scale_of, verdict_table, verdict_text
from vitbench.spec.experiment import Experiment
from vitbench.spec.load import header
from vitbench.stats.table import Row
from vitbench.stats.verdict_list import judge_all
from vitbench.stats.verdict_types import Verdict
from vitbench.store.answers import read_answers

BIBTEX = """@inproceedings{dosovitskiy2021image,
  title     = {An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale},
  author    = {Dosovitskiy, Alexey and Beyer, Lucas and Kolesnikov, Alexander and Weissenborn, Dirk and
               Zhai, Xiaohua and Unterthiner, Thomas and Dehghani, Mostafa and Minderer, Matthias and
               Heigold, Georg and Gelly, Sylvain and Uszkoreit, Jakob and Houlsby, Neil},
  booktitle = {International Conference on Learning Representations},
  year      = {2021}
}"""


@dataclass(frozen=True)
class RunReport:
    """What a run's report says: its tables, in order, and its verdicts."""

    tables: tuple[Table, ...]
    verdicts: tuple[Verdict, ...]


def report(experiment: Experiment, rows: Sequence[Row], folder: Path, formats: Sequence[Format] = ALL) -> RunReport:
    """What one run says, after writing `table.{md,csv,tex}`, and for `html` its plots and page, into its folder.

    All files are replaced together: where one cannot be written, every old file stays.
    """
    verdicts = judge_all(experiment, rows, facts_of(rows, folder, experiment))
    answers = read_answers(folder)
    side, classes = side_table(experiment, rows, answers), class_table(experiment, rows, answers)
    verdict_tables = [verdict_table(verdicts)] if verdicts else []
    tables = [*verdict_tables, *tables_for(experiment, rows)]
    files: dict[str, str | bytes] = {}
    if "md" in formats:
        files["table.md"] = "\n".join(to_markdown(table) for table in (*tables, side))
        files |= {"classes.md": to_markdown(classes)} if classes.rows else {}
    if "csv" in formats:
        files |= {"classes.csv": to_csv(confusion_frame(experiment, rows, answers))} if classes.rows else {}
        files["table.csv"] = to_csv(result_frame(experiment, rows))
    if "tex" in formats:
        slug = re.sub(r"[^a-z0-9]+", "-", experiment.name.lower())
        files["table.tex"] = "\n".join(to_latex(table, f"tab:{slug}-{i}") for i, table in enumerate(tables, 1))
    if "html" in formats:
        drawings, plots = drawn(plots_for(experiment, rows, verdicts), "plots/")
        files |= plots | {"index.html": experiment_page(experiment, rows, folder, verdicts, side, drawings)}
    replace_all(folder, {name: text.encode() if isinstance(text, str) else text for name, text in files.items()})
    return RunReport((*tables, side, *([classes] if classes.rows else [])), tuple(verdicts))


def experiment_page(
    experiment: Experiment,
    rows: Sequence[Row],
    folder: Path,
    verdicts: Sequence[Verdict],
    side: Table,
    drawings: Mapping[str, str],
) -> str:
    """The page of the run in `folder`; `drawings` are its plots as SVG text."""
    trials, shared = trials_of(experiment, rows), shared_table(experiment, rows)
    cells = claim_cells(experiment, rows)
    return render(
        "experiment.html.j2",
        title=f"{experiment.name} | vitbench",
        experiment=experiment,
        command=command_of(experiment, folder),
        scale=scale_of(rows),
        verdicts=[verdict_text(verdict) for verdict in verdicts],
        read={claim: [cell for cell in read if cell in trials.behind] for claim, read in cells.items()},
        results=[result_table(experiment, rows), *([shared] if shared else [])],
        tuning=tuning_table(experiment, rows),
        side=side,
        classes=class_table(experiment, rows, read_answers(folder)) if has_class_names(rows) else None,
        plots=[
            {"name": name, "caption": caption(name), "svg": inline_svg(drawing, name)}
            for name, drawing in drawings.items()
        ],
        metric=metric_label(experiment.report.metric),
        trials=trials,
        images=pictures_of(folder, "assets"),
        inside=pictures_of(folder, "analysis"),
        cost=cost_table(rows),
        environment=environment_table(rows),
        commits=commits(rows),
        bibtex=BIBTEX,
    )


def command_of(experiment: Experiment, folder: Path) -> str:
    """The command that made a run, as its experiment.yaml says."""
    path = folder / "experiment.yaml"
    return (header(path)["run"] if path.is_file() else "") or f"vitbench run {experiment.name}"
