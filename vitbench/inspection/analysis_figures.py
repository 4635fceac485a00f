"""Figures of analyses, in the paper's form if the paper has the figure.

Each function takes {label: findings, one per seed}: one label with one network, or every arm of an experiment.
Lines are means over seeds, bars are 95% intervals, and images show the first seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vitbench.inspection.measures.representation import cka_table
from vitbench.inspection.results import Findings
from vitbench.report.formats import folded
from vitbench.report.plots.style import MUTED, LineStyle, looks, marked
from vitbench.stats.intervals import Interval, mean_interval

FindingsByLabel = Mapping[str, Sequence[Findings]]

PANEL = 2.6
NAME_WIDTH = 26
LINES = {"": "-", "class_token_": (0, (1.5, 1.5)), "token_": (0, (5, 2))}


def over_seeds(networks: Sequence[Findings], metric: str) -> Interval | None:
    """Mean and 95% interval of a metric over the networks that have it; None without any."""
    values = [network.metrics[metric] for network in networks if metric in network.metrics]
    return mean_interval(values) if values else None


def panels(rows: int, columns: int, *, width: float = PANEL, height: float = PANEL) -> tuple[Figure, Any]:
    """A figure of equal panels, and its axes `[rows, columns]`."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def picture(axes: Axes, image: np.ndarray, **options: Any) -> None:
    """Draw an image `[C, S, S]` or `[S, S]` without ticks, in grey if it has one channel."""
    drawn = image if image.ndim == 2 else image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    axes.imshow(drawn, **({"cmap": "gray"} if drawn.ndim == 2 else {}) | options)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def titled(axes: Axes, text: str) -> None:
    """Set a small title, in lines that fit the panel."""
    axes.set_title(folded(text, NAME_WIDTH), fontsize=9)


