"""What a table or a plot says of each arm, computed once by `vitbench.stats` from the rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vitbench.experiment import Experiment
from vitbench.report.rows import (
    Setting,
    arm_order,
    own_best,
    scores_by_seed,
    setting_of,
    size_key,
    tuning,
)
from vitbench.stats.intervals import Interval, mean_interval, paired_interval
from vitbench.stats.table import Row, tabulate

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
    train_seconds: float
    rank: str
    """`best` (the paired interval against every other arm excludes 0), `tied` with the best mean, or empty."""


def own_best_summaries(experiment: Experiment, rows: Sequence[Row]) -> list[ArmSummary]:
    """One summary per arm, each at its own chosen setting, the baseline first."""
    return _summaries(experiment, rows, own_best(rows))


def shared_summaries(experiment: Experiment, rows: Sequence[Row], setting: Setting) -> list[ArmSummary]:
    """One summary per arm, all at `setting`."""
    at = [row for row in rows if row["role"] == "reporting" and setting_of(row) == setting]
    return _summaries(experiment, rows, at)


def _summaries(experiment: Experiment, rows: Sequence[Row], at: Sequence[Row]) -> list[ArmSummary]:
    metric = experiment.report.metric
    seeds = sorted({*experiment.seeds.first(), *(int(row["seed"]) for row in at)})
    grouped = {arm: [row for row in at if row["arm"] == arm] for arm in arm_order(experiment, rows)}
    scores = {arm: scores_by_seed(members, metric) for arm, members in grouped.items()}
    num_images = num_test_images(at)
    baseline = next(iter(grouped), None)
    ranks = rank_arms(scores, num_images)
    return [
        _summary(
            arm,
            members,
            mean_interval(list(scores[arm].values()), LEVEL, num_images),
            _against(scores, arm, baseline, num_images),
            len(set(seeds) - {int(row["seed"]) for row in members}),
            ranks[arm],
        )
        for arm, members in grouped.items()
    ]


def _summary(
    arm: str, rows: list[Row], mean: Interval, versus: Interval | None, num_missing: int, rank: str
) -> ArmSummary:
    finished = [row for row in rows if row["status"] == "ok"]
    seconds = [row["run"].get("train_seconds", 0.0) for row in finished]
    facts = finished[0]["result"] if finished else {}
    return ArmSummary(
        arm=arm,
        setting=setting_of(rows[0]) if rows else (),
        mean=mean,
        versus_baseline=versus,
        num_diverged=sum(row["status"] == "diverged" for row in rows),
        num_failed=sum(row["status"] == "failed" for row in rows),
        num_missing=num_missing,
        num_params=facts.get("num_params", 0),
        train_flops=facts.get("train_flops", 0.0),
        train_seconds=sum(seconds) / len(seconds) if seconds else 0.0,
        rank=rank,
    )


def _against(
    scores: dict[str, dict[int, float]], arm: str, other: str | None, num_images: int | None
) -> Interval | None:
    """Arm minus other over the seeds that both have; None for the baseline itself."""
    if other is None or arm == other:
        return None
    return difference(scores[arm], scores[other], num_images)


def difference(a: dict[int, float], b: dict[int, float], num_images: int | None, level: float = LEVEL) -> Interval:
    """a minus b, paired by seed, over the seeds that both have."""
    both = sorted(a.keys() & b.keys())
    return paired_interval([a[seed] for seed in both], [b[seed] for seed in both], level, num_images)


def rank_arms(scores: dict[str, dict[int, float]], num_images: int | None) -> dict[str, str]:
    """`best`, `tied` or an empty string per arm: nothing is best where the statistics cannot tell it from the next."""
    means = {arm: sum(values.values()) / len(values) for arm, values in scores.items() if values}
    ranks = dict.fromkeys(scores, "")
    if len(means) < 2:
        return ranks
    top = max(means, key=lambda arm: means[arm])
    tied = [arm for arm in means if arm != top and not _above(scores[top], scores[arm], num_images)]
    if any(min(len(scores[top]), len(scores[arm])) < 2 for arm in tied):
        return ranks
    return ranks | dict.fromkeys(tied, "tied") | {top: "tied" if tied else "best"}


def _above(a: dict[int, float], b: dict[int, float], num_images: int | None) -> bool:
    low = difference(a, b, num_images).low
    return low is not None and low > 0


def num_test_images(rows: Iterable[Row]) -> int | None:
    """The smallest test set among the rows: one image is one counting step of a score. None where unknown."""
    return min((n for row in rows if (n := row["result"].get("num_test_images", 0))), default=None)


@dataclass(frozen=True)
class TunedPoint:
    """One arm at one setting of the grid: validation scores by tuning seed."""

    arm: str
    setting: Setting
    scores: dict[int, float]
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
        """Mean over the seeds; None where one diverged or failed, which puts the setting out of the choice."""
        return sum(self.scores.values()) / len(self.scores) if self.scores and not self.num_lost else None


def tuned_points(experiment: Experiment, rows: Sequence[Row]) -> list[TunedPoint]:
    """The tuning grid as run, arm by arm, each by ascending setting, with the choice of the reporting rows marked."""
    tried = tuning(rows)
    settings = sorted({setting_of(row) for row in tried}, key=lambda s: [size_key(value) for _, value in s])
    chosen = {row["arm"]: setting_of(row) for row in own_best(rows)}
    searches = tabulate(rows).tuning
    edges = {arm for arm, search in searches.items() if search.choice is not None and search.choice.at_edge}
    cells: dict[tuple[str, Setting], list[Row]] = {
        (arm, setting): [] for arm in arm_order(experiment, tried) for setting in settings
    }
    for row in tried:
        cells[row["arm"], setting_of(row)].append(row)
    return [
        _tuned_point(arm, setting, cell, chosen.get(arm) == setting, arm in edges)
        for (arm, setting), cell in cells.items()
        if cell
    ]


def _tuned_point(arm: str, setting: Setting, cell: Sequence[Row], chosen: bool, edge: bool) -> TunedPoint:
    num_diverged = sum(row["status"] == "diverged" for row in cell)
    num_failed = sum(row["status"] == "failed" for row in cell)
    scores = scores_by_seed(cell, "val_top1_percent")
    return TunedPoint(arm, setting, scores, num_diverged, num_failed, chosen, chosen and edge)
