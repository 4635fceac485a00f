"""From an experiment to the trials that are knowable now: what each round of a run adds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vitbench.base.errors import InputError
from vitbench.plan.race_trials import (
    LIKELY_AFTER_FIRST,
    ArmRacePlan,
    Lost,
    RaceRules,
    likely_trials,
    rules_of,
    run_race,
)
from vitbench.plan.shared_settings import num_shared, shared_counts, shared_settings
from vitbench.plan.trials import TUNING_SEED, Builder, Chooser, Plan, RaceStanding, Trial, settings
from vitbench.spec.arms import Arm, Assignment
from vitbench.spec.experiment import Experiment
from vitbench.spec.metrics import DEFAULT_TUNING, metric_named
from vitbench.store.summary import FinishedTrial

SeedsOfArms = Sequence[int] | Mapping[str, Sequence[int]] | None
"""The reporting seeds of all arms, or per arm; None means the file's first ones."""


def expand(builder: Builder, records: Mapping[str, FinishedTrial], chooser: Chooser, seeds: SeedsOfArms = None) -> Plan:
    """Every trial that is knowable now, given the records so far (by trial id).

    A race asks for the settings still in it, stage by stage. A first-edition file asks first for arm x setting x tuning
    seed; once those are committed, each arm's choice (and a grid extended if an optimum is at its end), then the
    reporting trials at the choices. Both add the shared settings (`plan/shared_settings.py`).
    """
    experiment = builder.experiment
    reporting = seeds_of_arms(experiment, builder.arms, seeds)
    all_arms = tuple(builder.arms.values())
    tune = experiment.tune
    if tune is None:
        trials = [
            t for arm in all_arms for seed in reporting[arm.name] for t in builder.trials(arm, {}, seed, "reporting")
        ]
        return Plan(tuple(trials), all_arms, {arm.name: {} for arm in all_arms}, ({},))
    if tune.races:
        return _race_plan(builder, records, chooser, reporting)
    tuning: list[Trial] = []
    for extended in range(tune.num_extensions + 1):
        grid = settings(experiment, extended)
        tuning = _tuning_trials(builder, all_arms, grid, tune.seeds)
        if any(t.trial_id not in records for t in tuning):
            return Plan(tuple(tuning), all_arms, {}, grid, (), False, _later(builder, all_arms, grid, reporting))
        chosen = {arm.name: _choose(builder, arm, grid, tune.seeds, records, chooser) for arm in all_arms}
        if extended == tune.num_extensions or not _at_edge(chosen.values(), grid, tune.grid):
            break
    choices = {name: grid[index] for name, index in chosen.items() if index is not None}
    unfit = tuple(name for name, index in chosen.items() if index is None)
    reports = _reporting_trials(builder, choices, reporting, experiment, grid)
    return Plan((*tuning, *reports), all_arms, choices, grid, unfit)


def seeds_of_arms(experiment: Experiment, arms: Iterable[str], seeds: SeedsOfArms) -> dict[str, tuple[int, ...]]:
    """The reporting seeds of each arm."""
    if isinstance(seeds, Mapping):
        return {name: tuple(seeds[name]) for name in arms}
    return dict.fromkeys(arms, tuple(experiment.seeds.first() if seeds is None else seeds))


