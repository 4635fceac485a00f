"""What a bench found, as JSON, a table and a plot in a folder."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from vitbench.base.durable import replace_durably
from vitbench.bench.suite import ratios

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, GREY = "#0b5394", "#8a8f98"


def write(folder: Path, name: str, found: Mapping[str, Any], table: str, figure: Figure | None) -> list[Path]:
    """Writes `name`.json, .md and, with a figure, .svg and .png; the paths."""
    packages = ("torch", "timm", "vit-pytorch", "numpy", "vitbench")
    versions = {package: _version(package) for package in packages}
    machine = {"processor": platform.machine(), "python": platform.python_version(), "versions": versions}
    out = {f"{name}.json": json.dumps({**found, "machine": machine}, indent=1).encode() + b"\n"}
    out[f"{name}.md"] = table.encode()
    if figure is not None:
        import io

        for kind in ("svg", "png"):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=150, bbox_inches="tight")
            out[f"{name}.{kind}"] = buffer.getvalue()
    for file, content in out.items():
        replace_durably(folder / file, content)
    return [folder / file for file in out]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def suite_table(found: Mapping[str, Any]) -> str:
    """Markdown: every contestant's seconds, images a second, memory, and how many times as long as vitbench."""
    wall, processor = ratios(found["seconds"], "vitbench"), ratios(found["cpu_seconds"], "vitbench")
    size, flops = found["size"], found["train_flops"]
    repeats = len(found["seconds"]["vitbench"])
    lines = [
        f"{found['trainings']} trainings ({found['suite']}): width {size['embed_dim']}, depth {size['depth']}, patch "
        f"{size['patch_size']}, 28 px, batch {size['batch_size']}, {found['images']:,} images in total; "
        f"{found['cores']} cores, {found['device']}; plain loops with {found['plain_threads']} threads and "
        f"{found['loaders']} loader processes; whole processes, n = {repeats}, alternating.",
        f"Training FLOPs: vitbench {flops['vitbench']:.3g}, timm {flops['timm']:.3g}.",
        "",
        "| way | seconds, median | images/s | times as long [95%] | processor seconds, times | MiB | test top-1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, times in found["seconds"].items():
        own = f"{median(times):.1f} | {found['images'] / median(times):,.0f}"
        rest = f"{found['peak_mib'][name]:,.0f} | {found['test_top1_percent'][name]:.1f}"
        lines.append(f"| {name} | {own} | {_ratio(wall.get(name))} | {_ratio(processor.get(name))} | {rest} |")
    return "\n".join(lines) + "\n"


def _ratio(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "1"
    if found["n"] < 2:
        return f"{found['ratio']:.2f} (n = 1)"
    return f"{found['ratio']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def suite_figure(found: Mapping[str, Any]) -> Figure:
    """Seconds of every contestant, a dot a repeat."""
    from matplotlib.figure import Figure

    names = list(found["seconds"])
    figure = Figure(figsize=(7, 0.5 * len(names) + 1.2), layout="constrained")
    axes = figure.subplots()
    for row, name in enumerate(names):
        times = found["seconds"][name]
        colour = BLUE if name.startswith("vitbench") else GREY
        axes.barh(row, median(times), color=colour, height=0.55, alpha=0.35)
        axes.plot(times, [row] * len(times), "o", color=colour, markersize=4)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(f"seconds for {found['trainings']} trainings, whole process (bar: median, dots: repeats)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def scaling_table(found: Mapping[str, Any]) -> str:
    """Markdown: seconds at every value, and the exponent."""
    lines = [
        f"On {found['device']}, {found['threads']} thread(s).",
        "",
        "| against | seconds | exponent |",
        "|---|---|---|",
    ]
    for name, axis in found["axes"].items():
        cells = ", ".join(f"{v:,}: {s:.3g}" for v, s in zip(axis["values"], axis["seconds"], strict=True))
        lines.append(f"| {name} | {cells} | {axis['slope']:.2f} |")
    return "\n".join(lines) + "\n"


def scaling_figure(found: Mapping[str, Any]) -> Figure:
    """One log-log panel an axis, with the line of the fitted exponent."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    axes_found = list(found["axes"].items())
    columns = 4
    rows = -(-len(axes_found) // columns)
    figure = Figure(figsize=(3 * columns, 2.6 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, (name, axis) in zip(panels, axes_found, strict=False):
        values, times, slope = axis["values"], axis["seconds"], axis["slope"]
        panel.loglog(values, times, "o", color=BLUE, markersize=5)
        panel.loglog(values, [times[-1] * (v / values[-1]) ** slope for v in values], "--", color=GREY, linewidth=1)
        panel.set_xticks(values, [f"{v:,}" for v in values])
        panel.xaxis.minorticks_off()
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.set_xlabel(name.partition(":")[0], fontsize=8)
        panel.set_title(f"{name}: exponent {slope:.2f}", fontsize=9)
        panel.set_ylabel("seconds", fontsize=8)
        panel.tick_params(labelsize=7)
    for panel in panels[len(axes_found) :]:
        panel.set_visible(False)
    return figure


def model_table(found: Mapping[str, Any]) -> str:
    """Markdown: one model here and in timm."""
    lines = [
        f"{found['model']}, {found['img_size']} px, batch {found['batch_size']}, {found['precision']}, "
        f"{found['device']}, {found['threads']} thread(s): {found['params']:,} parameters, "
        f"{found['train_flops_a_step']:.3g} training FLOPs a step; a large matrix product reaches "
        f"{found['matmul_peak']:.3g} FLOP/s here; memory planned {found['planned_mib']:,.0f} MiB, peak of the process "
        f"{found['peak_mib']:,.0f} MiB.",
        "",
        "| way | seconds a step | images/s | share of that peak |",
        "|---|---|---|---|",
    ]
    for way, own in found["ways"].items():
        lines.append(
            f"| {way} | {own['seconds']:.4g} | {own['images_per_second']:,.1f} | {100 * own['share_of_peak']:.0f}% |"
        )
    if found["timm_missing"]:
        lines.append(f"\nWithout timm: {found['timm_missing']}")
    return "\n".join(lines) + "\n"
