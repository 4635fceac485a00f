"""The tables of a report as text cells; `formats` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vitbench.report.formats import Table
from vitbench.report.row_values import Behind, Setting, metric_label, quantity, setting_label, shared_settings
from vitbench.report.source_numbers import paper_effects, paper_scores
from vitbench.report.summaries import ArmSummary, TunedPoint, own_best_summaries, shared_summaries, tuned_points
from vitbench.spec.arms import level_name
from vitbench.spec.experiment import Experiment
from vitbench.spec.metrics import metric_named
from vitbench.stats.compare import OTHER_IMAGES
from vitbench.stats.intervals import Interval
from vitbench.stats.table import Row

if TYPE_CHECKING:
    import pandas as pd

TIE = "≈"
OPTIONAL = frozenset(("p (Holm)", "Params", "Train FLOPs", "Seconds"))
PAPER_SCORE, PAPER = "Paper (%)", "Paper (diff.)"
LONGEST_IN_HEAD = 16
"""A baseline with a longer name is not named at the head of a column."""


class Column(NamedTuple):
    """A head, its cells, and, where the cells are numbers of trials, which trials."""

    head: str
    cells: list[str]
    behind: Sequence[Behind] = ()


def tables_for(experiment: Experiment, rows: Sequence[Row]) -> list[Table]:
    """The tables that the rows give, in the order of a report: results, shared settings, tuning."""
    tables = [result_table(experiment, rows), shared_table(experiment, rows), tuning_table(experiment, rows)]
    return [table for table in tables if table is not None and table.rows]


def result_table(experiment: Experiment, rows: Sequence[Row]) -> Table:
    """One row per arm at its own best setting: mean, interval, paired difference to the baseline, cost."""
    arms, metric = own_best_summaries(experiment, rows), experiment.report.metric
    baseline = arms[0].arm if arms else "baseline"
    tuned = any(arm.setting for arm in arms)
    lost = any(lost_label(arm) for arm in arms)
    paper, printed = paper_effects(experiment, baseline), paper_scores(experiment)
    behind = [(arm.arm, "reporting", arm.setting) for arm in arms]
    columns = [
        Column("Arm", [arm.arm for arm in arms]),
        Column("Setting", [setting_label(arm.setting) for arm in arms]),
        Column("n", [str(arm.mean.n) for arm in arms], behind),
        Column(metric_label(experiment.report.metric), [mean_cell(arm, metric) for arm in arms], behind),
        Column(PAPER_SCORE, [f"{printed[arm.arm]:.2f}" if arm.arm in printed else "-" for arm in arms]),
        Column(minus(baseline), [difference_cell(arm.versus_baseline, metric) for arm in arms], behind),
        Column(PAPER, [f"{paper[arm.arm]:+.2f}" if arm.arm in paper else "-" for arm in arms]),
        Column("p (Holm)", [p_cell(arm.p_holm) for arm in arms]),
        Column("Lost", [lost_label(arm) or "-" for arm in arms]),
        Column("Params", [quantity(arm.num_params) for arm in arms]),
        Column("Train FLOPs", [quantity(arm.train_flops) for arm in arms]),
        Column("Seconds", [f"{arm.train_seconds:.1f}" if arm.train_seconds else "-" for arm in arms]),
    ]
    absent = {
        name for name, has in (("Setting", tuned), ("Lost", lost), (PAPER, paper), (PAPER_SCORE, printed)) if not has
    }
    kept = [column for column in columns if column.head not in absent]
    title = f"{experiment.name}: each arm at its own best setting" if tuned else experiment.name
    mean_column = [column.head for column in kept].index(metric_label(experiment.report.metric))
    bold = frozenset((i, k) for i, arm in enumerate(arms) if arm.rank == "best" for k in (0, mean_column))
    notes = _result_notes(arms, metric, tuned)
    if paper:
        notes.append("Paper: the number of the claims' sources, at their scale, on their images and in their metric.")
    return _table(title, kept, notes, bold)


def _table(
    title: str, columns: Sequence[Column], notes: Sequence[str], bold: frozenset[tuple[int, int]] = frozenset()
) -> Table:
    header = tuple(column.head for column in columns)
    body = tuple(zip(*(column.cells for column in columns), strict=True))
    behind = {(i, k): its for k, column in enumerate(columns) for i, its in enumerate(column.behind)}
    return Table(title, header, body, bold, tuple(notes), OPTIONAL, behind)


def _result_notes(arms: Sequence[ArmSummary], metric: str, tuned: bool) -> list[str]:
    baseline, named = arms[0].arm if arms else "baseline", metric_named(metric)
    notes = [
        "± is the half-width of the 95% t interval over seeds. Differences to "
        f"{baseline} are paired by seed, in {named.points}. p is adjusted by Holm's method over the table."
    ]
    if tuned:
        notes.append("The intervals of the differences include the uncertainty of choosing the settings.")
        notes.append("Settings were chosen on validation data. Test data was read once.")
    if any(arm.rank == "best" for arm in arms):
        side = "below" if named.better == "lower" else "above"
        notes.append(f"Bold: {side} every other arm by the paired 95% interval.")
    if any(arm.rank == "tied" for arm in arms):
        notes.append(f"{TIE} The paired 95% interval does not separate this arm from the best mean, so no arm is bold.")
    if any(arm.versus_baseline and arm.versus_baseline.reason == OTHER_IMAGES for arm in arms):
        notes.append(
            f"Arms that were tested on other images than {baseline} are not compared with it, and none is bold."
        )
    if any(lost_label(arm) for arm in arms):
        notes.append("Lost trials (diverged, failed, missing) are counted and never averaged.")
    return notes


def shared_table(experiment: Experiment, rows: Sequence[Row]) -> Table | None:
    """Both readings side by side: each arm at its own best, and all arms at each shared setting. None without one."""
    settings = shared_settings(rows) if experiment.report.also_at else []
    best = own_best_summaries(experiment, rows)
    if not settings or not best:
        return None
    baseline, metric = best[0].arm, experiment.report.metric
    columns = [Column("Arm", [arm.arm for arm in best]), *_reading("At own best", best, metric)]
    for setting in settings:
        chosen_by = [arm.arm for arm in best if arm.setting == setting]
        more = f" and {len(chosen_by) - 1} more" if len(chosen_by) > 1 else ""
        label = setting_label(setting) + (f" (best of {chosen_by[0]}{more})" if chosen_by else "")
        columns += _reading(f"At {label}", shared_summaries(experiment, rows, setting), metric)
    notes = ["Every column has the same seeds. A difference that appears only at the shared setting comes from tuning."]
    if minus(baseline) != f"minus {baseline}":
        notes.append(f"The baseline is {baseline}.")
    return _table(f"{experiment.name}: own best beside a shared setting", columns, notes)


def _reading(head: str, arms: Sequence[ArmSummary], metric: str) -> list[Column]:
    baseline = arms[0].arm
    behind = [(arm.arm, "reporting", arm.setting) for arm in arms]
    return [
        Column(head, [mean_cell(arm, metric) for arm in arms], behind),
        Column(minus(baseline), [difference_cell(arm.versus_baseline, metric) for arm in arms], behind),
    ]


def minus(baseline: str) -> str:
    """The head of a column of differences; a long name gives way to `baseline`."""
    return f"minus {baseline}" if len(baseline) <= LONGEST_IN_HEAD else "minus baseline"


def tuning_table(experiment: Experiment, rows: Sequence[Row]) -> Table | None:
    """Validation score per arm and setting, the choice in brackets, an edge marked; None without tuning."""
    points = tuned_points(experiment, rows)
    if not points:
        return None
    settings = list(dict.fromkeys(point.setting for point in points))
    arms = list(dict.fromkeys(point.arm for point in points))
    counts = {arm: max(len(p.scores) + p.num_lost for p in points if p.arm == arm) for arm in arms}
    races = experiment.tune is not None and experiment.tune.races
    cells = {(point.arm, point.setting): _tuning_cell(point, counts[point.arm] if races else 0) for point in points}
    columns = [
        Column(setting_label(s), [cells.get((arm, s), "-") for arm in arms], [(arm, "tuning", s) for arm in arms])
        for s in settings
    ]
    num_seeds, fewest = max(counts.values()), min(counts.values())
    over = "of one tuning seed" if num_seeds == 1 else f"over {num_seeds} tuning seeds"
    if races:
        seeds = f"{num_seeds} seeds" if fewest == num_seeds else f"the arm's seeds, {fewest} to {num_seeds}"
        over = f"over {seeds} (n: fewer, since the setting was dropped or is not finished)"
    notes = [
        f"Mean {tuned_label(points[0].metric)} {over}, in brackets at the chosen setting. "
        "These means are optimistic; they are not results."
    ]
    if any(point.at_edge for point in points):
        notes.append("!: chosen at the edge of the grid. The best setting may lie outside it.")
    return _table(f"{experiment.name}: how the arms were tuned", [Column("Arm", arms), *columns], notes)


def tuned_label(metric: str) -> str:
    """The metric that chooses, inside a sentence: `validation top-1 (%)`."""
    label = metric_named(metric).label
    return label[0].lower() + label[1:]


def _tuning_cell(point: TunedPoint, num_seeds: int) -> str:
    """The mean, in brackets if chosen; in a race over `num_seeds` seeds also the number of seeds, if fewer."""
    if point.mean is None:
        return f"out ({point.num_lost} lost)" if point.num_lost else "-"
    text = f"{point.mean:.{metric_named(point.metric).decimals}f}"
    if len(point.scores) < num_seeds:
        return f"{text} (n = {len(point.scores)})"
    return f"[{text}]" + ("!" if point.at_edge else "") if point.chosen else text


def mean_cell(arm: ArmSummary, metric: str) -> str:
    """`91.28 ± 0.88`, marked if tied with the best; a reason replaces a missing interval."""
    return interval_cell(arm.mean, "", metric_named(metric).decimals) + (f" {TIE}" if arm.rank == "tied" else "")


def difference_cell(interval: Interval | None, metric: str) -> str:
    """`+0.42 ± 0.88`; `-` for the baseline."""
    return "-" if interval is None else interval_cell(interval, "+", metric_named(metric).decimals)


def interval_cell(interval: Interval, sign: str = "", decimals: int = 2) -> str:
    """Mean and half-width, or both ends of a lopsided interval, or the mean with n without an interval."""
    if interval.mean is None:
        return OTHER_IMAGES if interval.reason == OTHER_IMAGES else "no score"
    form = f"{sign}.{decimals}f"
    mean = f"{interval.mean:{form}}"
    if interval.ends is None:
        return f"{mean} (n = {interval.n}, no interval)"
    low, high = interval.ends
    below, above = interval.mean - low, high - interval.mean
    if abs(above - below) < 0.5 * 10.0**-decimals:
        return f"{mean} ± {above:.{decimals}f}"
    return f"{mean} ({low:{form}} to {high:{form}})"


def p_cell(p: float | None) -> str:
    """`0.012`; `-` for None."""
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def lost_label(arm: ArmSummary) -> str:
    """`1 diverged, 2 missing`; empty if every trial gave a score."""
    counts = {"diverged": arm.num_diverged, "failed": arm.num_failed, "missing": arm.num_missing}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def result_frame(experiment: Experiment, rows: Sequence[Row]) -> pd.DataFrame:
    """Every number of the tables, tidy: one line per reading (own best, shared, tuning), arm and setting."""
    import pandas as pd  # Late: a run prints no frame, and pandas takes a second and 40 MiB.

    metric = experiment.report.metric
    lines = [_numbers("own_best", metric, arm) for arm in own_best_summaries(experiment, rows)]
    for setting in shared_settings(rows) if experiment.report.also_at else []:
        lines += [_numbers("shared", metric, arm) for arm in shared_summaries(experiment, rows, setting)]
    lines += [_tuning_numbers(point) for point in tuned_points(experiment, rows)]
    return pd.DataFrame(lines, dtype=object).fillna("")


def _numbers(reading: str, metric: str, arm: ArmSummary) -> dict[str, Any]:
    versus = arm.versus_baseline
    return {
        "reading": reading,
        "arm": arm.arm,
        "setting": _assignment(arm.setting),
        "metric": metric,
        "n": arm.mean.n,
        **_ends("", arm.mean),
        "level": f"{arm.mean.level:g}",
        "sd": _fixed(arm.mean.sd),
        **_ends("difference_", versus),
        "pairs": versus.n if versus else "",
        "p_holm": _fixed(arm.p_holm),
        "rank": arm.rank,
        "diverged": arm.num_diverged,
        "failed": arm.num_failed,
        "missing": arm.num_missing,
        "num_params": arm.num_params,
        "train_flops": f"{arm.train_flops:.6g}",
        "train_seconds": f"{arm.train_seconds:.3f}",
    }


def _ends(prefix: str, interval: Interval | None) -> dict[str, str]:
    ends = {"mean": None, "low": None, "high": None} if interval is None else vars(interval)
    return {prefix + name: _fixed(ends[name]) for name in ("mean", "low", "high")}


def _tuning_numbers(point: TunedPoint) -> dict[str, Any]:
    return {
        "reading": "tuning",
        "arm": point.arm,
        "setting": _assignment(point.setting),
        "metric": point.metric,
        "n": len(point.scores),
        "mean": _fixed(point.mean),
        "rank": "chosen_at_edge" if point.at_edge else "chosen" if point.chosen else "",
        "diverged": point.num_diverged,
        "failed": point.num_failed,
    }


def _assignment(setting: Setting) -> str:
    return "; ".join(f"{path}={level_name(value)}" for path, value in setting)


def _fixed(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
