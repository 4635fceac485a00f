"""From an experiment to the trials that are knowable now; pure, so that it can be printed, counted and tested."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from vitbench.base.errors import InputError
from vitbench.data import Facts
from vitbench.model.costs import trial_flops
from vitbench.model.weights.start import start_sha256, with_start
from vitbench.plan.resolve import resolve
from vitbench.plan.trial_id import trial_id
from vitbench.spec.arms import Arm, Assignment, arms, find_arms
from vitbench.spec.experiment import Experiment, Stage
from vitbench.spec.paths import validate_trial
from vitbench.spec.trial import TrialSpec
from vitbench.store.record import Record, Role

TUNING_SEED = 1000
"""Tuning seeds are 1000, 1001, ...; reporting seeds 0, 1, ...: the two never meet."""

FactsOf = Callable[[str], Facts]


class Chosen(Protocol):
    """What a chooser returns: the index of the chosen setting, and whether it is at an edge of its grid."""

    @property
    def index(self) -> int: ...


Chooser = Callable[[Sequence[Assignment], np.ndarray, np.ndarray], Chosen | None]
"""choose(settings [K], scores [K, T], eligible [K, T]): the setting of one arm, from validation scores only."""


@dataclass(frozen=True)
class Trial:
    """One stage of arm x setting x seed, fully resolved; plain data."""

    trial_id: str
    arm: str
    levels: Assignment
    setting: Assignment
    seed: int
    role: Role
    spec: TrialSpec
    data_fingerprint: str
    parent: str | None = None
    stage: str = ""


@dataclass(frozen=True)
class Plan:
    """The trials knowable now, the choices made so far, and how many trials there will be at most."""

    trials: tuple[Trial, ...]
    arms: tuple[Arm, ...]
    choices: Mapping[str, Assignment] = field(default_factory=dict)
    grid: tuple[Assignment, ...] = ()
    unfit: tuple[str, ...] = ()
    complete: bool = True
    later: tuple[Trial, ...] = ()
    """Stand-ins for the trials that later rounds may add, at most: arms and sizes are right, the ids are not."""

    def unique(self) -> dict[str, Trial]:
        """Trials by id, in order; equal trials of several arms or roles once."""
        out: dict[str, Trial] = {}
        for trial in self.trials:
            out.setdefault(trial.trial_id, trial)
        return out

    def missing(self, records: Mapping[str, Record]) -> list[Trial]:
        """Planned trials without a record, in order."""
        return [trial for trial_id, trial in self.unique().items() if trial_id not in records]

    @property
    def num_expected(self) -> int:
        """How many trials there will be at most, equal ones counted once."""
        return len(self.unique()) + len(self.later)


def settings(experiment: Experiment, extended: int = 0) -> tuple[Assignment, ...]:
    """The tuned grid, smallest values first; `extended` steps beyond both ends; one empty setting without tuning."""
    if experiment.tune is None:
        return ({},)
    axes = [[(path, v) for v in extend(values, extended)] for path, values in experiment.tune.grid.items()]
    return tuple(dict(cell) for cell in itertools.product(*axes))


def extend(values: Sequence[Any], steps: int) -> list[Any]:
    """Sorted values with `steps` more at either end, in the ratio of the two nearest; whole numbers stay whole, and
    values that are no numbers stay as they are."""
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        return list(values)
    out = sorted(values)
    for _ in range(steps if len(out) > 1 and out[0] > 0 else 0):
        ends = out[0] * out[0] / out[1], out[-1] * out[-1] / out[-2]
        whole = all(isinstance(v, int) for v in out)
        out = sorted({*out, *((max(1, round(end)) for end in ends) if whole else ends)})
    return out


class Builder:
    """Resolved trials of one experiment; the resolution of an arm at a setting is done once and shared by its seeds."""

    def __init__(self, experiment: Experiment, facts_of: FactsOf) -> None:
        self.experiment, self.facts_of = experiment, facts_of
        self.arms = {arm.name: arm for arm in arms(experiment)}
        self._resolved: dict[tuple[str, str], list[tuple[str, TrialSpec, str]]] = {}

    def stages(self, arm: Arm, setting: Assignment) -> list[tuple[str, TrialSpec, str]]:
        """(stage name, resolved spec, data fingerprint) of every enabled stage, in order."""
        key = arm.name, json.dumps(setting, sort_keys=True)
        if key not in self._resolved:
            self._resolved[key] = self._resolve(arm, setting)
        return self._resolved[key]

    def _resolve(self, arm: Arm, setting: Assignment) -> list[tuple[str, TrialSpec, str]]:
        stages = self.experiment.stages or (Stage(name="single"),)
        names = {stage.name for stage in self.experiment.stages}
        assigned = {**arm.assignment, **setting}
        out: list[tuple[str, TrialSpec, str]] = []
        for stage in stages:
            own = _of_stage(assigned, stage.name, names)
            if not own.pop("enabled", stage.enabled):
                continue
            own = {path: self._total_flops(value, setting) for path, value in own.items()}
            where = f"{self.experiment.name}, arm {arm.name}" + (f", stage {stage.name}" if len(stages) > 1 else "")
            with _located(where):
                written = validate_trial(self.experiment.base, stage, own)
            facts = self.facts_of(written.data.name)
            with _located(where):
                spec = with_start(resolve(written, facts), [before for _, before, _ in out])
            out.append((stage.name, spec, facts.fingerprint))
        return out

    def _total_flops(self, value: Any, setting: Assignment) -> Any:
        """`total_of(ARM)` as the training FLOPs of all of that arm's stages; any other value unchanged."""
        match = re.fullmatch(r"total_of\((.+)\)", value) if isinstance(value, str) else None
        if match is None:
            return value
        stages = self.stages(find_arms(self.experiment, match[1])[0], setting)
        return float(sum(trial_flops(spec) for _, spec, _ in stages))

    def trials(self, arm: Arm, setting: Assignment, seed: int, role: Role) -> list[Trial]:
        """The trial of the last stage, after those of the stages that it starts from."""
        out: list[Trial] = []
        stages = self.stages(arm, setting)
        for position, (name, spec, fingerprint) in enumerate(stages):
            parent = out[-1].trial_id if out else None
            own_role: Role = role if position == len(stages) - 1 else "stage"
            identity = trial_id(spec, seed, fingerprint, parent, start_sha256(spec))
            out.append(Trial(identity, arm.name, arm.levels, setting, seed, own_role, spec, fingerprint, parent, name))
        return out


