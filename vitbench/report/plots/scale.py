"""Accuracy against size: number of training images, training FLOPs, shape of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitbench.base.errors import printable
from vitbench.report.plots.style import (
    MUTED,
    SHADE,
    LineStyle,
    dots,
    figure,
    interval_bar,
    lanes,
    legend_below,
    log_axis,
    looks,
    marked,
    shifted,
    within_percent,
)
from vitbench.report.row_values import arm_order, dot_links, metric_label, own_best, quantity, scores_by_seed, series_of
from vitbench.report.summaries import LEVEL
from vitbench.spec.claims import single_claims
from vitbench.spec.experiment import Experiment
from vitbench.spec.metrics import is_probe, metric_named
from vitbench.stats.curves import Located
from vitbench.stats.intervals import Interval, mean_interval
from vitbench.stats.paired_sample import counted_images
from vitbench.stats.table import Row, total_train_flops, with_pretraining
from vitbench.stats.verdict_types import Verdict
from vitbench.store.record import parents_of

KNOBS = {
    "depth": "Depth",
    "embed_dim": "Width",
    "mlp_ratio": "MLP width",
    "patch_size": "Patch size",
}
UNITS = ((18, "exa"), (15, "peta"), (12, "tera"), (9, "giga"), (6, "mega"))
FAMILIES = {"vit": "ViT", "resnet": "ResNet", "hybrid": "Hybrid"}
FRONT_DASHES = ((0, (4, 3)), (0, (1, 2)), (0, (6, 2, 1, 2)))
LANES_POINTS = 24.0
"""Width, in points, over which the series at one x stand side by side."""
LEAST_SPREAD = 1.2
"""Costs within this ratio are one cost: arms at equal compute make no plot against compute."""


@dataclass(frozen=True)
class Point:
    """One arm on a plot: x, its seeds' scores with their links, their mean."""

    arm: str
    x: float
    scores: tuple[float, ...]
    links: tuple[str, ...]
    mean: Interval


def points_by(experiment: Experiment, rows: Sequence[Row], size: str) -> dict[str, Point]:
    """{arm: point} at x = `result[size]` or `row[size]`, each arm at its own best; training FLOPs are of all stages.

    Arms without a score or x are left out.
    """
    best = own_best(with_pretraining(rows))
    num_images = counted_images(experiment.report.metric, best)
    points = {}
    for arm in arm_order(experiment, rows):
        trials = [row for row in best if row["arm"] == arm and row["status"] == "ok"]
        by_seed = scores_by_seed(trials, experiment.report.metric)
        scores, links = tuple(by_seed.values()), tuple(dot_links(trials, by_seed))
        if scores and (x := _size(trials[0], size)):
            points[arm] = Point(arm, x, scores, links, mean_interval(scores, LEVEL, num_images))
    return points


def _size(row: Row, size: str) -> float:
    if size == "train_flops":
        return total_train_flops(row)
    return float(row["result"].get(size) or row.get(size) or 0.0)


def data_plot(experiment: Experiment, rows: Sequence[Row], verdicts: Sequence[Verdict] = ()) -> Figure | None:
    """Score against training images, one line per series; None unless the share of the data is a factor.

    Where a verdict located a crossing along the number of images, it stands there with its interval.
    """
    points = points_by(experiment, rows, "num_train_images")
    if "data.train_fraction" not in experiment.factors or not _spread(points):
        return None
    fig, axes = figure(3.2)
    for place in crossings(experiment, verdicts):
        _crossing(axes, place)
    _series(axes, experiment, points)
    return _finished(fig, axes, experiment, "Training images")


def crossings(experiment: Experiment, verdicts: Sequence[Verdict]) -> list[Located]:
    """Where the claims' curves cross, in training images."""
    axes = {claim.id: claim.x for claim in single_claims(experiment.claims) if claim.form == "crossover"}
    return [v.located for v in verdicts if v.located is not None and axes.get(v.claim) == "log2_images"]


def _crossing(axes: Axes, place: Located) -> None:
    """A shaded interval (to the end of the range where it is open) and a line at the crossing."""
    low, high = place.low or place.smallest, place.high or place.largest
    axes.axvspan(low, high, color=SHADE, linewidth=0)
    if place.value is not None:
        label = f"crossing at {quantity(place.value)} ({100 * place.level:.0f}%: {quantity(low)} to {quantity(high)})"
        axes.axvline(place.value, color=MUTED, linewidth=1.2, linestyle=FRONT_DASHES[0], label=label)


