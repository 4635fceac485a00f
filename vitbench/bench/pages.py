"""Write the result of a benchmark into a folder: JSON, a table and a plot."""

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


def write(folder: Path, name: str, result: Mapping[str, Any], table: str, figure: Figure | None) -> list[Path]:
    """Writes `name`.json, .md and, with a figure, .svg and .png; the paths."""
    packages = ("torch", "timm", "vit-pytorch", "numpy", "vitbench")
    versions = {package: _version(package) for package in packages}
    machine = {"processor": platform.machine(), "python": platform.python_version(), "versions": versions}
    out = {f"{name}.json": json.dumps({**result, "machine": machine}, indent=1).encode() + b"\n"}
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


def suite_table(result: Mapping[str, Any]) -> str:
    """Markdown: every contestant's seconds, images per second, memory, and how many times as long as vitbench."""
    wall, processor = ratios(result["seconds"], "vitbench"), ratios(result["cpu_seconds"], "vitbench")
    size, flops = result["size"], result["train_flops"]
    repeats = len(result["seconds"]["vitbench"])
    lines = [
        f"{result['trainings']} trainings ({result['suite']}): width {size['embed_dim']}, depth {size['depth']}, patch "
        f"{size['patch_size']}, 28 px, batch {size['batch_size']}, {result['images']:,} images in total; "
        f"{result['cores']} cores, {result['device']}; plain loops with {result['plain_threads']} threads and "
        f"{result['loaders']} loader processes; whole processes, n = {repeats}, alternating.",
        f"Training FLOPs: vitbench {flops['vitbench']:.3g}, timm {flops['timm']:.3g}.",
        "",
        "| way | seconds, median | images/s | times as long [95%] | processor seconds, times | MiB | test top-1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, times in result["seconds"].items():
        medians = f"{median(times):.1f} | {result['images'] / median(times):,.0f}"
        rest = f"{result['peak_mib'][name]:,.0f} | {result['test_top1_percent'][name]:.1f}"
        lines.append(f"| {name} | {medians} | {_ratio(wall.get(name))} | {_ratio(processor.get(name))} | {rest} |")
    return "\n".join(lines) + "\n"


def _ratio(ratio: Mapping[str, float] | None) -> str:
    if ratio is None:
        return "1"
    if ratio["n"] < 2:
        return f"{ratio['ratio']:.2f} (n = 1)"
    return f"{ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def suite_figure(result: Mapping[str, Any]) -> Figure:
    """Seconds of every contestant, one dot per repeat."""
    from matplotlib.figure import Figure

    names = list(result["seconds"])
    figure = Figure(figsize=(7, 0.5 * len(names) + 1.2), layout="constrained")
    axes = figure.subplots()
    for row, name in enumerate(names):
        times = result["seconds"][name]
        colour = BLUE if name.startswith("vitbench") else GREY
        axes.barh(row, median(times), color=colour, height=0.55, alpha=0.35)
        axes.plot(times, [row] * len(times), "o", color=colour, markersize=4)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(f"seconds for {result['trainings']} trainings, whole process (bar: median, dots: repeats)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def scaling_table(result: Mapping[str, Any]) -> str:
    """Markdown: seconds at every value, and the exponent."""
    lines = [
        f"On {result['device']}, {result['threads']} thread(s).",
        "",
        "| against | seconds | exponent |",
        "|---|---|---|",
    ]
    for name, axis in result["axes"].items():
        cells = ", ".join(f"{v:,}: {s:.3g}" for v, s in zip(axis["values"], axis["seconds"], strict=True))
        lines.append(f"| {name} | {cells} | {axis['slope']:.2f} |")
    return "\n".join(lines) + "\n"


def scaling_figure(result: Mapping[str, Any]) -> Figure:
    """One log-log panel an axis, with the line of the fitted exponent."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    axis_list = list(result["axes"].items())
    columns = 4
    rows = -(-len(axis_list) // columns)
    figure = Figure(figsize=(3 * columns, 2.6 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, (name, axis) in zip(panels, axis_list, strict=False):
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
    for panel in panels[len(axis_list) :]:
        panel.set_visible(False)
    return figure


def model_table(result: Mapping[str, Any]) -> str:
    """Markdown: one model here and in timm."""
    lines = [
        f"{result['model']}, {result['img_size']} px, batch {result['batch_size']}, {result['precision']}, "
        f"{result['device']}, {result['threads']} thread(s): {result['params']:,} parameters, "
        f"{result['train_flops_a_step']:.3g} training FLOPs per step; a large matrix product reaches "
        f"{result['matmul_peak']:.3g} FLOP/s here; memory planned {result['planned_mib']:,.0f} MiB, "
        f"peak of the process {result['peak_mib']:,.0f} MiB.",
        "",
        "| way | seconds per step | images/s | share of that peak |",
        "|---|---|---|---|",
    ]
    for way, figures in result["ways"].items():
        share = f"{100 * figures['share_of_peak']:.0f}%"
        lines.append(f"| {way} | {figures['seconds']:.4g} | {figures['images_per_second']:,.1f} | {share} |")
    if result["timm_missing"]:
        lines.append(f"\nWithout timm: {result['timm_missing']}")
    return "\n".join(lines) + "\n"