@contextmanager
def _located(where: str) -> Iterator[None]:
    """Each line of an InputError with `where` before it."""
    try:
        yield
    except InputError as error:
        raise InputError("\n".join(f"{where}: {line}" for line in str(error).splitlines())) from error


def _of_stage(assigned: Assignment, stage: str, names: set[str]) -> dict[str, Any]:
    """The assignments that reach one stage: its own (prefix dropped), and those that name no stage."""
    out = {}
    for path, value in assigned.items():
        head, _, rest = path.partition(".")
        if head == stage and head in names:
            out[rest] = value
        elif head not in names:
            out[path] = value
    return out


def expand(
    experiment: Experiment,
    records: Mapping[str, Record],
    choose: Chooser,
    facts_of: FactsOf,
    seeds: Sequence[int] | None = None,
) -> Plan:
    """Every trial that is knowable now, given the records so far (by trial id).

    First arm x setting x tuning seed; once those are committed, each arm's choice (and a grid extended where an
    optimum is at its edge), then the reporting trials at the choices and at the shared settings of `report.also_at`.
    """
    builder = Builder(experiment, facts_of)
    reporting = tuple(seeds if seeds is not None else experiment.seeds.first())
    all_arms = tuple(builder.arms.values())
    tune = experiment.tune
    if tune is None:
        trials = [t for arm in all_arms for seed in reporting for t in builder.trials(arm, {}, seed, "reporting")]
        return Plan(tuple(trials), all_arms, {arm.name: {} for arm in all_arms}, ({},))
    tuning: list[Trial] = []
    for extended in range(tune.extend + 1):
        grid = settings(experiment, extended)
        tuning = _tuning_trials(builder, all_arms, grid, tune.seeds)
        if any(t.trial_id not in records for t in tuning):
            return Plan(tuple(tuning), all_arms, {}, grid, (), False, _later(builder, all_arms, grid, reporting))
        chosen = {arm.name: _choose(builder, arm, grid, tune.seeds, records, choose) for arm in all_arms}
        if extended == tune.extend or not _at_edge(chosen.values(), grid, tune.grid):
            break
    choices = {name: grid[index] for name, index in chosen.items() if index is not None}
    unfit = tuple(name for name, index in chosen.items() if index is None)
    reports = _reporting_trials(builder, choices, reporting, experiment, grid)
    return Plan((*tuning, *reports), all_arms, choices, grid, unfit)


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
    records: Mapping[str, Record],
    choose: Chooser,
) -> int | None:
    """Index in `grid` of the arm's choice; None where no setting is eligible."""
    scores = np.zeros((len(grid), num_seeds))
    eligible = np.zeros((len(grid), num_seeds), dtype=bool)
    for k, setting in enumerate(grid):
        for t in range(num_seeds):
            record = records[builder.trials(arm, setting, TUNING_SEED + t, "tuning")[-1].trial_id]
            value = record.result.val_top1_percent
            if record.status == "ok" and value is not None:
                scores[k, t], eligible[k, t] = value, True
    choice = choose(grid, scores, eligible)
    return None if choice is None else choice.index