def _race_plan(
    builder: Builder,
    records: Mapping[str, FinishedTrial],
    chooser: Chooser,
    seeds: Mapping[str, Sequence[int]],
) -> Plan:
    """The plan of a race: what each arm asks for, then the shared settings once every arm has run its seeds."""
    experiment = builder.experiment
    grid = settings(experiment)
    rules = {name: rules_of(experiment, seeds[name]) for name in builder.arms}
    races = {name: _arm_race(builder, arm, grid, rules[name], records, chooser) for name, arm in builder.arms.items()}
    trials = [
        trial
        for name, race in races.items()
        for setting, seed in race.entries
        for trial in builder.trials(builder.arms[name], setting, seed, "trial")
    ]
    complete = all(race.complete for race in races.values())
    choices = {name: list(race.leaders.values())[-1] for name, race in races.items() if race.leaders}
    if complete:
        trials += _shared_trials(builder, races, rules, grid)
    later = tuple(
        builder.trials(builder.arms[name], grid[0], seeds[name][0], "trial")[-1]
        for name, race in races.items()
        for _ in range(likely_trials(rules[name], race))
    )
    tried = tuple({json.dumps(s, sort_keys=True): s for race in races.values() for s, _ in race.entries}.values())
    standings = tuple(race.standing for race in races.values())
    if not complete:
        later += _likely_shared(builder, rules, grid)
        standings = tuple(_with_shared(experiment, standing, len(seeds[standing.arm]), grid) for standing in standings)
    metric = experiment.tune.metric if experiment.tune else DEFAULT_TUNING
    return Plan(tuple(trials), tuple(builder.arms.values()), choices, tried, (), complete, later, standings, metric)


def _arm_race(
    builder: Builder,
    arm: Arm,
    grid: Sequence[Assignment],
    rules: RaceRules,
    records: Mapping[str, FinishedTrial],
    chooser: Chooser,
) -> ArmRacePlan:
    """The race of one arm, its scores read from the records: the higher the better."""
    tune = builder.experiment.tune
    assert tune is not None
    metric = metric_named(tune.metric)

    def score(setting: Assignment, seed: int) -> float | Lost | None:
        record = records.get(builder.trials(arm, setting, seed, "trial")[-1].trial_id)
        if record is None:
            return None
        value = record.validation(metric.name)
        return metric.sign * value if record.status == "ok" and value is not None else Lost()

    def can_add(setting: Assignment) -> bool:
        try:
            builder.stages(arm, setting)
        except InputError:
            return False
        return True

    return run_race(arm.name, grid, rules, score, chooser, can_add)


def _shared_trials(
    builder: Builder, races: Mapping[str, ArmRacePlan], rules: Mapping[str, RaceRules], grid: Sequence[Assignment]
) -> list[Trial]:
    """Trials at shared settings that the races did not plan.

    A shared setting may be another arm's leader; each look has its own, so that its verdict never changes. An arm whose
    race ended at an earlier look asks for nothing at a later one.
    """
    raced = {
        (name, json.dumps(setting, sort_keys=True), seed)
        for name, race in races.items()
        for setting, seed in race.entries
    }
    points = {point for rule in rules.values() for point in rule.points}
    looks = [look for look in builder.experiment.seeds.all_looks() if look in points]
    extra: dict[tuple[str, str, int], tuple[Assignment, int]] = {}
    for look in dict.fromkeys((*looks, *(rule.points[-1] for rule in rules.values()))):
        choices = {name: race.leaders[look] for name, race in races.items() if look in race.leaders}
        for name in choices:
            for setting in shared_settings(builder.experiment, name, choices, grid):
                for seed in rules[name].seeds[:look]:
                    extra.setdefault((name, json.dumps(setting, sort_keys=True), seed), (setting, seed))
    return [
        trial
        for key, (setting, seed) in extra.items()
        if key not in raced
        for trial in builder.trials(builder.arms[key[0]], setting, seed, "reporting")
    ]


def _likely_shared(builder: Builder, rules: Mapping[str, RaceRules], grid: Sequence[Assignment]) -> tuple[Trial, ...]:
    """Stand-ins for the trials at shared settings that the races are likely to drop before the end."""
    out: list[Trial] = []
    for name, arm in builder.arms.items():
        num_seeds = len(rules[name].seeds)
        after_first = round((num_seeds - rules[name].points[0]) * (1.0 - LIKELY_AFTER_FIRST))
        outside, inside, choices = shared_counts(builder.experiment, name, grid)
        trial = builder.trials(arm, grid[0], rules[name].seeds[0], "reporting")[-1]
        out += [trial] * (outside * num_seeds + (inside + choices) * after_first)
    return tuple(out)