def filters(findings: FindingsByLabel) -> Figure:
    """Per label: the leading components as a tile, and the variance share of the first k components."""
    pairs = 1 if len(findings) < 4 else 2
    figure, grid = panels(-(-len(findings) // pairs), 2 * pairs, width=3.0)
    places = grid.reshape(-1, 2)
    for (tile, curve), (label, networks) in zip(places, findings.items(), strict=False):
        picture(tile, _tile(networks[0].arrays["components"]))
        titled(tile, label)
        for name, colour, dash in (("cumulative_untrained", MUTED, "--"), ("cumulative", "#0072b2", "-")):
            curves = [100 * network.arrays[name] for network in networks if name in network.arrays]
            if curves:
                mean = np.mean(curves, axis=0)
                curve.plot(np.arange(1, len(mean) + 1), mean, color=colour, linestyle=dash)
        curve.axhline(90.0, color=MUTED, linewidth=0.8)
        curve.set_xlabel("components")
        curve.set_ylabel("variance (%)")
    _blank(places, 2 * len(findings))
    return figure


def _tile(components: np.ndarray) -> np.ndarray:
    """Components `[K, C, P, P]` as one image of seven columns, each stretched to the full range."""
    count, channels, side, _ = components.shape
    columns = min(7, count)
    rows = -(-count // columns)
    canvas = np.ones((channels, rows * (side + 1) - 1, columns * (side + 1) - 1))
    for k, component in enumerate(components):
        y, x = (index * (side + 1) for index in divmod(k, columns))
        low, high = component.min(), component.max()
        canvas[:, y : y + side, x : x + side] = (component - low) / max(high - low, 1e-12)
    return canvas


def positions(findings: FindingsByLabel) -> Figure:
    """Per label: the mosaic of similarity maps, one small map per place (Fig. 7 centre), and relative tables."""
    tables = {
        f"{label}: {name}": network.arrays[name]
        for label, (network, *_) in findings.items()
        for name in ("rel_pos", "rel_pos_h", "rel_pos_w")
        if name in network.arrays
    }
    columns = min(3, len(findings))
    rows = -(-len(findings) // columns)
    figure, grid = panels(rows + -(-len(tables) // columns), columns)
    drawn = None
    for axes, (label, networks) in zip(grid[:rows].flat, findings.items(), strict=False):
        drawn = axes.imshow(_mosaic(networks[0].arrays["maps"]), vmin=-1, vmax=1, cmap="viridis")
        rho = over_seeds(networks, "pos_distance_spearman")
        titled(axes, f"{label} (rho {_words(rho, 0.01)})")
    for axes, (label, table) in zip(grid[rows:].flat, tables.items(), strict=False):
        axes.imshow(table, vmin=-1, vmax=1, cmap="viridis")
        titled(axes, f"{label}, offset by offset")
    for axes in grid.flat:
        axes.set_axis_off()
    if drawn is not None:
        figure.colorbar(drawn, ax=grid, shrink=0.7, label="cosine similarity")
    return figure


def _mosaic(maps: np.ndarray) -> np.ndarray:
    """Maps `[N, N]` as a mosaic `[G (G + 1), G (G + 1)]` of one map per place, with a blank line between maps."""
    side = round(len(maps) ** 0.5)
    canvas = np.full((side * (side + 1) - 1,) * 2, np.nan)
    for place, row in enumerate(maps):
        y, x = (index * (side + 1) for index in divmod(place, side))
        canvas[y : y + side, x : x + side] = row.reshape(side, side)
    return canvas


def _words(interval: Interval | None, scale: float = 1.0) -> str:
    if interval is None or interval.mean is None:
        return "-"
    if interval.ends is None:
        return f"{scale * interval.mean:.2f}"
    low, high = interval.ends
    return f"{scale * interval.mean:.2f} [{scale * low:.2f}, {scale * high:.2f}]"


def distance(findings: FindingsByLabel) -> Figure:
    """Per label: every head's distance (dots, heads sorted within a seed, mean over seeds) and the layer's mean."""
    columns = min(3, len(findings))
    figure, grid = panels(-(-len(findings) // columns), columns)
    for axes, (label, networks) in zip(grid.flat, findings.items(), strict=False):
        heads = np.mean([np.sort(network.arrays["percent"], axis=1) for network in networks], axis=0)
        x = np.arange(len(heads))
        for column in heads.T:
            axes.plot(x, column, linestyle="none", marker="o", markersize=3.5, color="#0072b2", alpha=0.6)
        untrained = [
            network.arrays["percent_untrained"].mean(1) for network in networks if "percent_untrained" in network.arrays
        ]
        if untrained:
            axes.plot(x, np.mean(untrained, axis=0), color=MUTED, linestyle="--", label="untrained, mean")
        _intervals(axes, x, [over_seeds(networks, f"attention_distance_{layer}_percent") for layer in x], "#d55e00")
        axes.axhline(100.0, color=MUTED, linewidth=0.9)
        axes.set_xticks(x)
        axes.set_xlabel("layer")
        axes.set_ylabel("distance (% of uniform)")
        titled(axes, f"{label} (uniform {float(networks[0].arrays['uniform_px']):.1f} px)")
    _blank(grid, len(findings))
    used = list(grid.flat)[: len(findings)]
    limits = np.array([axes.get_ylim() for axes in used])
    for axes in used:
        axes.set_ylim(limits[:, 0].min(), limits[:, 1].max())
    return figure


def _intervals(axes: Axes, x: np.ndarray, values: Sequence[Interval | None], colour: str, dash: Any = "-") -> None:
    """Draw a line through the means, with a bar per interval."""
    axes.plot(x, _means(values), color=colour, linestyle=dash)
    _bars(axes, x, values, color=colour, linewidth=2.0)


def _means(values: Sequence[Interval | None]) -> list[float]:
    """The means, with NaN for a missing one, so that a line has a gap there."""
    return [np.nan if value is None or value.mean is None else value.mean for value in values]


def _bars(axes: Axes, x: np.ndarray, values: Sequence[Interval | None], **style: Any) -> None:
    """Draw a vertical bar at `x` for each interval."""
    for at, value in zip(x, values, strict=True):
        if value is not None and value.ends is not None:
            axes.plot([at, at], list(value.ends), **style)


def _blank(grid: Any, used: int) -> None:
    for axes in list(grid.flat)[used:]:
        axes.set_axis_off()


def gallery(rows: Sequence[tuple[str, Callable[[Findings], np.ndarray]]]) -> Callable[[FindingsByLabel], Figure]:
    """A function that draws pictures: per label one line of images for each of `rows`, which are (name, images)."""

    def draw(findings: FindingsByLabel) -> Figure:
        count = min(6, min(len(rows[0][1](networks[0])) for networks in findings.values()))
        figure, grid = panels(len(rows) * len(findings), count, width=1.15, height=1.2)
        lines = [(f"{label}: {name}", get(networks[0])) for label, networks in findings.items() for name, get in rows]
        for axes, (name, images) in zip(grid, lines, strict=True):
            for panel, image in zip(axes, images, strict=False):
                picture(
                    panel, image, **({"cmap": "viridis", "vmin": 0.0} if image.ndim == 2 else {"vmin": 0, "vmax": 1})
                )
            axes[0].set_ylabel(folded(name, 16), fontsize=7, rotation=0, ha="right", va="center", color="#1a1a1a")
        return figure

    return draw


ROLLOUT = gallery(
    [
        ("image", lambda network: network.arrays["images"]),
        ("rollout", lambda network: network.arrays["rollout"]),
        ("with identity", lambda network: network.arrays["rollout_residual"]),
        ("last layer", lambda network: network.arrays["last_layer"]),
    ]
)
RECONSTRUCTION = gallery(
    [
        ("image", lambda network: network.arrays["images"]),
        ("hidden", lambda network: network.arrays["hidden"]),
        ("filled in", lambda network: network.arrays["filled"]),
    ]
)
MASKS = gallery(
    [
        ("image", lambda network: network.arrays["images"]),
        ("true masks", lambda network: network.arrays["truth"]),
        ("predicted", lambda network: network.arrays["predicted"]),
    ]
)
WORDS = gallery(
    [
        ("image", lambda network: network.arrays["images"]),
        ("subject", lambda network: network.arrays["subject"]),
        ("relation", lambda network: network.arrays["relation"]),
        ("object", lambda network: network.arrays["object"]),
    ]
)


def layers(findings: FindingsByLabel) -> Figure:
    """Per label: probe accuracy by layer (patches' mean, class token, a single token), and CKA of layers.

    CKA compares a label's layers with each other, and with the layers of the first label (for the first: other seeds).
    """
    first = next(iter(findings.values()))
    figure, grid = panels(3 if len(first) > 1 else 2, len(findings), height=2.4)
    for (top, *below), (label, networks) in zip(grid.T, findings.items(), strict=True):
        x = np.arange(len(networks[0].arrays["cka"]))
        for (name, dash), colour in zip(LINES.items(), ("#0072b2", "#d55e00", "#009e73"), strict=True):
            values = [over_seeds(networks, f"layer_{layer}_{name}probe_percent") for layer in x]
            if any(values):
                _intervals(top, x, values, colour, dash)
        top.set_xticks(x)
        top.set_ylim(0, 100)
        top.set_ylabel("probe (%)")
        titled(top, label)
        tables = [np.mean([network.arrays["cka"] for network in networks], axis=0), between(networks, first)]
        for axes, table, name in zip(below, tables, ("itself", "the first arm"), strict=False):
            drawn = axes.imshow(table, vmin=0, vmax=1, origin="lower")
            axes.set_xlabel(f"layer of {name}")
            axes.set_ylabel("layer")
            axes.grid(visible=False)
    figure.colorbar(drawn, ax=grid[1:], shrink=0.8, label="CKA")
    return figure


def between(networks: Sequence[Findings], others: Sequence[Findings]) -> np.ndarray:
    """CKA of the layers of `networks` with those of `others` at another seed, mean over neighbouring pairs of seeds."""
    pairs = zip(networks, [*others[1:], *others[:1]], strict=False)
    return np.asarray(np.mean([cka_table(pooled(network), pooled(other)) for network, other in pairs], axis=0))


def pooled(network: Findings) -> list[np.ndarray]:
    """The patches' mean after every layer, `[n, D]` each."""
    return [network.arrays[f"pooled_{layer}"].astype(np.float64) for layer in range(len(network.arrays["cka"]))]


def robustness(findings: FindingsByLabel) -> Figure:
    """Accuracy against the strength of each kind of damage, one line per label."""
    metrics = {name for networks in findings.values() for network in networks for name in network.metrics}
    shuffles = sorted(
        int(name.split("_")[2]) for name in metrics if name.startswith("robust_shuffle_") and "shifted" in name
    )
    damages: list[tuple[str, list[tuple[str, str]]]] = [
        *(
            (f"dropped: {kind} cells (%)", [("0", "clean"), *((s, f"drop_{kind}_{s}") for s in ("25", "50", "75"))])
            for kind in ("random", "salient", "nonsalient")
        ),
        ("shuffled cells per side", [("1", "clean"), *((str(k), f"shuffle_{k}_shifted") for k in shuffles)]),
        ("frequencies, phases", [("all", "clean"), ("low\n½", "low_pass_500"), ("low\n¼", "low_pass_250"),
            ("high\n⅛", "high_pass_125"), ("high\n¼", "high_pass_250"), ("phase", "scrambled_phase")]),
        ("noise, level", [("0", "clean"), *((str(n), f"noise_{n}") for n in (1, 2, 3))]),
        ("blur, level", [("0", "clean"), *((str(n), f"blur_{n}") for n in (1, 2, 3))]),
        ("JPEG, level", [("0", "clean"), *((str(n), f"jpeg_{n}") for n in (1, 2, 3))]),
        ("patch pasted in", [("none", "clean"), ("noise", "noise_patch"), ("adverse", "adversarial_patch")]),
    ]  # fmt: skip
    figure, grid = panels(3, 3)
    styles = looks(list(findings))
    for axes, (title, points) in zip(grid.flat, damages, strict=True):
        for offset, (label, networks) in zip(_offsets(len(findings)), findings.items(), strict=True):
            look = styles[label] if points[1][0].isdigit() else replace(styles[label], dash="none")
            _curve(axes, networks, [name for _, name in points], look, offset)
        axes.set_xticks(range(len(points)), [tick for tick, _ in points], fontsize=8)
        axes.set_ylim(0, 100)
        axes.set_title(title, fontsize=9)
    for row in grid:
        row[0].set_ylabel("top-1 (%)")
    handles = [Line2D([], [], **marked(styles[label])) for label in findings]
    figure.legend(handles, [folded(label, 40) for label in findings], loc="outside lower left", ncols=3)
    return figure


def _offsets(count: int) -> np.ndarray:
    """Small shifts that keep the bars of several labels apart."""
    return np.linspace(-0.15, 0.15, count) if count > 1 else np.zeros(1)


def _curve(axes: Axes, networks: Sequence[Findings], names: Sequence[str], look: LineStyle, offset: float) -> None:
    values = [over_seeds(networks, f"robust_{name}_percent") for name in names]
    x = np.arange(len(names)) + offset
    axes.plot(x, _means(values), **marked(look))
    _bars(axes, x, values, color=look.colour, linewidth=1.6)
