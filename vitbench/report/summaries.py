"""What a table or a plot says of each arm, computed once by `vitbench.stats` from the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from vitbench.report.row_values import (
    Setting,
    arm_order,
    dot_links,
    own_best,
    scores_by_seed,
    setting_of,
    size_key,
    tuning,
)
from vitbench.spec.experiment import Experiment
from vitbench.spec.metrics import DEFAULT_TUNING, Metric, metric_named
from vitbench.stats.claim_data import tuning_variance
from vitbench.stats.compare import OTHER_IMAGES, compare_to_baseline, one_test_set
from vitbench.stats.intervals import Interval, contrast_interval, counting_floor, mean_interval
from vitbench.stats.paired_sample import counted_images
from vitbench.stats.table import Row, tabulate, total_train_flops, total_train_seconds, with_pretraining
from vitbench.store.record import REPORTS

LEVEL = 0.95


@dataclass(frozen=True)
class ArmSummary:
    """One arm at one setting. Means are over `ok` trials; the others are counted, never averaged."""

    arm: str
    setting: Setting
    mean: Interval
    versus_baseline: Interval | None
    num_diverged: int
    num_failed: int
    num_missing: int
    num_params: int
    train_flops: float
    """Of all stages, as `train_seconds` is."""
    train_seconds: float
    rank: str
    """`best` (the paired interval against every other arm excludes 0), `tied` with the best mean, or empty."""
    p_holm: float | None = None


def own_best_summaries(experiment: Experiment, rows: Sequence[Row]) -> list[ArmSummary]:
    """One summary per arm, each at its own chosen setting, the baseline first; differences carry the tuning's noise."""
    compared = {comparison.arm: comparison for comparison in compare_to_baseline(experiment, rows)}
    return [
        replace(arm, versus_baseline=compared[arm.arm].interval, p_holm=compared[arm.arm].p_holm)
        if arm.arm in compared
        else arm
        for arm in _summaries(experiment, rows, own_best(with_pretraining(rows)), own_best_pairs(experiment, rows))
    ]


def shared_summaries(experiment: Experiment, rows: Sequence[Row], setting: Setting) -> list[ArmSummary]:
    """One summary per arm, all at `setting`, which none of them chose there: seed noise alone."""
    at = [row for row in with_pretraining(rows) if row["role"] in REPORTS and setting_of(row) == setting]
    metric = experiment.report.metric
    scores = {arm: scores_by_seed((r for r in at if r["arm"] == arm), metric) for arm in arm_order(experiment, rows)}
    return _summaries(experiment, rows, at, Pairs(scores, {}, counted_images(metric, at), metric))


def _summaries(experiment: Experiment, rows: Sequence[Row], at: Sequence[Row], pairs: Pairs) -> list[ArmSummary]:
    seeds = {*experiment.seeds.first(), *(int(row["seed"]) for row in at)}
    grouped = {arm: [row for row in at if row["arm"] == arm] for arm in arm_order(experiment, rows)}
    baseline = next(iter(grouped))
    ranks = pairs.ranks() if one_test_set(at) else dict.fromkeys(grouped, "")
    return [
        _summary(
            arm,
            members,
            mean_interval(list(pairs.scores[arm].values()), LEVEL, pairs.num_images),
            None if arm == baseline else _difference(pairs, grouped, arm, baseline),
            len(_due(experiment, members, seeds) - {int(row["seed"]) for row in members}),
            ranks[arm],
        )
        for arm, members in grouped.items()
    ]


def _due(experiment: Experiment, rows: Sequence[Row], seeds: set[int]) -> set[int]:
    """The seeds that an arm should have: those of the look that it has begun, or without looks all `seeds`."""
    begun = max((int(row["seed"]) for row in rows), default=0) + 1
    looks = [look for look in experiment.seeds.all_looks() if look >= begun]
    return set(range(looks[0])) if looks else seeds


def _difference(pairs: Pairs, grouped: Mapping[str, list[Row]], arm: str, baseline: str) -> Interval:
    """The paired difference; none between arms that were tested on different images."""
    if one_test_set([*grouped[arm], *grouped[baseline]]):
        return pairs.difference(arm, baseline)
    return Interval(None, None, None, 0, LEVEL, reason=OTHER_IMAGES)


def _summary(
    arm: str, rows: list[Row], mean: Interval, versus: Interval | None, num_missing: int, rank: str
) -> ArmSummary:
    finished = [row for row in rows if row["status"] == "ok"]
    seconds = [total_train_seconds(row) for row in finished]
    facts = finished[0]["result"] if finished else {}
    num_diverged = sum(row["status"] == "diverged" for row in rows)
    return ArmSummary(
        arm=arm,
        setting=setting_of(rows[0]) if rows else (),
        mean=mean,
        versus_baseline=versus,
        num_diverged=num_diverged,
        num_failed=sum(row["status"] == "failed" for row in rows),
        num_missing=num_missing,
        num_params=facts.get("num_params", 0),
        train_flops=total_train_flops(finished[0]) if finished else 0.0,
        train_seconds=fmean(seconds) if seconds else 0.0,
        # What is left of an arm that diverged flatters it.
        rank="" if rank == "best" and num_diverged else rank,
    )


