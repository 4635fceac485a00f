"""Every plot of an experiment: which of them its rows allow, and how the result is written."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Transform

from vitbench.base.durable import replace_all
from vitbench.base.errors import printable
from vitbench.report.formats import folded
from vitbench.report.pages.inline_svg import linked, slim
from vitbench.report.plots.scale import compute_plot, data_plot, pretraining_plot, shape_plot
from vitbench.report.plots.style import (
    MUTED,
    SHADE,
    LineStyle,
    arm_looks,
    dots,
    figure,
    interval_line,
    lanes,
    legend_below,
    log_axis,
    marked,
    plotting,
    shifted,
    within_percent,
)
from vitbench.report.plots.training_curves import curves_plot, rates_plot
from vitbench.report.row_values import Setting, dot_links, metric_label, own_best, scores_by_seed, series_of, short
from vitbench.report.source_numbers import equivalence_margin, paper_effects
from vitbench.report.summaries import TunedPoint, own_best_pairs, own_best_summaries, tuned_points
from vitbench.report.tables import difference_cell, lost_label, mean_cell
from vitbench.spec.arms import level_name
from vitbench.spec.experiment import Experiment
from vitbench.spec.metrics import metric_named
from vitbench.stats.table import Row
from vitbench.stats.verdict_types import Verdict

ROW_INCHES = 0.42
NAME_WIDTH = 20
"""Characters of an arm's name on one line beside its row."""
RINGS = (11.0, 15.0)
"""Sizes in points: one ring around a choice, a second where it lies at the edge of the grid."""
CAPTIONS = {
    "arms": "One dot per seed; diamond and bar: mean and 95% interval. Each arm at its own best setting.",
    "differences": "Difference to the baseline, paired by seed: one dot per seed, mean, 95% interval (thick: 90%, "
    "which decides equivalence). Shaded: the equivalence margin. Star: the paper's number.",
    "tuning": "Validation accuracy against the tuned value: one dot per tuning seed, lines through the means, a ring "
    "around the choice, two rings where it is at the edge of the grid.",
    "curves": "Validation accuracy during training: mean over seeds; the band runs from lowest to highest seed. "
    "The steep start is cut off.",
    "rates": "The same at the settings that a claim compares (compare the paper's Fig. 9): dashed where the setting is "
    "not the arm's own best.",
    "data": "Accuracy against the number of training images (compare the paper's Figs. 3 and 4): seeds, means, "
    "95% intervals. Shaded, where a claim asks for it: the interval of the crossing.",
    "compute": "Accuracy against training compute (compare the paper's Fig. 5): seeds, means, 95% intervals. Grey: the "
    "best mean that each family reaches within a budget.",
    "pretraining": "A probe of the pre-trained features against the training FLOPs of the pre-training, all networks "
    "counted: seeds, means, 95% intervals. Dashed, with its interval shaded: features that were not trained.",
    "shape": "Accuracy against training FLOPs relative to the baseline, one line per dimension (compare the paper's "
    "Fig. 8): seeds, means, 95% intervals.",
}


def plots_for(experiment: Experiment, rows: Sequence[Row], verdicts: Sequence[Verdict] = ()) -> dict[str, Figure]:
    """{name: figure} of the plots that these rows allow, in the order of a report; `verdicts` locate crossings."""
    with plotting():
        plots = {
            "arms": arms_plot(experiment, rows),
            "differences": differences_plot(experiment, rows),
            **tuning_plots(experiment, rows),
            "curves": curves_plot(experiment, rows),
            "rates": rates_plot(experiment, rows),
            "data": data_plot(experiment, rows, verdicts),
            "compute": compute_plot(experiment, rows),
            "pretraining": pretraining_plot(experiment, rows),
            "shape": shape_plot(experiment, rows),
        }
    return {name: fig for name, fig in plots.items() if fig is not None}


def caption(name: str) -> str:
    """What a plot shows, in words."""
    return CAPTIONS[name.split("-")[0]]