def compute_plot(experiment: Experiment, rows: Sequence[Row]) -> Figure | None:
    """Score against training FLOPs with each family's frontier; None if all arms cost about the same.

    None, too, if the score is of features as the last stage begins: its FLOPs did not make them.
    """
    points = points_by(experiment, rows, "train_flops")
    if not _spread(points) or probes_the_start(experiment, rows):
        return None
    points, prefix = _in_units(points)
    fig, axes = figure(3.2)
    for dash, (family, members) in zip(cycle(FRONT_DASHES), by_family(points, rows).items()):
        front = frontier(members, metric_named(experiment.report.metric).sign)
        if len(front) > 1:
            label = f"{FAMILIES.get(family, family)} frontier"
            axes.plot(
                *zip(*front, strict=True),
                color=MUTED,
                linewidth=1.2,
                linestyle=dash,
                drawstyle="steps-post",
                label=label,
            )
    _series(axes, experiment, points)
    return _finished(fig, axes, experiment, f"Training compute ({prefix}FLOPs)")


def pretraining_plot(experiment: Experiment, rows: Sequence[Row]) -> Figure | None:
    """A probe of pre-trained features against the FLOPs of the pre-training, one line per series; None for any other
    score, or if all arms cost about the same. A horizontal line with its interval shows features without training."""
    if not probes_the_start(experiment, rows):
        return None
    points = points_by(experiment, rows, "pretrain_flops")
    if not _spread(points):
        return None
    points, prefix = _in_units(points)
    fig, axes = figure(3.6)
    for arm, untrained in points_by(experiment, _without_pretraining(rows), "num_train_images").items():
        _level(axes, untrained, series_of(experiment)[arm])
    _series(axes, experiment, points)
    return _finished(fig, axes, experiment, f"Compute of the pre-training ({prefix}FLOPs)")


def probes_the_start(experiment: Experiment, rows: Sequence[Row]) -> bool:
    """True if the reported score is a probe of the features with which the last stage begins."""
    features = {row["spec"].get("evaluate", {}).get("features") for row in own_best(rows)}
    return features == {"start"} and is_probe(experiment.report.metric)


def _without_pretraining(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not parents_of(row)]


def _level(axes: Axes, point: Point, name: str) -> None:
    """A horizontal line at the point's mean, its interval shaded."""
    if point.mean.low is not None and point.mean.high is not None:
        axes.axhspan(point.mean.low, point.mean.high, color=SHADE, linewidth=0)
    if point.mean.mean is not None:
        axes.axhline(point.mean.mean, color=MUTED, linewidth=1.2, linestyle=FRONT_DASHES[0], label=printable(name))


def _in_units(points: Mapping[str, Point]) -> tuple[dict[str, Point], str]:
    """The points in a unit of FLOPs in which the largest is at least 1, and the unit's prefix."""
    unit, prefix = compute_unit(max(point.x for point in points.values()))
    return {arm: replace(point, x=point.x / unit) for arm, point in points.items()}, prefix


def compute_unit(most: float) -> tuple[float, str]:
    """The power of 1000 in which `most` FLOPs are about 1 or more, with its name: the paper's Fig. 5 counts exaFLOPs.

    A budget of 1e12 is met by whole steps, so by a little less.
    """
    return next(((10.0**power, name) for power, name in UNITS if most >= 0.99 * 10.0**power), (1.0, ""))


def by_family(points: Mapping[str, Point], rows: Sequence[Row]) -> dict[str, dict[str, Point]]:
    """{family of the model: {arm: point}}, in the order of the points."""
    models, families = _models(rows), dict[str, dict[str, Point]]()
    for arm, point in points.items():
        families.setdefault(str(models[arm].get("family", "vit")), {})[arm] = point
    return families