def _at_edge(chosen: Any, grid: Sequence[Assignment], tuned: Mapping[str, Sequence[Any]]) -> bool:
    """Is any arm's choice at an end of a tuned path that has more than one value?"""
    for path in tuned:
        values = sorted({s[path] for s in grid}, key=lambda v: (isinstance(v, str), v))
        ends = (values[0], values[-1])
        if len(values) > 1 and any(index is not None and grid[index][path] in ends for index in chosen):
            return True
    return False


def _later(
    builder: Builder, all_arms: Sequence[Arm], grid: Sequence[Assignment], seeds: Sequence[int]
) -> tuple[Trial, ...]:
    """The reporting trials that may come, at the first setting: each arm's own, and as many again for every shared
    setting that is not its own; first stages once where arms share them."""
    stages: dict[str, Trial] = {}
    last: list[Trial] = []
    for arm in all_arms:
        copies = 1 + _num_shared(builder.experiment, arm, len(grid))
        for seed in seeds:
            *before, trial = builder.trials(arm, grid[0], seed, "reporting")
            stages |= {stage.trial_id: stage for stage in before}
            last += [trial] * copies
    return (*stages.values(), *last)


def _num_shared(experiment: Experiment, arm: Arm, num_settings: int) -> int:
    """Settings of `report.also_at` at which the arm is reported beside its own choice, at most."""
    counts = 0
    for value in (value for values in experiment.report.also_at.values() for value in values):
        match = re.fullmatch(r"best_of\((.+)\)", value) if isinstance(value, str) else None
        is_own = match is not None and find_arms(experiment, match[1])[0].name == arm.name
        counts += num_settings - 1 if value == "grid" else 0 if is_own else 1
    return counts


def _reporting_trials(
    builder: Builder,
    choices: Mapping[str, Assignment],
    seeds: Sequence[int],
    experiment: Experiment,
    grid: Sequence[Assignment],
) -> list[Trial]:
    """Reporting trials at each arm's own choice and at the shared settings, each arm x setting x seed once."""
    wanted: dict[tuple[str, str], tuple[Arm, Assignment]] = {}
    for name, choice in choices.items():
        own = [choice, *_shared_settings(experiment, choices, choice, grid)]
        for setting in own:
            wanted.setdefault((name, json.dumps(setting, sort_keys=True)), (builder.arms[name], setting))
    return [
        trial
        for arm, setting in wanted.values()
        for seed in seeds
        for trial in builder.trials(arm, setting, seed, "reporting")
    ]


def _shared_settings(
    experiment: Experiment, choices: Mapping[str, Assignment], own: Assignment, grid: Sequence[Assignment]
) -> list[Assignment]:
    """`report.also_at` as settings of one arm: fixed values, another arm's choice, or the whole grid."""
    out: list[Assignment] = []
    for path, values in experiment.report.also_at.items():
        for value in values:
            match = re.fullmatch(r"best_of\((.+)\)", value) if isinstance(value, str) else None
            if value == "grid":
                out.extend(grid)
            elif match is None:
                out.append({**own, path: value})
            else:
                shared = choices.get(find_arms(experiment, match[1])[0].name)
                out.extend([{**own, path: shared[path]}] if shared else [])
    return out