@dataclass(frozen=True)
class Pairs:
    """Scores {arm: {seed: score}}, the variance of each arm's tuned choice, and the images that a score counts."""

    scores: Mapping[str, Mapping[int, float]]
    noise: Mapping[str, float]
    num_images: int | None
    metric: str = "test_top1_percent"

    def by_seed(self, a: str, b: str) -> dict[int, float]:
        """{seed: a minus b} over the seeds that both have."""
        first, second = self.scores[a], self.scores[b]
        return {seed: first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())}

    def difference(self, a: str, b: str, level: float = LEVEL) -> Interval:
        """The interval of a minus b, paired by seed."""
        extra = self.noise.get(a, 0.0) + self.noise.get(b, 0.0)
        return contrast_interval(list(self.by_seed(a, b).values()), level, counting_floor(self.num_images), extra)

    def ranks(self) -> dict[str, str]:
        """`best`, `tied` or an empty string per arm: `best` only if its interval against every other arm excludes 0.

        A metric without a better direction ranks no arm.
        """
        metric = metric_named(self.metric)
        means = {arm: fmean(values.values()) for arm, values in self.scores.items() if values}
        ranks = dict.fromkeys(self.scores, "")
        if len(means) < 2 or metric.better is None:
            return ranks
        top = max(means, key=lambda arm: metric.sign * means[arm])
        against = {arm: self.difference(top, arm) for arm in means if arm != top}
        if any(interval.refused for interval in against.values()):
            return ranks
        tied = [arm for arm, interval in against.items() if _touches_zero(interval, metric)]
        return ranks | dict.fromkeys(tied, "tied") | {top: "tied" if tied else "best"}


def _touches_zero(interval: Interval, metric: Metric) -> bool:
    """True if the interval of best minus other does not lie wholly on the better side of 0."""
    near = interval.high if metric.better == "lower" else interval.low
    return near is not None and metric.sign * near <= 0


def own_best_pairs(experiment: Experiment, rows: Sequence[Row]) -> Pairs:
    """The arms' scores, each at its own best setting, with the noise of its choice."""
    best, table, metric = own_best(rows), tabulate(rows), experiment.report.metric
    order = arm_order(experiment, rows)
    scores = {arm: scores_by_seed((row for row in best if row["arm"] == arm), metric) for arm in order}
    noise = {arm: tuning_variance(table, arm, metric) or 0.0 for arm in order}
    return Pairs(scores, noise, counted_images(metric, best), metric)


@dataclass(frozen=True)
class TunedPoint:
    """One arm at one setting of the grid: values of the validation metric that chooses, by tuning seed."""

    metric: str
    arm: str
    setting: Setting
    scores: dict[int, float]
    links: list[str]
    num_diverged: int
    num_failed: int
    chosen: bool
    at_edge: bool

    @property
    def num_lost(self) -> int:
        """Trials without a score."""
        return self.num_diverged + self.num_failed

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; None if one diverged or failed, which puts the setting out of the choice."""
        return fmean(self.scores.values()) if self.scores and not self.num_lost else None


def tuned_points(experiment: Experiment, rows: Sequence[Row]) -> list[TunedPoint]:
    """The tuning grid as run, arm by arm, each by ascending setting, with the choice of the reporting rows marked."""
    tuning_rows = tuning(rows)
    settings = sorted({setting_of(row) for row in tuning_rows}, key=lambda s: [size_key(value) for _, value in s])
    chosen = {row["arm"]: setting_of(row) for row in own_best(rows)}
    searches = tabulate(rows).tuning
    edges = {arm for arm, search in searches.items() if search.choice is not None and search.choice.at_edge}
    cells: dict[tuple[str, Setting], list[Row]] = {
        (arm, setting): [] for arm in arm_order(experiment, tuning_rows) for setting in settings
    }
    for row in tuning_rows:
        cells[row["arm"], setting_of(row)].append(row)
    return [
        _tuned_point(arm, setting, cell, chosen.get(arm) == setting, arm in edges)
        for (arm, setting), cell in cells.items()
        if cell
    ]


def _tuned_point(arm: str, setting: Setting, cell: Sequence[Row], chosen: bool, edge: bool) -> TunedPoint:
    num_diverged = sum(row["status"] == "diverged" for row in cell)
    num_failed = sum(row["status"] == "failed" for row in cell)
    metric = cell[0].get("tuned_by", DEFAULT_TUNING)
    scores = scores_by_seed(cell, metric)
    links = dot_links(cell, scores)
    return TunedPoint(metric, arm, setting, scores, links, num_diverged, num_failed, chosen, chosen and edge)
