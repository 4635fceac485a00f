"""Arm minus baseline, paired by seed: the table of an experiment, or any two arms. No claim is decided here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import fsum

import numpy as np

from vitbench.base.errors import InputError
from vitbench.spec.arms import arms
from vitbench.spec.experiment import Experiment
from vitbench.stats.claim_data import tuning_variance
from vitbench.stats.distributions import holm, t_upper
from vitbench.stats.intervals import Interval, contrast_interval, counting_floor, standard_error
from vitbench.stats.paired_sample import counted_images
from vitbench.stats.scores import cell_status, check_metric, trials_at
from vitbench.stats.table import Row, TrialTable, metric_value, tabulate, test_images

OTHER_IMAGES = "other test images"
"""Why two arms are not compared: a difference by seed needs one set of test images."""
SINGLE_RUNS = 1.96 * 2.0**0.5
"""Two single runs differ beyond noise when their difference exceeds this many standard deviations of an arm."""


@dataclass(frozen=True)
class Comparison:
    """One arm minus another over the seeds at which both finished.

    `p` is two-sided, None if there is no interval or a trial diverged (what is left then flatters the arm);
    `p_holm` is adjusted over its table; `variance_saved` is the share of the variance of an unpaired difference that
    pairing removed (below 0: it added). `left_out` names failed, missing and diverged trials.
    """

    arm: str
    baseline: str
    interval: Interval
    p: float | None
    variance_saved: float | None
    tuning_variance: float = 0.0
    left_out: tuple[str, ...] = ()
    p_holm: float | None = None


def compare_to_baseline(
    experiment: Experiment, rows: Iterable[Row] | TrialTable, metric: str | None = None, level: float = 0.95
) -> list[Comparison]:
    """Every arm against the first, each at its own setting; an arm without trials has a refused interval.

    p is Holm's over the table; a tuned arm's interval carries the variance of its choice.
    """
    table = rows if isinstance(rows, TrialTable) else tabulate(rows)
    name = metric or experiment.report.metric
    check_metric(table, name)
    names = [arm.name for arm in arms(experiment)]
    noise = {arm: tuning_variance(table, arm, name) or 0.0 for arm in names}
    sides = {arm: (arm, trials_at(table, arm)) for arm in names}
    comparisons = [_paired(sides[arm], sides[names[0]], name, level, noise[arm] + noise[names[0]]) for arm in names[1:]]
    tested = [index for index, comparison in enumerate(comparisons) if comparison.p is not None]
    for index, p in zip(tested, holm([comparisons[index].p or 0.0 for index in tested]), strict=True):
        comparisons[index] = replace(comparisons[index], p_holm=p)
    return comparisons


def compare_arms(
    rows_a: Iterable[Row], rows_b: Iterable[Row], metric: str = "test_top1_percent", level: float = 0.95
) -> Comparison:
    """A minus B, of two arms' rows from any records, each at its own setting, paired by seed.

    Raises InputError if either holds several arms, or several settings and no tuning that chose among them.
    """
    first, second = (_one_arm(tabulate(rows), name) for rows, name in ((rows_a, "A"), (rows_b, "B")))
    for table, _ in (first, second):
        check_metric(table, metric)
    noise = fsum(tuning_variance(table, arm, metric) or 0.0 for table, arm in (first, second))
    sides = [(arm, trials_at(table, arm)) for table, arm in (first, second)]
    if not one_test_set(row for _, trials in sides for row in trials.values()):
        raise InputError(
            f"{sides[0][0]} and {sides[1][0]} have {OTHER_IMAGES}; a difference by seed needs the same ones"
        )
    return _paired(sides[0], sides[1], metric, level, noise)


def _one_arm(table: TrialTable, name: str) -> tuple[TrialTable, str]:
    """The table with its only arm."""
    if len(table.levels) != 1:
        raise InputError(f"{name} must be the rows of one arm; it has {', '.join(table.levels) or 'none'}")
    (arm,) = table.levels
    if table.own_setting(arm) is None:
        raise InputError(f"{name}: {arm} was run at {len(table.settings.get(arm, ()))} settings and none was chosen")
    return table, arm


def _paired(
    a: tuple[str, Mapping[int, Row]], b: tuple[str, Mapping[int, Row]], metric: str, level: float, noise: float
) -> Comparison:
    """The comparison of two arms' trials by seed; `noise` is the variance of their tuned choices."""
    (arm, rows_a), (baseline, rows_b) = a, b
    if rows_a and rows_b and not one_test_set([*rows_a.values(), *rows_b.values()]):
        return Comparison(arm, baseline, Interval(None, None, None, 0, level, reason=OTHER_IMAGES), None, None, noise)
    seeds = sorted({*rows_a, *rows_b})
    status = {seed: [cell_status(rows.get(seed), metric) for rows in (rows_a, rows_b)] for seed in seeds}
    whole = [seed for seed in seeds if status[seed] == ["ok", "ok"]]
    left_out = [
        f"{name}, seed {seed}: {trial_status}"
        for seed in seeds
        for name, trial_status in zip((arm, baseline), status[seed], strict=True)
        if trial_status != "ok"
    ]
    scores = np.array([[metric_value(rows[seed], metric) for seed in whole] for rows in (rows_a, rows_b)], dtype=float)
    images = counted_images(metric, [rows[seed] for rows in (rows_a, rows_b) for seed in whole])
    floor = counting_floor(images)
    interval = contrast_interval(scores[0] - scores[1], level, floor, noise)
    diverged = any("diverged" in pair for pair in status.values())
    p = None if interval.refused or diverged else _two_sided(interval, floor, noise)
    return Comparison(arm, baseline, interval, p, _saved(scores), noise, tuple(left_out))


def one_test_set(rows: Iterable[Row]) -> bool:
    """Whether all of these trials were tested on the same images."""
    return len({test_images(row) for row in rows}) <= 1


def _two_sided(interval: Interval, floor: float, noise: float) -> float:
    """The two-sided p of the t test that belongs to the interval."""
    assert interval.mean is not None
    assert interval.sd is not None
    se = float(standard_error(interval.sd, interval.n, floor, noise))
    return float(2.0 * t_upper(abs(interval.mean) / se, interval.n - 1))


def _saved(scores: np.typing.NDArray[np.float64]) -> float | None:
    """1 - var(a - b) / (var a + var b) over seeds, scores [2, S]; None if nothing varies."""
    if scores.shape[1] < 2:
        return None
    apart = float(scores.var(axis=1, ddof=1).sum())
    return 1.0 - float((scores[0] - scores[1]).var(ddof=1)) / apart if apart > 0.0 else None


def single_run_note(difference: float) -> str:
    """What a difference of two published single runs would need: the arm's spread under which it exceeds noise."""
    return f"beyond noise only if an arm's sd over seeds is under {abs(difference) / SINGLE_RUNS:.2g}"
