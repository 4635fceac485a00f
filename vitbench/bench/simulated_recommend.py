"""How good recommendations are where the truth is known: `python -m vitbench.bench.simulated_recommend [RUNS]`.

A recipe's true accuracy is the sum of its settings' effects and what its learning rate loses. The search is the
product's own, with its budget, its race over rates and its final interval; only the trainings are drawn.
"""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from vitbench.base.durable import make_folder, replace_durably
from vitbench.base.seeding import derive_seed
from vitbench.data import Facts
from vitbench.plan.race_trials import RaceRules, run_race
from vitbench.recommend.budget import END_SECONDS, START_SECONDS, Allocation, Speeds, allocate, final_seconds
from vitbench.recommend.questions import QUESTIONS, family_question
from vitbench.recommend.recipe import RATE, Frame, Recipe, default_vit, families
from vitbench.recommend.search import Ask, Reply, Search, Tried
from vitbench.stats.images import images_interval
from vitbench.stats.intervals import Interval
from vitbench.stats.race import CHOOSER

RUNS = 300
BUDGETS_MINUTES = (5.0, 30.0, 120.0)
PER_FLOP = {"vit": 6e-11, "resnet": 9e-11, "hybrid": 1e-10}
"""Seconds per training FLOP of one of two processes on digits, on a quiet machine."""
NUM_TEST = 1_000


@dataclass(frozen=True)
class SearchWorld:
    """Standard deviations and means in points. `sizes` scales what settings change."""

    name: str
    sizes: float
    luck: float
    flips: float
    split: float
    curvature: float


WORLDS = (
    SearchWorld("large differences, little noise", 1.5, 0.5, 0.4, 0.5, 0.5),
    SearchWorld("as expected", 1.0, 0.8, 0.9, 0.8, 0.5),
    SearchWorld("small differences, much noise", 0.4, 1.1, 1.5, 1.2, 1.2),
)


@dataclass
class Truth:
    """What is true in one run: effects of settings, drawn when first asked, and each recipe's best rate.

    `start`: the recipe of each family, whose settings have no effect.
    """

    world: SearchWorld
    rng: np.random.Generator
    start: Mapping[str, Recipe]
    effects: dict[tuple[str, str, str], float] = field(default_factory=dict)
    optima: dict[tuple[str, str], float] = field(default_factory=dict)
    shared: dict[int, float] = field(default_factory=dict)
    noise: dict[tuple[Any, ...], float] = field(default_factory=dict)

    def accuracy(self, recipe: Recipe) -> float:
        """The expected accuracy in percent."""
        total = 80.0 + self._family(recipe.family)
        for path, value in recipe.settings:
            if path != RATE:
                total += self._effect(recipe.family, path, value)
        if recipe.pretrain:
            total += self._effect(recipe.family, "pretrain", recipe.pretrain)
        octaves = math.log2(recipe.rate / self.start[recipe.family].rate) - self._optimum(recipe)
        return min(99.0, total - self.world.curvature * octaves**2)

    def score(self, recipe: Recipe, seed: int) -> float:
        """A validation score."""
        if seed not in self.shared:
            self.shared[seed] = self.world.split * float(self.rng.standard_normal())
        key = (*recipe.key, seed)
        if key not in self.noise:
            self.noise[key] = math.hypot(self.world.luck, self.world.flips) * float(self.rng.standard_normal())
        return self.accuracy(recipe) + self.shared[seed] + self.noise[key]

    def best(self, recipe: Recipe) -> float:
        """The accuracy of a recipe at the best rate for it."""
        octaves = math.log2(recipe.rate / self.start[recipe.family].rate) - self._optimum(recipe)
        return self.accuracy(recipe) + self.world.curvature * octaves**2

    def _family(self, family: str) -> float:
        gain, spread = {"vit": (0.0, 0.0), "resnet": (2.0, 4.0), "hybrid": (1.0, 3.0)}[family]
        return self._drawn((family, "", ""), gain, spread)

    def _effect(self, family: str, path: str, value: Any) -> float:
        if self.start[family].get(path) == value:
            return 0.0
        gain, spread = _PRIORS.get(path, (0.0, 0.8))
        return self._drawn((family, path, repr(value)), gain - spread / 2.0, spread)

    def _drawn(self, key: tuple[str, str, str], middle: float, spread: float) -> float:
        if key not in self.effects:
            self.effects[key] = self.world.sizes * (middle + spread * float(self.rng.standard_normal()))
        return self.effects[key]

    def _optimum(self, recipe: Recipe) -> float:
        key = recipe.family, repr(recipe.get("model.name"))
        if key not in self.optima:
            self.optima[key] = 0.7 * float(self.rng.standard_normal())
        return self.optima[key]


