"""The page of a recommendation, with its picture: accuracy against images per second, and against parameters."""

from __future__ import annotations

import io
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from vitbench.recommend.outcome import (
    NAMES,
    Outcome,
    equal_lines,
    headline,
    method_lines,
    open_lines,
)
from vitbench.recommend.search import Tried
from vitbench.recommend.words import gap_words, interval_words, lead_words
from vitbench.report.pages.html import render
from vitbench.report.pages.inline_svg import inline_svg
from vitbench.report.plots.style import COLOURS, MARKERS, MUTED, log_axis, plotting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAMILY_ORDER = ("vit", "resnet", "hybrid")


def page(outcome: Outcome) -> str:
    """The whole answer as a page without scripts."""
    rows = [
        {
            "words": answer.question.words,
            "chosen": answer.chosen or "-",
            "sure": lead_words(answer),
            "arms": [gap_words(each) for each in answer.standing],
        }
        for answer in outcome.search.answers
    ]
    tested = [
        {
            "name": NAMES[name],
            "accuracy": interval_words(arm.accuracy),
            "lead": "" if arm.lead is None else interval_words(arm.lead, sign=True),
            "speed": f"{arm.speed:,.0f}",
            "params": f"{arm.params:,}",
        }
        for name, arm in outcome.tested.items()
    ]
    svg = picture(outcome)
    return render(
        "recommendation.html.j2",
        title=f"Recommendation for {outcome.data}",
        data=outcome.data,
        headline=headline(outcome),
        cautions=outcome.cautions,
        rows=rows,
        tested=tested,
        equal=equal_lines(outcome),
        still_open=open_lines(outcome),
        method=method_lines(outcome),
        notes=outcome.notes,
        picture="" if svg is None else inline_svg(svg, "recommendation"),
        command=outcome.command,
    )


def picture(outcome: Outcome) -> str | None:
    """Every recipe that was tried, as SVG: validation accuracy against speed and parameters; None before the first."""
    tried = [each for each in outcome.search.tried.values() if each.scores and each.speed > 0 and each.params > 0]
    if not tried:
        return None
    from matplotlib.figure import Figure

    key = None if outcome.recipe is None else outcome.recipe.key
    with plotting():
        fig = Figure(figsize=(9.0, 3.4), layout="constrained")
        left, right = fig.subplots(1, 2, sharey=True)
        for axes, values, label in (
            (left, [each.speed for each in tried], "Images per second in training, one process"),
            (right, [float(each.params) for each in tried], "Parameters"),
        ):
            _dots(axes, values, tried, key)
            log_axis(axes, [float(f"{value:.2g}") for value in values])
            axes.set_xlabel(label)
        left.set_ylabel("Validation top-1 (%)")
        left.legend(loc="best")
        buffer = io.StringIO()
        fig.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _dots(axes: Axes, values: Sequence[float], tried: Sequence[Tried], key: object) -> None:
    """One mark per recipe, by family; a ring around the recommended one."""
    means = [fmean(each.scores.values()) for each in tried]
    for number, family in enumerate(FAMILY_ORDER):
        at = [row for row, each in enumerate(tried) if each.recipe.family == family]
        x, y = [values[row] for row in at], [means[row] for row in at]
        axes.plot(x, y, linestyle="none", marker=MARKERS[number], color=COLOURS[number], label=family, markersize=5.0)
    for row in [row for row, each in enumerate(tried) if each.recipe.key == key]:
        axes.plot([values[row]], [means[row]], marker="o", markersize=12, fillstyle="none", color=MUTED)
