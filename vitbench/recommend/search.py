"""The search: which question is next, what its answer changes, and when to stop. Trainings are somebody else's work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Literal

from vitbench.recommend.arm_gaps import ArmGap, arm_gaps, noise_of, pick
from vitbench.recommend.budget import Allocation, Speeds, cost_seconds
from vitbench.recommend.questions import FAMILY, RecipeQuestion
from vitbench.recommend.recipe import Recipe

Aim = Literal["accuracy", "speed", "size"]
AIMS: tuple[Aim, ...] = ("accuracy", "speed", "size")


@dataclass(frozen=True)
class Tried:
    """A recipe at its chosen rate with what its trials gave; `seconds` of one trial, `speed` in images per second."""

    recipe: Recipe
    scores: Mapping[int, float]
    speed: float = 0.0
    params: int = 0
    seconds: float = 0.0

    def cost(self, aim: Aim) -> float:
        """What the aim wants to be small."""
        return {"accuracy": 0.0, "speed": -self.speed, "size": float(self.params)}[aim]


@dataclass(frozen=True)
class Ask:
    """Trainings to run: arms, the rates of each, and (seeds that train every rate, all seeds)."""

    name: str
    question: RecipeQuestion
    arms: Mapping[str, Recipe]
    rates: tuple[float, ...]
    seeds: tuple[int, int]


@dataclass(frozen=True)
class Reply:
    """The arms of an `Ask` after its trainings; `finished` is false if the time ended first."""

    arms: Mapping[str, Tried]
    finished: bool = True
    num_trainings: int = 0


@dataclass(frozen=True)
class Answer:
    """A question with how its arms stand, the arm that was chosen, and the arms' networks."""

    question: RecipeQuestion
    before: Recipe
    arms: Mapping[str, Tried]
    standing: tuple[ArmGap, ...]
    chosen: str | None
    finished: bool


