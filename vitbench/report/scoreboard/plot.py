"""The scoreboard as one picture: one row per verdict, each drawn on its own scale."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitbench.base.errors import printable
from vitbench.report.formats import folded
from vitbench.report.plots.style import INK, MUTED, RULE, SHADE, plotting
from vitbench.report.verdict_text import GLYPH_WIDTH, effect_text, glyph
from vitbench.stats.verdict_types import Verdict

WIDTH_INCHES, ROW_INCHES = 10.0, 0.46
CHIPS = {
    "supported": ("#10682f", "#e2f3e6"),
    "contradicted": ("#a1260d", "#fce8e3"),
    "inconclusive": ("#6a4b00", "#fdf1d0"),
    "untested": ("#505050", "#ececec"),
}
"""Ink and ground of a state; the page's style sheet has the same."""
CLAIM, STATE, DRAWING, EFFECT, PAPER, SEEDS = 0.0, 4.15, 5.4, 7.35, 9.2, 9.75
"""Where the columns begin, in inches."""
DRAWING_INCHES = 1.8


def board_plot(verdicts: Sequence[Verdict]) -> Figure:
    """Claim, verdict, drawing, effect with its interval, the paper's number and n, one row each."""
    with plotting():
        height = ROW_INCHES * (len(verdicts) + 1.3)
        fig = Figure(figsize=(WIDTH_INCHES, height))
        axes = fig.add_axes((0.015, 0.0, 0.97, 1.0))
        axes.set_axis_off()
        axes.set_xlim(0, WIDTH_INCHES)
        axes.set_ylim(len(verdicts) + 0.4, -0.9)
        for x, head in (
            (CLAIM, "Claim"),
            (STATE, "Verdict"),
            (EFFECT, "Effect (points)"),
            (PAPER, "Paper"),
            (SEEDS, "n"),
        ):
            axes.text(x, -0.5, head, fontsize=9, fontweight="bold", va="center")
        for y, verdict in enumerate(verdicts):
            axes.axhline(y - 0.02, color=RULE, linewidth=0.7)
            _row(axes, y + 0.48, verdict)
        return fig


def _row(axes: Axes, y: float, verdict: Verdict) -> None:
    ink, ground = CHIPS[verdict.state]
    axes.text(CLAIM, y, printable(verdict.claim), fontsize=8, color=MUTED, va="center")
    statement = folded(printable(verdict.statement or verdict.claim), 52)
    axes.text(CLAIM + 0.75, y, statement, fontsize=8.5, va="center", linespacing=1.15)
    chip = {"boxstyle": "round,pad=0.3,rounding_size=0.7", "facecolor": ground, "edgecolor": "none"}
    state = verdict.state_words.replace(", ", ",\n")
    axes.text(STATE + 0.05, y, state, fontsize=8.5, fontweight="bold", color=ink, va="center", bbox=chip)
    _drawing(axes, y, verdict)
    effect, _, interval = effect_text(verdict).replace("-", "−").partition(" (")
    axes.text(EFFECT, y - 0.17, effect, fontsize=9, va="center")
    axes.text(EFFECT, y + 0.2, interval.rstrip(")"), fontsize=7.5, color=MUTED, va="center")
    if verdict.paper_effect is not None:
        axes.text(PAPER, y, f"{verdict.paper_effect:+.2f}".replace("-", "−"), fontsize=9, va="center")
    axes.text(SEEDS, y, str(verdict.n), fontsize=9, va="center")


def _drawing(axes: Axes, y: float, verdict: Verdict) -> None:
    """Shaded: where the claim says the effect lies; dot and bar: ours; line: zero; diamond: the paper's."""
    mark = glyph(verdict)
    if mark is None:
        return

    def x(place: float) -> float:
        return DRAWING + DRAWING_INCHES * place / GLYPH_WIDTH

    low, high = (x(place) for place in mark.region)
    axes.fill_between([low, high], y - 0.36, y + 0.36, color=SHADE, linewidth=0)
    axes.plot([x(mark.zero)] * 2, [y - 0.36, y + 0.36], color=MUTED, linewidth=0.8)
    axes.plot([x(place) for place in mark.interval], [y, y], color=INK, linewidth=2.2, solid_capstyle="butt")
    axes.plot([x(mark.effect)], [y], marker="o", markersize=6, color=INK)
    if mark.paper is not None:
        axes.plot([x(mark.paper)], [y], marker="D", markersize=5.5, color="#ffffff", markeredgecolor=INK)
