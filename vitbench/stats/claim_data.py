"""A claim with its evidence: the sample of its cells, the noise of its parts, and whether it may be decided at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vitbench.base.seeding import derive_seed
from vitbench.spec.claims import Claim
from vitbench.spec.experiment import Experiment
from vitbench.spec.metrics import metric_named
from vitbench.stats.contrasts import Cell, Question
from vitbench.stats.decision import Estimate, Noise, Region, Settlement, estimate, has_spread, settle
from vitbench.stats.design import Design, design
from vitbench.stats.distributions import Floats
from vitbench.stats.paired_sample import Sample, gather, noise_of
from vitbench.stats.table import TrialTable
from vitbench.stats.tuning import tuning_noise
from vitbench.stats.verdict_types import State

LEAST_SEEDS = 3
MOST_DIVERGED = 0.2


@dataclass(frozen=True)
class Case:
    """One claim, the contrasts it asks for, and what the trials say of them."""

    claim: Claim
    experiment: Experiment
    table: TrialTable
    asked: Question
    design: Design
    sample: Sample
    variances: Mapping[Cell, float | None]
    noise: Noise

    @property
    def regions(self) -> list[Region]:
        """The region of each part."""
        return [part.region for part in self.asked.parts]

    @property
    def look(self) -> int:
        """The index of the last look reached."""
        return len(self.design.seeds) - 1

    def factor(self, level: float) -> float:
        """Half-width of the present interval, in standard errors."""
        return self.design.plan.factor(self.look, level, self.sample.n - 1)

    def data(self, sample: Sample | None = None) -> tuple[Floats, Floats]:
        """The parts' contrasts per seed [n, P], from below and from above."""
        found = [(sample or self.sample).project(part.weights) for part in self.asked.parts]
        return np.stack([low for low, _ in found], axis=1), np.stack([high for _, high in found], axis=1)

    def estimate(self, index: int) -> Estimate | None:
        """The estimate at one look; None where an earlier look has fewer seeds than a verdict needs, or no spread."""
        sample = self.sample.take(self.design.seeds[index])
        if index < self.look and sample.n < self.claim.seeds_min:
            return None
        low, high = self.data(sample)
        return estimate(low, high, self.noise) if has_spread(low, high, self.noise) else None

    def settle(self) -> Settlement:
        """The rule applied to the looks reached."""
        return settle([self.estimate(index) for index in range(self.look + 1)], self.regions, self.design.plan)

    def measurable(self) -> bool:
        """Whether every part has a standard error: at least three seeds, and a spread or a floor."""
        return self.sample.n >= LEAST_SEEDS and has_spread(*self.data(), self.noise)

    def refusal(self) -> tuple[State, str] | None:
        """The state that the evidence forces whatever the interval says, with its reason, or None."""
        n, sample = self.sample.n, self.sample
        if n == 0:
            absent = [cell for cell in sample.cells if not self.table.reporting.get((cell.arm, cell.setting))]
            return "untested", absence(absent[0]) if absent else "no seed at which every arm of the claim has finished"
        if n < LEAST_SEEDS:
            return "untested", f"n = {n}, needs {LEAST_SEEDS}"
        if problem := claim_problem(self.claim, sample.num_images):
            return "untested", problem
        if sample.frozen():
            return "inconclusive", "no arm varies between seeds: the score is saturated, or the seed does nothing"
        if not self.measurable():
            return "inconclusive", "all differences are equal and the number of test images is unknown"
        for cell, lost in zip(sample.cells, sample.diverged, strict=True):
            if lost.mean() > MOST_DIVERGED:
                return "inconclusive", f"{cell.arm}: {lost.sum()} of {n} seeds diverged, its setting is unfit"
        if n < self.claim.seeds_min:
            return "inconclusive", f"n = {n}, a verdict needs {self.claim.seeds_min}"
        unknown = next((cell for cell, variance in self.variances.items() if variance is None), None)
        if unknown is not None:
            why = "needs 2 tuning seeds" if is_accuracy(unknown.metric) else f"{unknown.metric} is no accuracy"
            return "inconclusive", f"{unknown.arm}: the noise of its tuned choice is unknown ({why})"
        return None


def absence(cell: Cell) -> str:
    """That a cell has no trials, in words."""
    return f"{cell.arm}: no trials yet" + ("" if cell.setting == "{}" else f" at {cell.setting}")


def open_case(claim: Claim, experiment: Experiment, table: TrialTable, asked: Question) -> Case:
    """The case of one claim. Raises InputError for an unknown metric, Untested where nothing can be measured."""
    cells = asked.cells()
    planned = design(experiment, cells, table)
    sample = gather(cells, table, planned.seeds[-1])
    variances = {cell: tuning_variance(table, cell.arm, cell.metric) for cell in cells if cell.tuned}
    known = {cell: variance for cell, variance in variances.items() if variance is not None}
    return Case(claim, experiment, table, asked, planned, sample, variances, noise_of(asked.parts, sample, known))


def tuning_variance(table: TrialTable, arm: str, metric: str) -> float | None:
    """V of an arm that chose its own setting, points squared; None where the tuning trials cannot tell.

    They tell it in points of validation accuracy, which says nothing of a quantity in another unit.
    """
    if arm not in table.tuning or not is_accuracy(metric):
        return None
    rng = np.random.default_rng(derive_seed(0, "stats/tuning"))
    noise = tuning_noise(table.tuning[arm].eligible_scores(), rng)
    return noise.variance if noise else None


def is_accuracy(metric: str) -> bool:
    """True if the metric is a share of images that are classified right."""
    return metric_named(metric).guess


def claim_problem(claim: Claim, num_images: int | None) -> str | None:
    """Why the claim cannot be judged on this many test images, or None: its margin is under two counting steps."""
    for part in claim.part_claims():
        for name in ("margin_points", "tie_points"):
            margin = getattr(part, name)
            if margin is not None and num_images and margin < 200.0 / num_images:
                return (
                    f"claim {part.id}: {name} {margin:g} on {num_images} test images is"
                    f" {margin * num_images / 100.0:.1f} images; at least {200.0 / num_images:.2g} points are needed"
                )
    return None
