"""What fits into the hours: how long a training is, how many seeds a question gets, what the final comparison needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vitbench.plan.resolve import MIN_STEPS
from vitbench.recommend.questions import RecipeQuestion
from vitbench.recommend.recipe import Frame, Recipe, forward_flops

START_SECONDS = 4.0
"""Starting the processes of one experiment, and writing its tables."""
TRIAL_SECONDS = 0.4
"""Reading the images, evaluation and record of one trial."""
END_SECONDS = 12.0
"""Export, page and timing at the end."""
SAFETY = 0.85
"""Share of the budget that is planned; the rest is for trainings that take longer than measured."""
LONGEST_STEPS, LONGEST_EPOCHS = 3_000, 60
"""A training has at most the larger of the two: beyond it more seeds are worth more."""
GROWTH = 0.5
"""Rates that an arm adds because its best one stands at an end, on average."""
SURVIVAL = 0.6
"""Share of the rates that an arm keeps after its first seeds, roughly."""


@dataclass(frozen=True)
class Effort:
    """How thoroughly a question is asked.

    `rates` per arm around the recipe's; `first` seeds train all of them, `seeds` the rates that are left; `more` seeds
    for arms that are still open; `final` seeds for the comparison on test images.
    """

    rates: int
    first: int
    seeds: int
    more: int
    final: int

    def trainings(self, num_arms: int, num_rates: int | None = None) -> float:
        """Trainings of a question before `more`."""
        rates = self.rates if num_rates is None else num_rates
        if rates == 1:
            return float(num_arms * self.seeds)
        kept = max(1.0, SURVIVAL * rates)
        return num_arms * ((rates + GROWTH) * self.first + kept * (self.seeds - self.first))

    @property
    def family_rates(self) -> int:
        """Rates of the first question, which serve the baselines too."""
        return max(2, min(3, self.rates + 1))


EFFORTS = (Effort(3, 2, 4, 8, 8), Effort(2, 2, 3, 6, 6), Effort(1, 2, 3, 3, 4), Effort(1, 2, 2, 2, 3))
"""The thorough one first. With one rate all arms of a later question train at the rate of the recipe."""


@dataclass(frozen=True)
class Speeds:
    """Seconds of this machine per training FLOP by family, of one trial while all processes work."""

    per_flop: Mapping[str, float]
    memory_mib: float = 0.0
    jobs: int = 1

    def seconds(self, recipe: Recipe, frame: Frame) -> float:
        """Seconds of one training."""
        return frame.flops * self.per_flop[recipe.family] + TRIAL_SECONDS

    def scaled(self, family: str, factor: float) -> Speeds:
        """The speeds after a family has been seen to take `factor` times as long."""
        return replace(self, per_flop={**self.per_flop, family: self.per_flop[family] * factor})


@dataclass(frozen=True)
class Allocation:
    """The frame with its compute per training, the effort, and the numbers behind them."""

    frame: Frame
    effort: Effort
    num_steps: int
    num_epochs: float
    cut_short: bool
    """Whether even the shortest sensible training leaves some questions unasked."""


def allocate(
    seconds: float, speeds: Speeds, frame: Frame, vit: Recipe, arms: Mapping[str, Sequence[Recipe]], num_images: int
) -> Allocation:
    """Choose the length of a training and the effort so that all questions fit; else the shortest sensible training.

    `arms`: the arms of every question, the family's first; `num_images`: training images.
    """
    steps_per_epoch = num_images / frame.batch_size
    step_flops = 3.0 * frame.batch_size * forward_flops(vit, frame)
    shortest = max(MIN_STEPS * 3 // 2, math.ceil(min(200, 5 * steps_per_epoch)))
    good = math.ceil(min(1000, 30 * steps_per_epoch))
    longest = math.ceil(max(LONGEST_STEPS, LONGEST_EPOCHS * steps_per_epoch))
    left = seconds * SAFETY - END_SECONDS - START_SECONDS * (len(arms) + 1)
    steps, effort = 0, EFFORTS[-1]
    for effort in EFFORTS:
        steps = math.floor(_steps_that_fit(left * speeds.jobs, speeds, effort, arms, step_flops))
        if steps >= good:
            break
    else:  # The first effort that allows a sensible training.
        for effort in EFFORTS:
            steps = math.floor(_steps_that_fit(left * speeds.jobs, speeds, effort, arms, step_flops))
            if steps >= shortest:
                break
    num_steps = min(longest, max(shortest, steps))
    # Half a step more, so that the FLOPs budget gives this number of steps and not one less.
    flops = float(f"{(num_steps + 0.5) * step_flops:.4g}")
    frame = replace(frame, train_flops=flops)
    return Allocation(frame, effort, num_steps, num_steps / steps_per_epoch, steps < shortest)


def _steps_that_fit(
    seconds: float, speeds: Speeds, effort: Effort, arms: Mapping[str, Sequence[Recipe]], step_flops: float
) -> float:
    """Steps of the default ViT in one training if every question and the final comparison share these seconds."""
    weights = 0.0
    trainings = 0.0
    for number, recipes in enumerate(arms.values()):
        rates = effort.family_rates if number == 0 else effort.rates
        count = effort.trainings(len(recipes), rates) + 0.5 * len(recipes) * (effort.more - effort.seeds)
        cost = sum(speeds.per_flop[recipe.family] for recipe in recipes) / len(recipes)
        if number > 0:  # The best recipe may be of a slower family by then.
            cost = (cost + max(speeds.per_flop.values())) / 2.0
        weights += count * cost
        trainings += count
    final = 2.0 * max(speeds.per_flop.values()) + speeds.per_flop["vit"]
    weights += effort.final * final
    trainings += 3 * effort.final
    return max(0.0, seconds - trainings * TRIAL_SECONDS) / (weights * step_flops)


@dataclass(frozen=True)
class PlannedQuestion:
    """One line of the plan before anything is spent."""

    question: str
    words: str
    num_arms: int
    trainings: int
    hours: float
    gain: float
    chance: float
    fits: bool


def plan_lines(
    seconds: float,
    allocation: Allocation,
    speeds: Speeds,
    questions: Sequence[tuple[RecipeQuestion, Sequence[Recipe]]],
    noise: float,
) -> list[PlannedQuestion]:
    """The questions in the order in which they will probably be asked, with their costs."""
    frame, effort = allocation.frame, allocation.effort
    left = seconds - END_SECONDS - final_seconds(min(3, effort.final), 3, allocation, speeds)
    lines = []
    for number, (question, recipes) in enumerate(questions):
        rates = effort.family_rates if number == 0 else effort.rates
        cost = cost_seconds(recipes, effort, rates, speeds, frame)
        trainings = round(effort.trainings(len(recipes), rates))
        fits = cost <= left
        left -= cost if fits else 0.0
        chance = question.chance(len(recipes), effort.more, noise)
        gain = question.expected_gain()
        lines.append(
            PlannedQuestion(question.name, question.words, len(recipes), trainings, cost / 3600, gain, chance, fits)
        )
    return lines


def cost_seconds(recipes: Sequence[Recipe], effort: Effort, num_rates: int, speeds: Speeds, frame: Frame) -> float:
    """Seconds of a question before `more` seeds."""
    trainings = effort.trainings(len(recipes), num_rates)
    mean = sum(speeds.seconds(recipe, frame) for recipe in recipes) / len(recipes)
    return trainings * mean / speeds.jobs + START_SECONDS


def final_seconds(num_seeds: int, num_arms: int, allocation: Allocation, speeds: Speeds) -> float:
    """Seconds of the final comparison: `num_arms` networks, the slowest family counted for those not chosen yet."""
    slowest = allocation.frame.flops * max(speeds.per_flop.values()) + TRIAL_SECONDS
    return num_seeds * num_arms * slowest / speeds.jobs + START_SECONDS
