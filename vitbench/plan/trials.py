"""From an experiment to the trials that are knowable now; pure, so that it can be printed, counted and tested."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np

from vitbench.base.errors import InputError
from vitbench.data import Facts
from vitbench.data.splits import pool_size
from vitbench.model.costs import trial_flops
from vitbench.model.objective import objective_of
from vitbench.model.weights.start import start_sha256, with_start
from vitbench.plan.resolve import resolve
from vitbench.plan.stage_graph import ResolvedStage, ancestors, network_problems, parents_of, reachable
from vitbench.plan.trial_id import seed_id, shared_identity
from vitbench.spec.arms import Arm, Assignment, arms, find_arms
from vitbench.spec.experiment import START, Experiment, Stage
from vitbench.spec.mechanism import refuse_unloaded
from vitbench.spec.metrics import DEFAULT_TUNING
from vitbench.spec.paths import validate_trial
from vitbench.spec.trial import TrialSpec
from vitbench.store.record import Role

TUNING_SEED = 1000
"""Tuning seeds are 1000, 1001, ...; reporting seeds 0, 1, ...: the two never meet."""

NO_PARENTS: Mapping[str, str] = {}
"""Of every trial without parents."""
MAX_NAMED_CLASSES = 100
"""Rows carry class names up to this many classes."""

FactsOf = Callable[[str], Facts]


class Chosen(Protocol):
    """What a chooser returns: the index of the chosen setting, and whether it is at an end of its grid."""

    @property
    def index(self) -> int: ...

    @property
    def at_edge(self) -> bool: ...


class Chooser(Protocol):
    """How validation scores decide among the settings of one arm; `vitbench.stats.race.CHOOSER` is in use."""

    def choose(self, settings: Sequence[Assignment], scores: np.ndarray, eligible: np.ndarray) -> Chosen | None:
        """The setting with the best mean score [K, T] among those eligible at every seed [K, T]."""

    def survivors(self, scores: np.ndarray, ok: np.ndarray, alpha: float) -> Sequence[int]:
        """The settings [K] that go on after these seeds [K, n]: those that are not significantly behind."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One stage of arm x setting x seed, fully resolved; plain data.

    `parents` are the trials that it needs, by role. `networks` are the specs of those whose network its objective
    reads. `num_pool` images get their labels from one of these.
    """

    trial_id: str
    arm: str
    levels: Assignment
    setting: Assignment
    seed: int
    role: Role
    spec: TrialSpec
    data_fingerprint: str
    parents: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[str, TrialSpec] = field(default_factory=dict)
    stage: str = ""
    class_names: tuple[str, ...] = ()
    num_pool: int = 0

    @property
    def parent(self) -> str | None:
        """The trial whose weights it starts from."""
        return self.parents.get(START)

    @property
    def train_flops(self) -> int:
        """FLOPs of its training, with the forward passes of other networks."""
        return trial_flops(self.spec, self.networks, self.num_pool)


@dataclass(frozen=True)
class RaceStanding:
    """One arm's race: seeds that its settings have, settings that go on and that are out, and what may still come.

    `least`, `most`: trials beyond the known ones up to the planned seeds.
    """

    arm: str
    num_seeds: int
    racing: tuple[Assignment, ...]
    dropped: tuple[Assignment, ...]
    least: int
    most: int


@dataclass(frozen=True)
class Plan:
    """The trials knowable now, the choices made so far, and stand-ins for the trials of later rounds."""

    trials: tuple[Trial, ...]
    arms: tuple[Arm, ...]
    choices: Mapping[str, Assignment] = field(default_factory=dict)
    grid: tuple[Assignment, ...] = ()
    unfit: tuple[str, ...] = ()
    complete: bool = True
    later: tuple[Trial, ...] = ()
    """Stand-ins for the trials of later rounds: arms and sizes are right, the ids are not. Of a race those that are
    likely, else the most that there may be."""
    standings: tuple[RaceStanding, ...] = ()
    """Per arm of a race, where it stands."""
    tuned_by: str = DEFAULT_TUNING
    """The validation metric that chooses."""

    def unique(self) -> dict[str, Trial]:
        """Trials by id, in order; equal trials of several arms or roles once."""
        return dict(self._by_id)

    @cached_property
    def _by_id(self) -> dict[str, Trial]:
        out: dict[str, Trial] = {}
        for trial in self.trials:
            out.setdefault(trial.trial_id, trial)
        return out

    def missing(self, records: Container[str]) -> list[Trial]:
        """Planned trials without a record, in order."""
        return [trial for trial_id, trial in self._by_id.items() if trial_id not in records]

    @property
    def num_expected(self) -> int:
        """How many trials there will be: of a race those that are likely, else at most; equal ones counted once."""
        return len(self._by_id) + len(self.later)

    def bounds(self) -> tuple[int, int, int]:
        """(least, likely, most) trials of the seeds that are planned; all equal if nothing races."""
        likely = self.num_expected
        least = sum(standing.least for standing in self.standings)
        most = sum(standing.most for standing in self.standings)
        planned = len(self._by_id)
        return (planned + least, likely, max(planned + most, likely)) if self.standings else (likely,) * 3


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
        self._resolved: dict[tuple[str, str], list[ResolvedStage]] = {}
        self._shared: dict[tuple[str, str], list[_SharedBySeeds]] = {}

    def stages(self, arm: Arm, setting: Assignment) -> list[ResolvedStage]:
        """The enabled stages that the last one needs, and the last one, in order. Raises InputError."""
        key = arm.name, json.dumps(setting, sort_keys=True)
        if key not in self._resolved:
            self._resolved[key] = self._resolve(arm, setting)
        return self._resolved[key]

    def _resolve(self, arm: Arm, setting: Assignment) -> list[ResolvedStage]:
        refuse_unloaded(self.experiment.name, self.experiment.uses_code)
        names = {stage.name for stage in self.experiment.stages}
        assigned = {**arm.assignment, **setting}
        resolved: dict[str, ResolvedStage] = {}
        for stage in self.experiment.stages or (Stage(name="single"),):
            settings_of_stage = _of_stage(assigned, stage.name, names)
            if not settings_of_stage.pop("enabled", stage.enabled):
                continue
            values = {path: self._total_flops(value, setting) for path, value in settings_of_stage.items()}
            where = f"{self.experiment.name}, arm {arm.name}" + (f", stage {stage.name}" if len(names) > 1 else "")
            with _located(where):
                written = validate_trial(self.experiment.base, stage, values)
            facts = self.facts_of(written.data.source)
            with _located(where):
                resolved[stage.name] = _resolved_stage(stage, written, facts, resolved)
        return reachable(resolved)

    def _total_flops(self, value: Any, setting: Assignment) -> Any:
        """`total_of(ARM)` as the training FLOPs of all of that arm's stages; any other value unchanged."""
        match = re.fullmatch(r"total_of\((.+)\)", value) if isinstance(value, str) else None
        if match is None:
            return value
        stages = self.stages(find_arms(self.experiment, match[1])[0], setting)
        specs = {stage.name: stage.spec for stage in stages}
        return float(sum(trial_flops(stage.spec, _networks(stage.uses, specs), stage.num_pool) for stage in stages))

    def trials(self, arm: Arm, setting: Assignment, seed: int, role: Role) -> list[Trial]:
        """The trial of the last stage, after those of the stages that it needs."""
        key = arm.name, json.dumps(setting, sort_keys=True) if setting else "{}"
        if key not in self._shared:
            self._shared[key] = self._shared_by_seeds(self.stages(arm, setting))
        shared = self._shared[key]
        trials: dict[str, Trial] = {}
        for part in shared:
            stage = part.stage
            parents = {key: trials[name].trial_id for key, name in stage.uses.items()} if stage.uses else NO_PARENTS
            trials[stage.name] = Trial(
                trial_id=seed_id(part.identity, seed, parents),
                arm=arm.name,
                levels=arm.levels,
                setting=setting,
                seed=seed,
                role=role if part is shared[-1] else "stage",
                spec=stage.spec,
                data_fingerprint=stage.fingerprint,
                parents=parents,
                networks=part.networks,
                stage=stage.name,
                class_names=part.class_names,
                num_pool=stage.num_pool,
            )
        return list(trials.values())

    def _shared_by_seeds(self, stages: Sequence[ResolvedStage]) -> list[_SharedBySeeds]:
        specs = {stage.name: stage.spec for stage in stages}
        return [
            _SharedBySeeds(
                stage,
                shared_identity(stage.spec, stage.fingerprint, start_sha256(stage.spec)),
                _networks(stage.uses, specs),
                named_classes(self.facts_of(stage.spec.data.name)),
            )
            for stage in stages
        ]


