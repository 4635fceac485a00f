"""How every plot looks: one colour and marker per series, one font size, the same bytes every time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Transform, offset_copy

from vitbench.report.formats import folded
from vitbench.report.row_values import quantity
from vitbench.spec.metrics import metric_named
from vitbench.stats.intervals import Interval

# Told apart with red-green and blue-yellow blindness (markers help), and at least 3:1 against white and the dark page.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc6699", "#4c4cff", "#808080", "#9a7d00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
# The page's dark theme recolours these four by value (templates/style.css).
INK = "#1a1a1a"
MUTED = "#6b6b6b"
RULE = "#d9d9d9"
SHADE = "#ece7da"

WIDTH_INCHES = 5.0
RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.handlelength": 2.0,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "vitbench",
    "text.parse_math": False,
}


@dataclass(frozen=True)
class LineStyle:
    """A colour and a marker; `dash` tells lines of one colour apart."""

    colour: str
    marker: str
    dash: Any = "-"


def looks(names: Sequence[str]) -> dict[str, LineStyle]:
    """One look per name, by its place in the file; colours come again after seven, with other markers and dashes."""
    return {name: _look(i) for i, name in enumerate(dict.fromkeys(names))}


def _look(i: int) -> LineStyle:
    turn = i // len(COLOURS)
    return LineStyle(COLOURS[i % len(COLOURS)], MARKERS[(i + turn) % len(MARKERS)], DASHES[turn % len(DASHES)])


def arm_looks(series: Mapping[str, str]) -> dict[str, LineStyle]:
    """{arm: look} from {arm: series}: the arms of a series share its colour and differ in dash."""
    by_series, members = looks(list(series.values())), Counter[str]()
    look_of = {}
    for arm, name in series.items():
        alone = list(series.values()).count(name) == 1
        look_of[arm] = by_series[name] if alone else replace(by_series[name], dash=DASHES[members[name] % len(DASHES)])
        members[name] += 1
    return look_of


@contextmanager
def plotting() -> Iterator[None]:
    """The house settings, whatever matplotlibrc says; outside, matplotlib is left as it was."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        yield


def figure(height_inches: float) -> tuple[Figure, Axes]:
    """An empty figure of the house width with one pair of axes; never shown, so no backend is chosen."""
    fig = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    return fig, fig.subplots()


def interval_line(axes: Axes, x: Interval, y: float, colour: str, width: float = 2.2) -> None:
    """Draws a horizontal interval with its mean at height y; only the mean without an interval."""
    if x.low is not None and x.high is not None:
        axes.plot([x.low, x.high], [y, y], color=colour, linewidth=width, solid_capstyle="butt")
    if x.mean is not None:
        axes.plot(
            [x.mean], [y], marker="D", markersize=5.0, color=colour, markeredgecolor="#ffffff", markeredgewidth=0.7,
            linestyle="none",
        )  # fmt: skip


def marked(look: LineStyle) -> dict[str, Any]:
    """Keywords for a line in this look, with small markers edged in white."""
    return {
        "color": look.colour, "linestyle": look.dash, "marker": look.marker, "markersize": 5.5,
        "markeredgecolor": "#ffffff", "markeredgewidth": 0.4,
    }  # fmt: skip


def interval_bar(axes: Axes, x: float, y: Interval, look: LineStyle, place: Transform) -> None:
    """Draws a vertical interval at x in the coordinates `place`; nothing without an interval."""
    if y.low is not None and y.high is not None:
        axes.update_datalim([(x, y.low), (x, y.high)])
        axes.plot([x, x], [y.low, y.high], color=look.colour, linewidth=1.6, solid_capstyle="butt", transform=place)


def dots(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    colour: str,
    links: Sequence[str],
    right_points: float = 0.0,
) -> None:
    """Draws one small dot per seed with its link, `right_points` beside x so that it hides no interval."""
    if not links:
        return
    axes.update_datalim(list(zip(x, y, strict=True)))  # the shifted transform below takes no part in the limits
    axes.scatter(
        x, y, s=3.4**2, alpha=0.55, color=colour, linewidths=0.0, urls=list(links),
        transform=shifted(axes, right_points), clip_on=False,
    )  # fmt: skip


def log_axis(axes: Axes, values: Sequence[float], side: str = "x") -> None:
    """A log axis with ticks at the values themselves (at most seven), in plain numbers."""
    axis = axes.xaxis if side == "x" else axes.yaxis
    (axes.set_xscale if side == "x" else axes.set_yscale)("log")
    ticks = spread_out(sorted(set(values)))
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_tick))


def within_percent(axes: Axes, metric: str, side: str) -> None:
    """Keeps an axis of percentages inside 0 to 100, where the interval of two or three seeds would run out of it."""
    if metric_named(metric).unit == "%":
        low, high = axes.get_xlim() if side == "x" else axes.get_ylim()
        (axes.set_xlim if side == "x" else axes.set_ylim)(max(low, 0.0), min(high, 100.0))


def spread_out(values: Sequence[float], most: int = 7) -> list[float]:
    """`values` less those that would crowd a log axis: neighbours stand at least 1/9 of its length apart."""
    if len(values) < 2:
        return list(values)
    gap = math.log(values[-1] / values[0]) / (most + 2)
    kept = [values[0]]
    for value in values[1:-1]:
        if math.log(value / kept[-1]) >= gap and math.log(values[-1] / value) >= gap:
            kept.append(value)
    return [*kept, values[-1]]


def _tick(value: float, _position: Any = None) -> str:
    return quantity(value) if value >= 1000 else f"{value:.3g}"


def legend_below(fig: Figure, axes: Axes) -> None:
    """The legend under the axes, in as many columns as fit; the figure grows by it. None for a single series."""
    handles, names = axes.get_legend_handles_labels()
    if len(names) < 2:
        return
    width, height = fig.get_size_inches()
    for columns in (3, 2, 1):
        legend = fig.legend(
            handles, [folded(name, 46) for name in names], loc="outside lower left", ncols=columns, fontsize=9,
            columnspacing=1.4, labelspacing=0.35,
        )  # fmt: skip
        box = legend.get_window_extent()
        if columns == 1 or box.width <= fig.bbox.width:
            break
        legend.remove()
    fig.set_size_inches(width, height + box.height / fig.dpi)


def lanes(names: Sequence[str], whole_points: float = 44.0) -> dict[str, float]:
    """{name: points to the right} that set series side by side at a common x, `whole_points` wide at most."""
    step = min(12.0, whole_points / len(names))
    return {name: step * (i - (len(names) - 1) / 2) for i, name in enumerate(names)}


def shifted(axes: Axes, points: float) -> Transform:
    """The axes' data coordinates, `points` to the right."""
    return offset_copy(axes.transData, axes.get_figure(root=True), points, 0.0, units="points")