def save(figures: Mapping[str, Figure], folder: Path) -> dict[str, str]:
    """{name: SVG text}, after writing `<name>.svg` and `<name>.png`; the same figures give the same bytes."""
    drawings, files = drawn(figures)
    replace_all(folder, files)
    return drawings


def drawn(figures: Mapping[str, Figure], folder: str = "") -> tuple[dict[str, str], dict[str, bytes]]:
    """{name: SVG text}, and the files {`folder` + name: content}; the same figures give the same bytes.

    In the files the link of a dot leads to the page beside the folder.
    """
    drawings = {name: svg(fig) for name, fig in figures.items()}
    files: dict[str, bytes] = {}
    for name, fig in figures.items():
        files[f"{folder}{name}.svg"] = linked(drawings[name], "../index.html").encode()
        png = io.BytesIO()
        with plotting():
            fig.savefig(png, format="png", dpi=200, metadata={"Software": None})
        files[f"{folder}{name}.png"] = png.getvalue()
    return drawings, files


def svg(fig: Figure) -> str:
    """The figure as SVG text, without a date; its layout is settled by this, as working it out costs most."""
    with plotting():
        text = io.StringIO()
        fig.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        fig.set_layout_engine("none")
    return slim(text.getvalue())


def arms_plot(experiment: Experiment, rows: Sequence[Row]) -> Figure | None:
    """One line per arm: every seed a dot, mean and 95% interval, the numbers beside it."""
    arms = [arm for arm in own_best_summaries(experiment, rows) if arm.mean.mean is not None]
    if not arms:
        return None
    colours, best = _looks(experiment, rows), own_best(rows)
    fig, axes = _rows_figure([arm.arm for arm in arms], metric_label(experiment.report.metric))
    for y, arm in enumerate(arms):
        scores = scores_by_seed((row for row in best if row["arm"] == arm.arm), experiment.report.metric)
        look = colours[arm.arm]
        links = dot_links((row for row in best if row["arm"] == arm.arm), scores)
        dots(axes, list(scores.values()), [y - 0.16] * len(scores), look.colour, links)
        interval_line(axes, arm.mean, y + 0.14, look.colour)
        lost = lost_label(arm)
        _beside(
            axes, y, f"{mean_cell(arm, experiment.report.metric)}" + (f"\n{lost}" if lost else f"\nn = {arm.mean.n}")
        )
    within_percent(axes, experiment.report.metric, "x")
    return fig


def differences_plot(experiment: Experiment, rows: Sequence[Row]) -> Figure | None:
    """Forest plot of arm minus baseline, paired by seed, with the claims' margin and the paper's numbers."""
    pairs = own_best_pairs(experiment, rows)
    baseline, *others = pairs.scores
    others = [arm for arm in others if pairs.by_seed(arm, baseline)]
    best = own_best(rows)
    if not others:
        return None
    margin, paper = equivalence_margin(experiment), paper_effects(experiment, baseline)
    colours, named = _looks(experiment, rows), metric_named(experiment.report.metric)
    fig, axes = _rows_figure(others, f"minus {baseline} ({named.points})")
    if margin is not None:
        axes.axvspan(-margin, margin, color=SHADE, linewidth=0)
    axes.axvline(0.0, color=MUTED, linewidth=1.0)
    for y, arm in enumerate(others):
        each, colour = pairs.by_seed(arm, baseline), colours[arm].colour
        links = dot_links((row for row in best if row["arm"] == arm), each, "+.2f")
        dots(axes, list(each.values()), [y - 0.16] * len(each), colour, links)
        interval = pairs.difference(arm, baseline)
        if margin is not None:
            interval_line(axes, pairs.difference(arm, baseline, 0.90), y + 0.14, colour, 4.5)
        interval_line(axes, interval, y + 0.14, colour, 1.4)
        if arm in paper:
            axes.plot([paper[arm]], [y + 0.14], marker="*", markersize=9, color="#ffffff", markeredgecolor=MUTED)
        _beside(axes, y, f"{difference_cell(interval, named.name)}\nn = {interval.n}")
    return fig