class _SharedBySeeds(NamedTuple):
    """What the trials of one stage of an arm at a setting have in common, whatever their seed."""

    stage: ResolvedStage
    identity: tuple[str, str]
    networks: Mapping[str, TrialSpec]
    class_names: tuple[str, ...]


def _resolved_stage(
    stage: Stage, written: TrialSpec, facts: Facts, earlier: Mapping[str, ResolvedStage]
) -> ResolvedStage:
    """A stage with its parents among the `earlier` ones. Raises InputError."""
    uses = parents_of(stage, written.train.objective, list(earlier))
    networks = _networks(uses, {name: other.spec for name, other in earlier.items()})
    spec = with_start(resolve(written, facts, networks), ancestors(earlier, uses))
    num_pool = pool_size(facts.counts, spec.data, objective_of(spec.train.objective).labelled_share)
    resolved = ResolvedStage(stage.name, spec, facts.fingerprint, uses, num_pool)
    if problems := network_problems(resolved, earlier):
        raise InputError("\n".join(problems))
    return resolved


def _networks(uses: Mapping[str, str], specs: Mapping[str, TrialSpec]) -> dict[str, TrialSpec]:
    """{role: spec} of the networks of other stages that an objective reads."""
    return {role: specs[name] for role, name in uses.items() if role != START}


def named_classes(facts: Facts) -> tuple[str, ...]:
    """The names of a data set's classes; empty if it has none but numbers, or too many to repeat in every row."""
    names = facts.class_names
    numbered = names == tuple(map(str, range(len(names))))
    return () if numbered or len(names) > MAX_NAMED_CLASSES else names


@contextmanager
def _located(where: str) -> Iterator[None]:
    """Each line of an InputError with `where` before it."""
    try:
        yield
    except InputError as error:
        raise InputError("\n".join(f"{where}: {line}" for line in str(error).splitlines())) from error


def _of_stage(assigned: Assignment, stage: str, names: set[str]) -> dict[str, Any]:
    """The assignments that reach one stage: those that name it, without its name, and those that name no stage."""
    out = {}
    for path, value in assigned.items():
        head, _, rest = path.partition(".")
        if head == stage and head in names:
            out[rest] = value
        elif head not in names:
            out[path] = value
    return out