def shape_plot(experiment: Experiment, rows: Sequence[Row]) -> Figure | None:
    """Score against training FLOPs relative to the baseline, one line per dimension; None if none is varied."""
    anchor, models = arm_order(experiment)[0], _models(rows)
    points = {
        name: p for name, p in points_by(experiment, rows, "train_flops").items() if name in _as_long(anchor, rows)
    }
    knobs = {name: knob_of(models[anchor], models[name]) for name in points if anchor in points and name != anchor}
    lines = {
        knob: [name for name, its in knobs.items() if its == knob] for knob in dict.fromkeys(knobs.values()) if knob
    }
    if not lines or not _spread(points):
        return None
    relative = {name: replace(p, x=p.x / points[anchor].x) for name, p in points.items()}
    look_of = looks(list(lines))
    fig, axes = figure(3.2)
    for knob, names in lines.items():
        _line(axes, [relative[name] for name in (anchor, *names)], look_of[knob], knob)
    log_axis(axes, [relative[name].x for names in lines.values() for name in (anchor, *names)])
    return _finished(fig, axes, experiment, f"Training FLOPs relative to {printable(anchor)}")


def _as_long(anchor: str, rows: Sequence[Row]) -> set[str]:
    """The arms that see as many images as the anchor: a shape is compared at equal length."""
    num_images = {row["arm"]: row["result"].get("num_images") for row in own_best(rows)}
    return {arm for arm, num in num_images.items() if num == num_images.get(anchor)}


def _models(rows: Sequence[Row]) -> dict[str, Mapping[str, Any]]:
    """{arm: the fields of its model that differ from their defaults}."""
    return {row["arm"]: row["spec"].get("model", {}) for row in own_best(rows)}


def knob_of(anchor: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """Which dimension differs between two models: a name of KNOBS, `All together` for several, empty for none."""
    changed = {field for field in {*anchor, *model} if anchor.get(field) != model.get(field)}
    changed -= {"name", "num_heads"}  # heads follow the width, at a fixed width per head
    if not changed or not changed <= set(KNOBS):
        return ""
    return KNOBS[changed.pop()] if len(changed) == 1 else "All together"


def frontier(points: Mapping[str, Point], sign: float = 1.0) -> list[tuple[float, float]]:
    """(x, mean) of the arms that no cheaper arm reaches, by ascending x; `sign` -1: lower means are better."""
    front: list[tuple[float, float]] = []
    for point in sorted(points.values(), key=lambda p: (p.x, -sign * (p.mean.mean or 0.0))):
        if point.mean.mean is not None and (not front or sign * point.mean.mean > sign * front[-1][1]):
            front.append((point.x, point.mean.mean))
    return front


def _spread(points: Mapping[str, Point]) -> bool:
    xs = [point.x for point in points.values()]
    return len(xs) > 1 and max(xs) / min(xs) >= LEAST_SPREAD


def _series(axes: Axes, experiment: Experiment, points: Mapping[str, Point]) -> None:
    """Every series of the points in its look, on a log axis."""
    series = series_of(experiment, [{"arm": arm} for arm in points])
    look_of = looks(list(series.values()))
    axes.margins(x=0.08)
    for name, right in lanes(list(dict.fromkeys(series[arm] for arm in points)), LANES_POINTS).items():
        _line(axes, [point for arm, point in points.items() if series[arm] == name], look_of[name], name, right)
    log_axis(axes, [point.x for point in points.values()])


def _finished(fig: Figure, axes: Axes, experiment: Experiment, x_label: str) -> Figure:
    """The figure with its labels and legend."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(metric_label(experiment.report.metric))
    within_percent(axes, experiment.report.metric, "y")
    legend_below(fig, axes)
    return fig


def _line(axes: Axes, points: Sequence[Point], look: LineStyle, name: str, right: float = 0.0) -> None:
    """Seeds, means and intervals of one series, its means joined, `right` points beside x: series often share x."""
    ordered, place = sorted(points, key=lambda point: point.x), shifted(axes, right)
    for point in ordered:
        dots(axes, [point.x] * len(point.scores), point.scores, look.colour, point.links, right - 4.0)
        interval_bar(axes, point.x, point.mean, look, place)
    means = [(point.x, point.mean.mean) for point in ordered]
    width = 1.4 if len(means) > 1 else 0.0
    axes.plot(*zip(*means, strict=True), **marked(look), linewidth=width, label=printable(name), transform=place)
