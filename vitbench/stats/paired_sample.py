"""What the trials say of a claim's cells, seed by seed: scores, diverged trials, holes; and contrasts of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum

import numpy as np
import numpy.typing as npt

from vitbench.spec.metrics import metric_named
from vitbench.stats.contrasts import Cell, ClaimPart, Untested, Weights
from vitbench.stats.decision import Noise
from vitbench.stats.distributions import Floats
from vitbench.stats.intervals import NO_SPREAD, counting_floor
from vitbench.stats.scores import cell_status, check_metric
from vitbench.stats.table import Row, TrialTable, metric_value

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """C cells by n complete seeds: `values` [C, n] (`fill` where diverged), `diverged` [C, n].

    `fill_low` [C], `fill_high` [C] are the scores a diverged trial is credited with at worst and at best: chance, and
    the arm's best seed. `holes` names trials that failed or are missing; their seeds are not among `seeds`.
    """

    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    values: Floats
    diverged: Bools
    fill_low: Floats
    fill_high: Floats
    holes: tuple[str, ...]
    num_images: int | None

    @property
    def n(self) -> int:
        """The number of complete seeds."""
        return len(self.seeds)

    def take(self, seeds: Sequence[int]) -> Sample:
        """The same cells at some seeds; an arm's best is the best of these, so that later seeds change nothing."""
        selected = set(seeds)
        keep = [index for index, seed in enumerate(self.seeds) if seed in selected]
        values, diverged = self.values[:, keep], self.diverged[:, keep]
        best = best_finished(values, diverged)
        chosen = tuple(self.seeds[index] for index in keep)
        return replace(self, seeds=chosen, values=values, diverged=diverged, fill_high=best)

    def project(self, weights: Weights) -> tuple[Floats, Floats]:
        """The contrast per seed [n] with diverged trials filled so that it is least, and so that it is greatest.

        The envelope: chance where the weight is positive and the arm's best where it is negative, and the reverse.
        """
        w = self.vector(weights)[:, None]
        low = np.where(w > 0, self.fill_low[:, None], self.fill_high[:, None])
        high = np.where(w > 0, self.fill_high[:, None], self.fill_low[:, None])
        least = (w * np.where(self.diverged, low, self.values)).sum(axis=0)
        most = (w * np.where(self.diverged, high, self.values)).sum(axis=0)
        return least, most

    def finished(self, weights: Weights) -> Floats:
        """The contrast at the seeds where all of its trials finished."""
        w = self.vector(weights)
        whole = ~self.diverged[w != 0].any(axis=0)
        return np.asarray((w[:, None] * self.values)[:, whole].sum(axis=0))

    def vector(self, weights: Weights) -> Floats:
        """The weights in the order of the cells [C]."""
        return np.array([weights.get(cell, 0.0) for cell in self.cells])

    def frozen(self) -> bool:
        """Whether no cell varies between its seeds: a saturated score, or a seed that does nothing."""
        return bool((np.ptp(self.values, axis=1) < NO_SPREAD).all() and not self.diverged.any())


def observed(cells: Sequence[Cell], table: TrialTable) -> tuple[set[int], set[int]]:
    """The seeds at which every cell has a trial, and those at which some cell has one."""
    seeds = [set(_trials(cell, table)) for cell in cells]
    return set.intersection(*seeds), set.union(*seeds)


def gather(cells: Sequence[Cell], table: TrialTable, seeds: Sequence[int]) -> Sample:
    """The sample of `cells` at `seeds`; a seed with a failed or missing trial is left out and its trials are named.

    Raises InputError if no trial has a cell's metric, Untested if a diverged trial cannot be given a score.
    """
    for metric in {cell.metric for cell in cells}:
        check_metric(table, metric)
    status = [[cell_status(_trials(cell, table).get(seed), cell.metric) for seed in seeds] for cell in cells]
    holes = [
        _name(cell, seed, table)
        for cell, row in zip(cells, status, strict=True)
        for seed, trial_status in zip(seeds, row, strict=True)
        if trial_status in ("failed", "missing")
    ]
    whole = [i for i in range(len(seeds)) if all(row[i] in ("ok", "diverged") for row in status)]
    diverged = np.array([[row[i] == "diverged" for i in whole] for row in status], dtype=bool).reshape(len(cells), -1)
    values = np.zeros(diverged.shape)
    for c, cell in enumerate(cells):
        for column, i in enumerate(whole):
            if not diverged[c, column]:
                values[c, column] = metric_value(_trials(cell, table)[seeds[i]], cell.metric)
    best = best_finished(values, diverged)
    values = np.where(diverged, best[:, None], values)
    chance = np.array([_chance(cell, table) if diverged[c].any() else 0.0 for c, cell in enumerate(cells)])
    chosen = tuple(seeds[i] for i in whole)
    return Sample(tuple(cells), chosen, values, diverged, chance, best, tuple(holes), _num_images(cells, table))


def best_finished(values: Floats, diverged: Bools) -> Floats:
    """The best score of each cell [C] over the seeds that finished, 0 if none did."""
    best = np.where(diverged, -np.inf, values).max(axis=1, initial=-np.inf)
    return np.where(np.isfinite(best), best, 0.0)


def noise_of(
    parts: Sequence[ClaimPart], sample: Sample, variances: Mapping[Cell, float], raced_seeds: int | None = None
) -> Noise:
    """The floor of counting and the variance of tuned choices, per part; `raced_seeds` where more seeds shrink it."""
    floors = [counting_floor(sample.num_images, part.weights.values()) for part in parts]
    extra = [
        fsum(weight**2 * variances.get(cell, 0.0) for cell, weight in part.weights.items() if cell.tuned)
        for part in parts
    ]
    return Noise(np.array(floors), np.array(extra, dtype=np.float64), raced_seeds)


def _trials(cell: Cell, table: TrialTable) -> Mapping[int, Row]:
    return table.reporting.get((cell.arm, cell.setting), {})


def _name(cell: Cell, seed: int, table: TrialTable) -> str:
    """The trial's id, or the arm and seed of one that was never made."""
    row = _trials(cell, table).get(seed)
    return str(row["trial_id"]) if row else f"{cell.arm}, seed {seed}"


def _chance(cell: Cell, table: TrialTable) -> float:
    """The score of guessing. Raises Untested for a metric that has none: nothing can stand for a diverged trial."""
    metric = metric_named(cell.metric)
    if not metric.guess or metric.source == "analysis":
        raise Untested(f"{cell.arm} diverged, and a diverged trial has no {cell.metric}")
    return 100.0 / next(int(row["num_classes"]) for row in _trials(cell, table).values())


def _num_images(cells: Sequence[Cell], table: TrialTable) -> int | None:
    """The least number of test images on which the cells' scores are counted; None if one's is unknown."""
    counts = [counted_images(cell.metric, _trials(cell, table).values()) for cell in cells]
    stated = [count for count in counts if count is not None]
    return min(stated) if stated and len(stated) == len(counts) else None


def counted_images(metric: str, rows: Iterable[Row]) -> int | None:
    """The smallest number of test images on which the ok rows' metric is counted; None for other metrics."""
    if not metric_named(metric).counted:
        return None
    counts = [int(row["result"].get("num_test_images") or 0) for row in rows if row["status"] == "ok"]
    return min(counts) if counts and min(counts) > 0 else None
