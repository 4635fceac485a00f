"""A claim with its evidence: the sample of its cells, the noise of its parts, and whether it may be decided at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from vitbench.base.seeding import derive_seed
from vitbench.spec.claims import Claim
from vitbench.spec.experiment import Experiment
from vitbench.spec.metrics import metric_named
from vitbench.stats.contrasts import Cell, Question, Resolver, Untested, question
from vitbench.stats.decision import Estimate, Noise, Region, Settlement, estimate, has_spread, settle
from vitbench.stats.design import Design, design, races
from vitbench.stats.distributions import Floats
from vitbench.stats.looks import DEFAULT_LOOKS
from vitbench.stats.paired_sample import Sample, gather, noise_of, observed
from vitbench.stats.race import Race
from vitbench.stats.table import TrialTable, metric_value
from vitbench.stats.tuning import tuning_noise
from vitbench.stats.verdict_types import State

LEAST_SEEDS = 3
MOST_DIVERGED = 0.2


@dataclass(frozen=True)
class LookReading:
    """What one look reads: the contrasts at the settings chosen by then, their scores, and the noise of the choices.

    `variances`: V of each tuned cell, None if it is unknown; `depends`: tuned cells whose quantity differs between
    settings that may be the best.
    """

    question: Question
    sample: Sample
    variances: Mapping[Cell, float | None]
    depends: tuple[Cell, ...]
    noise: Noise


@dataclass(frozen=True)
class Case:
    """One claim, the looks reached, and what the trials say at each of them; the last look is the present."""

    claim: Claim
    experiment: Experiment
    table: TrialTable
    design: Design
    readings: tuple[LookReading, ...]

    @property
    def question(self) -> Question:
        """The claim's contrasts at the present look."""
        return self.readings[-1].question

    @property
    def sample(self) -> Sample:
        """The scores at the present look."""
        return self.readings[-1].sample

    @property
    def variances(self) -> Mapping[Cell, float | None]:
        """V of each tuned cell at the present look."""
        return self.readings[-1].variances

    @property
    def noise(self) -> Noise:
        """Floors and V per part at the present look."""
        return self.readings[-1].noise

    @property
    def regions(self) -> list[Region]:
        """The region of each part."""
        return [part.region for part in self.question.parts]

    @property
    def look(self) -> int:
        """The index of the last look reached."""
        return len(self.design.seeds) - 1

    def factor(self, level: float) -> float:
        """Half-width of the present interval, in standard errors."""
        return self.design.plan.factor(self.look, level, self.sample.n - 1)

    def data(self, index: int = -1) -> tuple[Floats, Floats]:
        """The parts' contrasts per seed [n, P] at a look (default: the present), from below and from above."""
        reading = self.readings[index]
        contrasts = [reading.sample.project(part.weights) for part in reading.question.parts]
        return np.stack([low for low, _ in contrasts], axis=1), np.stack([high for _, high in contrasts], axis=1)

    def estimate(self, index: int) -> Estimate | None:
        """The estimate at one look; None if an earlier look has fewer seeds than a verdict needs, or no spread."""
        reading = self.readings[index]
        if index < self.look and reading.sample.n < self.claim.seeds_min:
            return None
        low, high = self.data(index)
        return estimate(low, high, reading.noise) if has_spread(low, high, reading.noise) else None

    def settle(self) -> Settlement:
        """The rule applied to the looks reached."""
        return settle([self.estimate(index) for index in range(self.look + 1)], self.regions, self.design.plan)

    def measurable(self) -> bool:
        """Whether every part has a standard error: at least three seeds, and a spread or a floor."""
        return self.sample.n >= LEAST_SEEDS and has_spread(*self.data(), self.noise)

    def refusal(self) -> tuple[State, str] | None:
        """The state, with its reason, that the evidence forces regardless of the interval; None if it forces none."""
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
            why = _why_unknown(unknown, races(self.experiment))
            return "inconclusive", f"{unknown.arm}: the noise of its tuned choice is unknown ({why})"
        if depends := self.readings[-1].depends:
            return "inconclusive", f"{depends[0].arm}: {depends[0].metric} depends on the tuned setting"
        return None


def _why_unknown(cell: Cell, raced: bool) -> str:
    """Why V of a tuned cell is unknown."""
    if raced:
        return f"{cell.metric} was not measured at every setting that may be the best"
    return "needs 2 tuning seeds" if is_accuracy(cell.metric) else f"{cell.metric} is no accuracy"


