"""The race of one arm's settings as trials: which settings train at which seeds, given the arm's validation scores.

A stage is a run of seeds between two drop points. The plan of a stage depends on the scores of earlier stages, and, for
lost trials, on earlier seeds of the stage: never on another arm, the order of arrival or a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vitbench.plan.trials import Chooser, RaceStanding, extend
from vitbench.spec.arms import Assignment
from vitbench.spec.experiment import Experiment

USUAL_LOOKS = (6, 9, 13, 20)
"""Drop points of a fixed design, which declares no looks."""
LIKELY_AFTER_FIRST = 0.7
LIKELY_AFTER_LOOK = 0.85
"""Mean share of the settings that survive a drop point in the acceptance simulation."""


@dataclass(frozen=True)
class Lost:
    """A trial without a score: it diverged or failed."""


Score = Callable[[Assignment, int], float | Lost | None]
"""score(setting, seed): the validation score of a trial; None before it has a record."""


@dataclass(frozen=True)
class RaceRules:
    """When settings are dropped: seeds in order, drop points (numbers of seeds, the last is all), error `alpha`.

    `num_extensions`: how many times the grid may grow at an end.
    """

    seeds: tuple[int, ...]
    points: tuple[int, ...]
    alpha: float
    num_extensions: int


def rules_of(experiment: Experiment, seeds: Sequence[int]) -> RaceRules:
    """The rules of an experiment's race over some seeds: drop points after the first seeds and at each look."""
    assert experiment.tune is not None
    ordered = tuple(sorted(seeds))
    looks = experiment.seeds.all_looks() or USUAL_LOOKS
    points = {point for point in (experiment.tune.first, *looks) if point < len(ordered)}
    return RaceRules(ordered, (*sorted(points), len(ordered)), experiment.tune.alpha, experiment.tune.num_extensions)


@dataclass(frozen=True)
class ArmRacePlan:
    """The trials that one arm's race needs so far, as (setting, seed) in order.

    `leaders`: the leading setting at each drop point that was reached. `complete`: the race has run all of its seeds.
    """

    entries: tuple[tuple[Assignment, int], ...]
    leaders: dict[int, Assignment]
    standing: RaceStanding
    complete: bool


def run_race(
    arm: str, grid: Sequence[Assignment], rules: RaceRules, score: Score, chooser: Chooser, can_add: Callable[..., bool]
) -> ArmRacePlan:
    """Plan an arm's race as far as its scores allow.

    `can_add(setting)`: whether a setting beyond the grid can be trained.
    """
    track = _Track(list(grid), rules, score, chooser)
    for begin, end in zip((0, *rules.points), rules.points, strict=False):
        if not track.stage(track.racing, begin, end):
            return track.result(arm, False)
        if begin == 0 and not track.extend(end, can_add):
            return track.result(arm, False)
        track.drop(end)
    return track.result(arm, True)