def tuning_plots(experiment: Experiment, rows: Sequence[Row]) -> dict[str, Figure]:
    """One plot per tuned path: validation score against its value, the other paths at the arm's choice."""
    points = tuned_points(experiment, rows)
    paths = list(dict.fromkeys(path for point in points for path, _ in point.setting))
    plots = {f"tuning-{short(path)}": _tuning_plot(experiment, rows, points, path) for path in paths}
    return {name: plot for name, plot in plots.items() if plot is not None}


def _tuning_plot(experiment: Experiment, rows: Sequence[Row], points: Sequence[TunedPoint], path: str) -> Figure | None:
    values = list(dict.fromkeys(dict(point.setting)[path] for point in points))
    if len(values) < 2:
        return None
    numbers = all(isinstance(value, (int, float)) and value > 0 for value in values)
    position = {value: float(value) if numbers else float(i) for i, value in enumerate(values)}
    colours = _looks(experiment, rows)
    fig, axes = figure(3.1)
    axes.margins(x=0.1)
    for arm, right in lanes(list(dict.fromkeys(point.arm for point in points))).items():
        line = _along(path, [point for point in points if point.arm == arm])
        _tuning_line(axes, arm, [(position[dict(point.setting)[path]], point) for point in line], colours[arm], right)
    if numbers:
        log_axis(axes, [position[value] for value in values])
    else:
        axes.set_xticks(list(position.values()), [printable(level_name(value)) for value in values])
    axes.set_xlabel(printable(path))
    axes.set_ylabel(metric_named(points[0].metric).label)
    legend_below(fig, axes)
    return fig


def _along(path: str, points: Sequence[TunedPoint]) -> list[TunedPoint]:
    """The points of one arm that agree with its choice (else with its best) in every path but `path`."""
    sign = metric_named(points[0].metric).sign
    centre = max(points, key=lambda p: (p.chosen, p.mean is not None, sign * (p.mean or 0.0)))
    return [point for point in points if _but(path, point.setting) == _but(path, centre.setting)]


def _but(path: str, setting: Setting) -> Setting:
    return tuple(pair for pair in setting if pair[0] != path)


def _tuning_line(axes: Axes, arm: str, line: Sequence[tuple[float, TunedPoint]], look: LineStyle, right: float) -> None:
    """One arm's means and seeds, `right` points beside the settings so that the arms stand side by side."""
    place = shifted(axes, right)
    for x, point in line:
        dots(axes, [x] * len(point.scores), list(point.scores.values()), look.colour, point.links, right)
        if point.mean is not None:
            _rings(axes, x, point.mean, point.chosen + point.at_edge, look, place)
    means = [(x, point.mean) for x, point in line if point.mean is not None]
    if means:
        axes.plot(*zip(*means, strict=True), **marked(look), linewidth=1.2, label=printable(arm), transform=place)


def _rings(axes: Axes, x: float, y: float, num: int, look: LineStyle, place: Transform) -> None:
    for size in RINGS[:num]:
        axes.plot(
            [x], [y], marker="o", markersize=size, fillstyle="none", color=look.colour, markeredgewidth=1.2,
            transform=place,
        )  # fmt: skip


def _looks(experiment: Experiment, rows: Sequence[Row]) -> dict[str, LineStyle]:
    return arm_looks(series_of(experiment, rows))


def _rows_figure(names: Sequence[str], x_label: str) -> tuple[Figure, Axes]:
    """Axes with one named row per arm, the first on top; long names are folded."""
    labels = [folded(printable(name), NAME_WIDTH) for name in names]
    num_lines = max(label.count("\n") + 1 for label in labels)
    fig, axes = figure(0.8 + max(ROW_INCHES, 0.17 * num_lines + 0.06) * len(names))
    axes.set_yticks(range(len(names)), labels)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(folded(printable(x_label), 36))
    axes.margins(x=0.06)
    return fig, axes


def _beside(axes: Axes, y: float, text: str) -> None:
    """Two lines of numbers to the right of the axes at height y."""
    axes.annotate(
        text.replace("-", "−"), (1.0, y), (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
        va="center", fontsize=9,
    )  # fmt: skip