def absence(cell: Cell) -> str:
    """A sentence that says a cell has no trials."""
    return f"{cell.arm}: no trials yet" + ("" if cell.setting == "{}" else f" at {cell.setting}")


def open_case(claim: Claim, experiment: Experiment, table: TrialTable) -> Case:
    """The case of one claim. Raises InputError for an unknown metric, Untested if nothing can be measured."""
    if races(experiment):
        planned = design(experiment, partial(_raced_upto, claim, experiment, table))
        looks = [table.upto(len(seeds)) for seeds in planned.seeds]
        readings = [
            _reading(question(claim, Resolver(experiment, then)), then, seeds)
            for then, seeds in zip(looks, planned.seeds, strict=True)
        ]
        return Case(claim, experiment, looks[-1], planned, tuple(readings))
    contrasts = question(claim, Resolver(experiment, table))
    shared, _ = observed(contrasts.cells(), table)
    count = next((seed for seed in range(len(shared) + 1) if seed not in shared), 0)
    planned = design(experiment, lambda look: look <= count)
    last = _reading(contrasts, table, planned.seeds[-1])
    earlier = [replace(last, sample=last.sample.take(seeds)) for seeds in planned.seeds[:-1]]
    return Case(claim, experiment, table, planned, (*earlier, last))


def _raced_upto(claim: Claim, experiment: Experiment, table: TrialTable, num_seeds: int) -> bool:
    """Whether every arm of the claim has run its race to this many seeds, and has its leader's trials at each."""
    then = table.upto(num_seeds)
    try:
        cells = question(claim, Resolver(experiment, then)).cells()
    except Untested:
        return False
    assert experiment.tune is not None
    points = (experiment.tune.first, *(experiment.seeds.all_looks() or DEFAULT_LOOKS))
    races_of_cells = [table.tuning.get(cell.arm) for cell in cells]
    if not all(
        race.complete_at(num_seeds, points, experiment.tune.alpha) for race in races_of_cells if isinstance(race, Race)
    ):
        return False
    shared, _ = observed(cells, then)
    return set(range(num_seeds)) <= shared


def _reading(contrasts: Question, table: TrialTable, seeds: Sequence[int]) -> LookReading:
    """The reading of a claim's contrasts at some seeds."""
    cells = contrasts.cells()
    sample = gather(cells, table, seeds)
    choices = {cell: tuned_variance(table, cell.arm, cell.metric) for cell in cells if cell.tuned}
    variances = {cell: variance for cell, (variance, _) in choices.items()}
    depends = tuple(cell for cell, (_, depends) in choices.items() if depends)
    measured = {cell: variance for cell, variance in variances.items() if variance is not None}
    raced = any(isinstance(table.tuning.get(cell.arm), Race) for cell in choices)
    noise = noise_of(contrasts.parts, sample, measured, sample.n if raced else None)
    return LookReading(contrasts, sample, variances, depends, noise)


def tuning_variance(table: TrialTable, arm: str, metric: str) -> float | None:
    """V of an arm that chose its own setting, in the metric's unit squared; None if it is unknown."""
    return tuned_variance(table, arm, metric)[0]


def tuned_variance(table: TrialTable, arm: str, metric: str) -> tuple[float | None, bool]:
    """V of a tuned arm, and whether the metric depends on the setting.

    Tuning seeds give V in points of validation accuracy only. A race has every metric at every setting, so it gives V
    of another quantity in that quantity's unit.
    """
    search = table.tuning.get(arm)
    if isinstance(search, Race):
        if search.picks is None or (is_accuracy(metric) and is_accuracy(search.metric)):
            return search.variance, False
        return search.variance_of([_values(table, arm, setting, metric) for setting in search.settings])
    if search is None or not is_accuracy(metric):
        return None, False
    noise = tuning_noise(search.eligible_scores(), np.random.default_rng(derive_seed(0, "stats/tuning")))
    return (noise.variance if noise else None), False


def _values(table: TrialTable, arm: str, setting: Mapping[str, Any], metric: str) -> Floats:
    """A metric of an arm at a setting, one value per finished trial."""
    rows = table.trials(arm, setting).values()
    values = [metric_value(row, metric) for row in rows if row["status"] == "ok"]
    return np.array([value for value in values if value is not None], dtype=np.float64)


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