class _Track:
    """A race in progress: all settings, the indices of those still racing, and the planned (setting, seed) entries."""

    def __init__(self, settings: list[Assignment], rules: RaceRules, score: Score, chooser: Chooser) -> None:
        self.settings, self.rules, self.score, self.chooser = settings, rules, score, chooser
        self.racing = list(range(len(settings)))
        self.entries: list[tuple[Assignment, int]] = []
        self.leaders: dict[int, Assignment] = {}
        self.num_seeds = 0

    def _first_loss(self, index: int, begin: int, end: int) -> int | None:
        """The position of the setting's first lost trial of a stage."""
        setting = self.settings[index]
        return next((p for p in range(begin, end) if isinstance(self._at(setting, p), Lost)), None)

    def _at(self, setting: Assignment, position: int) -> float | Lost | None:
        return self.score(setting, self.rules.seeds[position])

    def stage(self, indices: Sequence[int], begin: int, end: int) -> bool:
        """Plan the seeds of one stage; return whether all of its trials have a record.

        A lost trial drops its setting at once. If every setting loses a trial, the one that lost it last stays.
        """
        losses = {index: self._first_loss(index, begin, end) for index in indices}
        survivor = max(indices, key=lambda index: (losses[index] or 0, -index))
        others_race = any(loss is None for loss in losses.values()) or len(indices) < len(self.racing)
        complete = True
        for index in indices:
            loss = losses[index]
            stop = end if loss is None or (index == survivor and not others_race) else loss + 1
            for position in range(begin, stop):
                self.entries.append((self.settings[index], self.rules.seeds[position]))
                complete &= self._at(self.settings[index], position) is not None
        return complete

    def extend(self, end: int, can_add: Callable[..., bool]) -> bool:
        """Extend the grid while the leader is at an end of it; return whether all new trials have a record."""
        for _ in range(self.rules.num_extensions):
            leader = self._leader(end)
            new = [] if leader is None else [s for s in beyond(self.settings, leader) if can_add(s)]
            if not new:
                break
            indices = range(len(self.settings), len(self.settings) + len(new))
            self.settings += new
            self.racing += indices
            if not self.stage(indices, 0, end):
                return False
        return True

    def drop(self, end: int) -> None:
        """Record the leader at a drop point and keep the settings that are not significantly behind it."""
        self.num_seeds = end
        leader = self._leader(end)
        if leader is None:
            leader = max(self.racing, key=lambda index: (self._num_planned(index), -index))
            self.racing = [leader]
        else:
            scores, ok = self._scores(end)
            self.racing = list(self.chooser.survivors(scores, ok, self.rules.alpha))
        self.leaders[end] = self.settings[leader]

    def _leader(self, end: int) -> int | None:
        choice = self.chooser.choose(self.settings, *self._scores(end))
        return None if choice is None else choice.index

    def _num_planned(self, index: int) -> int:
        """Number of planned trials of a setting; records beyond the plan do not count, whatever their order."""
        return sum(setting == self.settings[index] for setting, _ in self.entries)

    def _scores(self, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Validation scores [K, n] of planned trials, and a mask [K, n] of the trials that have one."""
        planned = {(repr(setting), seed) for setting, seed in self.entries}
        scores, ok = np.zeros((len(self.settings), end)), np.zeros((len(self.settings), end), dtype=bool)
        for row, setting in enumerate(self.settings):
            for position, seed in enumerate(self.rules.seeds[:end]):
                value = self.score(setting, seed) if (repr(setting), seed) in planned else None
                if isinstance(value, float):
                    scores[row, position], ok[row, position] = value, True
        return scores, ok

    def result(self, arm: str, complete: bool) -> ArmRacePlan:
        """The plan so far, with bounds on the number of trials to come."""
        num_left = len(self.rules.seeds) - self.num_seeds
        num_planned = sum(self.rules.seeds.index(seed) >= self.num_seeds for _, seed in self.entries)
        growth = 0 if self.num_seeds else self.rules.num_extensions
        least = 0 if complete else max(0, num_left - num_planned if self.num_seeds else num_left - self.rules.points[0])
        most = 0 if complete else max(0, (len(self.racing) + growth) * num_left - num_planned)
        racing = tuple(self.settings[index] for index in self.racing)
        dropped = tuple(s for index, s in enumerate(self.settings) if index not in self.racing)
        standing = RaceStanding(arm, self.num_seeds, racing, dropped, least, most)
        return ArmRacePlan(tuple(self.entries), self.leaders, standing, complete)


def likely_trials(rules: RaceRules, race: ArmRacePlan) -> int:
    """Expected number of trials beyond the planned ones, if the usual share of settings survives each drop point."""
    if race.complete:
        return 0
    racing = float(len(race.standing.racing))
    total, begin = 0.0, race.standing.num_seeds
    for end in (point for point in rules.points if point > begin):
        total += max(1.0, racing) * (end - begin)
        racing *= LIKELY_AFTER_LOOK if begin else LIKELY_AFTER_FIRST
        begin = end
    num_planned = sum(rules.seeds.index(seed) >= race.standing.num_seeds for _, seed in race.entries)
    return min(race.standing.most, max(race.standing.least, round(total) - num_planned))


def beyond(settings: Sequence[Assignment], index: int) -> list[Assignment]:
    """Settings one step beyond each end of the grid that setting `index` occupies; its other paths keep their values.

    The step has the ratio of the two nearest values: an octave if the grid's values double.
    """
    leader = settings[index]
    out: list[Assignment] = []
    for path, value in leader.items():
        others = {other: leader[other] for other in leader if other != path}
        line = [s[path] for s in settings if all(s[other] == others[other] for other in others)]
        wider = extend(line, 1)
        ends = [new for new, end in ((wider[0], min(line)), (wider[-1], max(line))) if value == end and new not in line]
        out += [{**leader, path: new} for new in ends] if len(line) > 1 and len(wider) > len(line) else []
    return out