@dataclass
class Search:
    """The state of a recommendation between questions.

    `branches`: the best recipe of each family so far. `tried`: every recipe with all of its scores. `journal`: the
    names of what was asked, in order; a resumed search repeats it before it looks at the clock.
    """

    allocation: Allocation
    speeds: Speeds
    aim: Aim
    questions: list[RecipeQuestion]
    journal: list[str]
    noted: Callable[[list[str]], None]
    branches: dict[str, Tried] = field(default_factory=dict)
    tried: dict[tuple[object, ...], Tried] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    num_trainings: int = 0
    noise: float = 1.5
    floor: float = 0.0
    """The least spread of a score in points: a score that counts images moves in steps."""

    def run(self, vit: Recipe, ask: Callable[[Ask], Reply], time_left: Callable[[], float]) -> None:
        """Ask questions until none is worth its time or fits. `time_left()`: seconds before the final comparison."""
        first, *later = self.questions
        if not self._ask(first, vit, ask, time_left):
            return
        while later:
            possible = {q.name: recipe for q in later if (recipe := self._recipe_for(q)) is not None}
            open_now = [question for question in later if question.name in possible]
            asked = [question for question in open_now if self._was_asked(question.name)]
            replayed = min(asked, key=lambda question: self.journal.index(question.name), default=None)
            open_now.sort(key=lambda question: -self._worth(question, possible[question.name]))
            affordable = (q for q in open_now if self._cost(q, possible[q.name]) <= time_left())
            question = replayed or next(affordable, None)
            if question is None:
                return
            later.remove(question)
            if not self._ask(question, possible[question.name], ask, time_left):
                return

    @property
    def leader(self) -> Tried | None:
        """The best recipe so far, for the aim."""
        if not self.branches:
            return None
        return self.branches[self._pick(self.branches, self._families())]

    def _families(self) -> tuple[ArmGap, ...]:
        """The families at the seeds that all of them have."""
        common = set.intersection(*(set(tried.scores) for tried in self.branches.values()))
        cut = {name: {seed: tried.scores[seed] for seed in common} for name, tried in self.branches.items()}
        return arm_gaps(cut, self.floor)

    def _ask(
        self, question: RecipeQuestion, recipe: Recipe, ask: Callable[[Ask], Reply], time_left: Callable[[], float]
    ) -> bool:
        """Ask, ask open arms again with more seeds, and take the answer over; false if the time ended."""
        effort = self.allocation.effort
        arms = question.arms(recipe, self.allocation.frame)
        rates = rates_around(recipe.rate, effort.family_rates if not self.answers else effort.rates)
        reply = self._trainings(Ask(question.name, question, arms, rates, (effort.first, effort.seeds)), ask)
        replies = dict(reply.arms)
        standing = arm_gaps(_scores(replies), self.floor)
        still_open = [each.arm for each in standing if each.state in ("leads", "open")]
        if reply.finished and len(still_open) > 1 and effort.more > effort.seeds:
            again = {arm: replies[arm].recipe for arm in still_open}
            seconds = sum(replies[arm].seconds for arm in still_open) * (effort.more - effort.seeds) / self.speeds.jobs
            name = f"{question.name}-more"
            if self._was_asked(name) or seconds <= time_left() - self._cost_of_the_rest(question):
                more = self._trainings(Ask(name, question, again, (), (effort.more, effort.more)), ask)
                replies |= {arm: tried for arm, tried in more.arms.items() if len(tried.scores) > effort.seeds}
                standing = arm_gaps(_scores(replies), self.floor)
        self._take_over(question, recipe, replies, standing, reply.finished)
        return reply.finished

    def _trainings(self, asked: Ask, ask: Callable[[Ask], Reply]) -> Reply:
        if not self._was_asked(asked.name):
            self.journal.append(asked.name)
            self.noted(self.journal)
        reply = ask(asked)
        self.num_trainings += reply.num_trainings
        for tried in reply.arms.values():
            self._learn_speed(tried)
            before = self.tried.get(tried.recipe.key, tried)
            self.tried[tried.recipe.key] = replace(tried, scores={**before.scores, **tried.scores})
        return reply

    def _learn_speed(self, tried: Tried) -> None:
        """Correct the seconds of a family by what its trials took."""
        family = tried.recipe.family
        predicted = self.speeds.seconds(tried.recipe, self.allocation.frame)
        if tried.seconds > 0.0:
            self.speeds = self.speeds.scaled(family, (tried.seconds / predicted) ** 0.5)

    def _take_over(
        self,
        question: RecipeQuestion,
        before: Recipe,
        arms: Mapping[str, Tried],
        standing: tuple[ArmGap, ...],
        finished: bool,
    ) -> None:
        """Note the answer; its chosen arm becomes the recipe of its family.

        Only the first question changes something if it is not finished: without it there is no answer at all.
        """
        chosen = self._pick(arms, standing) if standing and (finished or question.name == FAMILY) else None
        self.answers.append(Answer(question, before, arms, standing, chosen, finished))
        if finished and (noise := noise_of(_scores(arms))) is not None:
            self.noise = noise
        if question.name == FAMILY:
            self.branches |= {tried.recipe.family: self._all_of(tried) for tried in arms.values() if tried.scores}
        elif chosen is not None:
            self.branches[before.family] = self._all_of(arms[chosen])

    def _all_of(self, tried: Tried) -> Tried:
        """A recipe with the scores of every question that trained it."""
        return self.tried.get(tried.recipe.key, tried)

    def _pick(self, arms: Mapping[str, Tried], standing: Sequence[ArmGap]) -> str:
        cost = None if self.aim == "accuracy" else {name: tried.cost(self.aim) for name, tried in arms.items()}
        return pick(standing, cost)

    def _was_asked(self, name: str) -> bool:
        return name in self.journal

    def _recipe_for(self, question: RecipeQuestion) -> Recipe | None:
        """The recipe that a question varies: the leader's if it has two arms there, else that of the next family."""
        if not self.branches:
            return None
        leader = self._pick(self.branches, self._families())
        families = [f for f in (leader, *(each.arm for each in self._families())) if f in question.applies_to]
        recipes = [self.branches[family].recipe for family in families]
        return next((r for r in recipes if len(question.arms(r, self.allocation.frame)) > 1), None)

    def _behind(self, recipe: Recipe) -> float:
        """Points by which a recipe's family is behind the leader."""
        leader, tried = self.leader, self.branches[recipe.family]
        assert leader is not None
        common = leader.scores.keys() & tried.scores.keys()
        gaps = [leader.scores[seed] - tried.scores[seed] for seed in common]
        return max(0.0, fmean(gaps)) if gaps else 0.0

    def _cost(self, question: RecipeQuestion, recipe: Recipe) -> float:
        arms = list(question.arms(recipe, self.allocation.frame).values())
        effort = self.allocation.effort
        return cost_seconds(arms, effort, effort.rates, self.speeds, self.allocation.frame)

    def _cost_of_the_rest(self, now: RecipeQuestion) -> float:
        """Seconds of the questions that are still to come: they go before more seeds for this one."""
        asked = {answer.question.name for answer in self.answers} | {now.name}
        rest = [question for question in self.questions if question.name not in asked]
        recipes = {question.name: self._recipe_for(question) for question in rest}
        return sum(self._cost(q, recipe) for q in rest if (recipe := recipes[q.name]) is not None)

    def _worth(self, question: RecipeQuestion, recipe: Recipe) -> float:
        """Expected gain in points per hour."""
        return question.expected_gain(self._behind(recipe)) / max(self._cost(question, recipe), 1.0)


def rates_around(rate: float, num_rates: int) -> tuple[float, ...]:
    """Rates an octave apart around one: itself; itself and half; half, itself and double."""
    octaves = {1: (0,), 2: (-1, 0), 3: (-1, 0, 1)}[num_rates]
    return tuple(float(f"{rate * 2.0**octave:.3g}") for octave in octaves)


def _scores(arms: Mapping[str, Tried]) -> dict[str, Mapping[int, float]]:
    return {name: tried.scores for name, tried in arms.items()}