def _with_shared(
    experiment: Experiment, standing: RaceStanding, num_seeds: int, grid: Sequence[Assignment]
) -> RaceStanding:
    """A standing whose bounds include the trials at shared settings.

    Another arm's choice may lie beyond this arm's grid, since each arm extends its own.
    """
    assert experiment.tune is not None
    outside, inside, choices = shared_counts(experiment, standing.arm, grid)
    most = outside + inside + choices * (1 + experiment.tune.num_extensions)
    return replace(standing, least=standing.least + outside * num_seeds, most=standing.most + most * num_seeds)


def _tuning_trials(
    builder: Builder, all_arms: Sequence[Arm], grid: Sequence[Assignment], num_seeds: int
) -> list[Trial]:
    return [
        trial
        for arm in all_arms
        for setting in grid
        for seed in range(TUNING_SEED, TUNING_SEED + num_seeds)
        for trial in builder.trials(arm, setting, seed, "tuning")
    ]


def _choose(
    builder: Builder,
    arm: Arm,
    grid: Sequence[Assignment],
    num_seeds: int,
    records: Mapping[str, FinishedTrial],
    chooser: Chooser,
) -> int | None:
    """Index in `grid` of the arm's choice; None if no setting is eligible."""
    scores = np.zeros((len(grid), num_seeds))
    eligible = np.zeros((len(grid), num_seeds), dtype=bool)
    for k, setting in enumerate(grid):
        for t in range(num_seeds):
            record = records[builder.trials(arm, setting, TUNING_SEED + t, "tuning")[-1].trial_id]
            value = record.validation(DEFAULT_TUNING)
            if record.status == "ok" and value is not None:
                scores[k, t], eligible[k, t] = value, True
    choice = chooser.choose(grid, scores, eligible)
    return None if choice is None else choice.index


def _at_edge(chosen: Any, grid: Sequence[Assignment], tuned: Mapping[str, Sequence[Any]]) -> bool:
    """True if an arm's choice is at an end of a tuned path with several values."""
    for path in tuned:
        values = sorted({s[path] for s in grid}, key=lambda v: (isinstance(v, str), v))
        ends = (values[0], values[-1])
        if len(values) > 1 and any(index is not None and grid[index][path] in ends for index in chosen):
            return True
    return False


def _later(
    builder: Builder, all_arms: Sequence[Arm], grid: Sequence[Assignment], seeds: Mapping[str, Sequence[int]]
) -> tuple[Trial, ...]:
    """The reporting trials that may come, at the first setting: each arm's own, and as many again for every shared
    setting that is not its own; first stages once where arms share them."""
    stages: dict[str, Trial] = {}
    last: list[Trial] = []
    for arm in all_arms:
        copies = 1 + num_shared(builder.experiment, arm.name, len(grid))
        for seed in seeds[arm.name]:
            *before, trial = builder.trials(arm, grid[0], seed, "reporting")
            stages |= {stage.trial_id: stage for stage in before}
            last += [trial] * copies
    return (*stages.values(), *last)


def _reporting_trials(
    builder: Builder,
    choices: Mapping[str, Assignment],
    seeds: Mapping[str, Sequence[int]],
    experiment: Experiment,
    grid: Sequence[Assignment],
) -> list[Trial]:
    """Reporting trials at each arm's own choice and at the shared settings, each arm x setting x seed once."""
    cells: dict[tuple[str, str], tuple[Arm, Assignment]] = {}
    for name, choice in choices.items():
        for setting in (choice, *shared_settings(experiment, name, choices, grid)):
            cells.setdefault((name, json.dumps(setting, sort_keys=True)), (builder.arms[name], setting))
    return [
        trial
        for arm, setting in cells.values()
        for seed in seeds[arm.name]
        for trial in builder.trials(arm, setting, seed, "reporting")
    ]
