"""Validation accuracy during training: every arm at its own best, and the settings that a claim compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vitbench.base.errors import printable
from vitbench.report.plots.style import DASHES, LineStyle, arm_looks, figure, legend_below, marked
from vitbench.report.row_values import Behind, arm_order, own_best, series_of, setting_label, setting_of
from vitbench.report.trial_lists import claim_cells
from vitbench.spec.claims import single_claims
from vitbench.spec.experiment import Experiment
from vitbench.stats.table import Row

BAND_ALPHA = 0.15
MOST_LINES = 6
Curve = Mapping[float, Sequence[float]]
"""{step or epoch: the seeds' validation accuracies}."""


def curves_plot(experiment: Experiment, rows: Sequence[Row]) -> Figure | None:
    """Validation accuracy against training time, each arm at its own best; None without curves."""
    look_of, best = arm_looks(series_of(experiment, rows)), own_best(rows)
    members = {arm: [row for row in best if row["arm"] == arm] for arm in arm_order(experiment, rows)}
    return _plot(members, {arm: look_of[arm] for arm in members})


def rates_plot(experiment: Experiment, rows: Sequence[Row]) -> Figure | None:
    """The same at the settings of claims that fix one, as the paper's Fig. 9 has it; None without such a claim."""
    fixing = [claim.id for claim in single_claims(experiment.claims) if any(p.at for p in claim.part_claims())]
    cells = claim_cells(experiment, rows)
    compared = list(dict.fromkeys(cell for claim in fixing for cell in cells[claim] if cell[2]))
    look_of = arm_looks(series_of(experiment, rows))
    own_best_settings = {(row["arm"], setting_of(row)) for row in own_best(rows)}
    if all((arm, setting) in own_best_settings for arm, _, setting in compared) or len(compared) > MOST_LINES:
        return None
    members = {_name(cell): [row for row in rows if _is_in(row, cell)] for cell in compared}
    dashed = {_name(cell): (cell[0], cell[2]) not in own_best_settings for cell in compared}
    looks = {
        _name(cell): replace(look_of[cell[0]], dash=DASHES[1] if dashed[_name(cell)] else "-") for cell in compared
    }
    return _plot(members, looks)


def _name(cell: Behind) -> str:
    return f"{cell[0]}, {setting_label(cell[2])}"


def _is_in(row: Row, cell: Behind) -> bool:
    return (row["arm"], row["role"], setting_of(row)) == cell


def _plot(members: Mapping[str, Sequence[Row]], look_of: Mapping[str, LineStyle]) -> Figure | None:
    """One line and one band for each group of rows."""
    epochs = _epochs_per_step([row for rows in members.values() for row in rows])
    curves = {name: _curve(rows, epochs or 1.0) for name, rows in members.items()}
    curves = {name: curve for name, curve in curves.items() if len(curve) > 1}
    if not curves:
        return None
    fig, axes = figure(3.1)
    for name, curve in curves.items():
        x, look = list(curve), look_of[name]
        lows, highs = [min(v) for v in curve.values()], [max(v) for v in curve.values()]
        # Many bands at full strength would be one grey field.
        alpha = BAND_ALPHA * min(1.0, 3 / len(curves))
        axes.fill_between(x, lows, highs, color=look.colour, alpha=alpha, linewidth=0)
        means = [fmean(v) for v in curve.values()]
        axes.plot(x, means, **marked(look), markevery=max(1, len(x) // 10), linewidth=1.4, label=printable(name))
    axes.set_xlabel("Epochs" if epochs else "Step")
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.set_ylabel("Validation top-1 (%)")
    last = max(max(curve) for curve in curves.values())
    settled = [value for curve in curves.values() for x, v in curve.items() if x >= last / 4 for value in v]
    axes.set_xlim(0, last)
    axes.set_ylim(min(settled), max(settled) + max(1.0, 0.05 * (max(settled) - min(settled))))
    legend_below(fig, axes)
    return fig


def _epochs_per_step(rows: Sequence[Row]) -> float | None:
    """Epochs that a step is; None if that is unknown, or not the same in all trials."""
    results = [row["result"] for row in rows if row["status"] == "ok"]
    if not all(r.get("num_images") and r.get("num_steps") and r.get("num_train_images") for r in results):
        return None
    ratios = {round(r["num_images"] / r["num_steps"] / r["num_train_images"], 9) for r in results}
    return ratios.pop() if len(ratios) == 1 else None


def _curve(rows: Sequence[Row], epochs: float) -> dict[float, list[float]]:
    """The seeds' validation accuracies at the steps that every `ok` seed has, by step times `epochs`."""
    each = [
        {
            point["step"]: point["val_top1_percent"]
            for point in row["result"]["curve"]
            if point["val_top1_percent"] is not None
        }
        for row in rows
        if row["status"] == "ok"
    ]
    common = sorted(set.intersection(*(set(curve) for curve in each))) if each else []
    return {step * epochs: [curve[step] for curve in each] for step in common}