_PRIORS = {
    "model.name": (1.5, 3.0),
    "train.augment": (0.5, 2.5),
    "model.width_factor": (0.5, 1.5),
    "model.embed_dim": (0.5, 1.5),
    "model.global_pool": (0.5, 1.2),
    "model.pos_embed": (0.3, 1.2),
    "model.token_mixer": (0.0, 1.5),
    "pretrain": (-1.0, 2.0),
}
"""(mean, spread) of effects by path: those by which the questions are ordered."""


@dataclass(frozen=True)
class SimulatedRun:
    """One simulated recommendation: points behind the best recipe, trainings, and its interval against the default."""

    regret: float
    gain: float
    trainings: int
    questions: int
    interval: Interval | None
    true_lead: float


def simulate(world: SearchWorld, minutes: float, num_runs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Many recommendations in one world at one budget."""
    runs = [run_once(world, minutes, number) for number in range(num_runs)]
    say(f"{world.name}, {minutes:g} min: {num_runs} runs")
    compared = [run for run in runs if run.interval is not None and run.interval.low is not None]
    covered = [r.interval.low <= r.true_lead <= r.interval.high for r in compared if r.interval is not None]  # type: ignore[operator]
    return {
        "world": world.name,
        "minutes": minutes,
        "runs": num_runs,
        "within_one_point_percent": 100.0 * mean(run.regret <= 1.0 for run in runs),
        "mean_regret_points": mean(run.regret for run in runs),
        "mean_gain_points": mean(run.gain for run in runs),
        "mean_trainings": mean(run.trainings for run in runs),
        "mean_questions": mean(run.questions for run in runs),
        "compared": len(compared),
        "covered_percent": 100.0 * mean(covered) if covered else None,
    }


def run_once(world: SearchWorld, minutes: float, number: int) -> SimulatedRun:
    """One recommendation from plan to interval."""
    rng = np.random.default_rng(derive_seed(number, f"recommend/{world.name}/{minutes:g}"))
    frame, speeds = _frame(), Speeds(PER_FLOP, 0.0, 2)
    vit = default_vit(frame, "Mu")
    starts = families(vit, frame, "Mu")
    truth = Truth(world, rng, starts)
    questions = [family_question("Mu"), *QUESTIONS]
    arms = {q.name: list(q.arms(vit, frame).values()) for q in questions}
    arms = {name: recipes for name, recipes in arms.items() if len(recipes) > 1}
    allocation = allocate(60.0 * minutes, speeds, frame, vit, arms, 1_150)
    clock = _Clock(60.0 * minutes)
    search = Search(allocation, speeds, "accuracy", questions, [], lambda journal: None)
    reserved = END_SECONDS + final_seconds(3, 3, allocation, speeds)
    search.run(vit, lambda asked: _reply(asked, truth, allocation, speeds, clock), lambda: clock.left - reserved)
    leader = search.leader
    recipe = vit if leader is None else leader.recipe
    best = max(_best_of(family, search, truth) for family in starts.values())
    baseline = search.answers[0].arms["vit"].recipe if search.answers else vit
    lead = truth.accuracy(recipe) - truth.accuracy(baseline)
    num_seeds = min(10, int((clock.left - END_SECONDS) * 2 / (3 * speeds.seconds(recipe, allocation.frame))))
    same = recipe.key == baseline.key
    interval = None if same or num_seeds < 2 else _final(truth, recipe, baseline, num_seeds)
    return SimulatedRun(best - truth.accuracy(recipe), lead, search.num_trainings, len(search.answers), interval, lead)


@dataclass
class _Clock:
    left: float


@functools.cache
def _frame() -> Frame:
    """Images of the size and number of digits."""
    names = tuple(map(str, range(10)))
    facts = Facts("simulated", 8, 1, 10, names, (144,) * 10, 1_440, NUM_TEST, True, "simulated", "", True)
    return Frame("simulated", facts, 8, 0.2, 64)


def _reply(asked: Ask, truth: Truth, allocation: Allocation, speeds: Speeds, clock: _Clock) -> Reply:
    """The race of every arm on drawn scores, and the time that it takes."""
    first, num_seeds = asked.seeds
    arms, num_trainings = {}, 0
    for name, recipe in asked.arms.items():
        if len(asked.rates) > 1:
            rules = RaceRules(tuple(range(num_seeds)), tuple(sorted({first, num_seeds})), 0.05, 1)
            settings = [{RATE: rate} for rate in asked.rates]

            def score(setting: Mapping[str, Any], seed: int, recipe: Recipe = recipe) -> float:
                return truth.score(recipe.changed(setting), seed)

            race = run_race(name, settings, rules, score, CHOOSER, lambda setting: True)
            chosen = recipe.changed(race.leaders[num_seeds])
            num_trainings += len(race.entries)
        else:
            chosen = recipe
            num_trainings += num_seeds
        seconds = speeds.seconds(chosen, allocation.frame)
        scores = {seed: truth.score(chosen, seed) for seed in range(num_seeds)}
        arms[name] = Tried(chosen, scores, seconds=seconds)
    mean_seconds = mean(tried.seconds for tried in arms.values())
    clock.left -= num_trainings * mean_seconds / speeds.jobs + START_SECONDS
    return Reply(arms, True, num_trainings)


def _best_of(recipe: Recipe, search: Search, truth: Truth) -> float:
    """The accuracy of the best recipe of a family: every question at its best arm, at the best rate."""
    frame = search.allocation.frame
    for question in search.questions[1:]:
        if recipe.family in question.applies_to:
            recipe = max(question.arms(recipe, frame).values(), key=truth.best, default=recipe)
    return truth.best(recipe)


def _final(truth: Truth, recipe: Recipe, baseline: Recipe, num_seeds: int) -> Interval:
    """The interval of the lead from answers to NUM_TEST images: images differ in difficulty, for both and for each."""
    rng = truth.rng
    both = math.sqrt(0.6) * rng.standard_normal(NUM_TEST)
    correct = []
    for each in (recipe, baseline):
        cut = _normal_quantile(truth.accuracy(each) / 100.0)
        own = math.sqrt(0.15) * rng.standard_normal(NUM_TEST)
        luck = math.sqrt(0.001) * rng.standard_normal((num_seeds, 1))
        rest = math.sqrt(0.249) * rng.standard_normal((num_seeds, NUM_TEST))
        correct.append(100.0 * (cut + both + own + luck + rest > 0.0))
    return images_interval(correct[0] - correct[1])


def _normal_quantile(share: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(share))


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one line per world and budget."""
    lines = [
        "# How good recommendations are",
        "",
        "`python -m vitbench.bench.simulated_recommend` writes this page: the search of `vitbench recommend` on drawn",
        "scores, at the speed of digits on two cores. Regret: points behind the best of all recipes, at its best rate.",
        "Coverage is that of the final 95% interval of the lead over the default ViT, where the two differ.",
        "",
        "| world | minutes | runs | within 1 point of the best (%) | mean regret | mean gain over the default "
        "| trainings | questions | covered (%) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        covered = "-" if row["covered_percent"] is None else f"{row['covered_percent']:.1f} of {row['compared']}"
        lines.append(
            f"| {row['world']} | {row['minutes']:g} | {row['runs']} | {row['within_one_point_percent']:.1f} | "
            f"{row['mean_regret_points']:.2f} | {row['mean_gain_points']:+.2f} | {row['mean_trainings']:.0f} | "
            f"{row['mean_questions']:.1f} | {covered} |"
        )
    return "\n".join(lines) + "\n"


def main(num_runs: int = RUNS, folder: str = "results/bench") -> None:
    """Simulate every world at every budget and write the table."""
    results = [simulate(world, minutes, num_runs, print) for world in WORLDS for minutes in BUDGETS_MINUTES]
    make_folder(Path(folder))
    replace_durably(Path(folder) / "recommend.json", json.dumps(results, indent=1).encode() + b"\n")
    replace_durably(Path(folder) / "recommend.md", table(results).encode())


if __name__ == "__main__":
    main(*(int(word) if number == 0 else word for number, word in enumerate(sys.argv[1:])))  # type: ignore[arg-type]
