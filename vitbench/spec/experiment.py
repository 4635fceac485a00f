"""An experiment as its file states it: a question, arms, tuning, seeds, and claims declared before the run."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from vitbench.spec.claims import Claim
from vitbench.spec.limits import LAST_SEED, WAY_OUT, last_seed, max_trials
from vitbench.spec.metrics import DEFAULT_TUNING
from vitbench.spec.trial import Frozen, Items, Name, TrialSpec

START = "start"
"""The role of the stage whose weights a stage starts from."""


class Tune(Frozen):
    """A grid of settings, searched alike in every arm and chosen on validation data.

    `by: race`: every seed trains the settings that are still in the race, and every training both tunes and reports.
    `by: seeds`: the first edition; separate tuning seeds choose a setting, and other seeds report it.
    """

    grid: dict[str, Items[Any]] = Field(description="{spec.path: [values]}; in a file the paths may stand beside `by`")
    by: Literal["race", "seeds"] = "seeds"
    metric: Literal["val_top1_percent", "val_loss"] = Field(
        DEFAULT_TUNING, description="Race: what chooses, on validation images; val_loss: the lowest is the best"
    )
    first: Annotated[int, Field(ge=2)] = Field(3, description="Race: seeds that train every setting")
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = Field(0.05, description="Race: error at which a setting is dropped")
    seeds: PositiveInt = Field(3, description="First edition: tuning seeds")
    extend: Annotated[int, Field(ge=0, le=4)] | None = Field(
        None, description="Steps by which an optimum at an end extends the grid (race: 2, else 0)"
    )

    @property
    def races(self) -> bool:
        """Whether every training both tunes and reports."""
        return self.by == "race"

    @property
    def num_extensions(self) -> int:
        """How many steps the grid may grow at an end."""
        return self.extend if self.extend is not None else 2 if self.races else 0

    @model_validator(mode="before")
    @classmethod
    def _paths_beside_keys(cls, value: Any) -> Any:
        """Move the paths of a file under `grid`. A file without `seeds` races.

        A `grid` without `by` is a first-edition run's copy of its file, which keeps its tuning seeds.
        """
        if isinstance(value, dict) and "grid" not in value:
            grid = {key: item for key, item in value.items() if "." in str(key)}
            keys = {key: item for key, item in value.items() if key not in grid}
            return {"grid": grid, **({} if "seeds" in keys else {"by": "race"}), **keys}
        return value

    @model_validator(mode="after")
    def _one_design(self) -> Tune:
        if self.races and "seeds" in self.model_fields_set:
            raise ValueError("a race has no tuning seeds of its own; leave out `seeds`, or write `by: seeds`")
        given = {"first", "alpha", "metric"} & self.model_fields_set
        if given and not self.races:
            raise ValueError(f"`{min(given)}` belongs to `by: race`")
        return self


class Seeds(Frozen):
    """Reporting seeds: a fixed design (`num` or `chosen`), or the looks at which verdicts may be drawn."""

    num: PositiveInt | None = None
    chosen: Items[int] | None = None
    looks: Items[PositiveInt] | None = None
    extended: Items[PositiveInt] = Field((), description="Looks beyond the declared maximum, the last of `looks`")

    def first(self) -> tuple[int, ...]:
        """The reporting seeds of an ordinary run."""
        if self.chosen is not None:
            return self.chosen
        return tuple(range(self.num if self.num is not None else self.looks[0] if self.looks else 5))

    def most(self) -> int:
        """The largest number of reporting seeds."""
        if self.chosen is not None:
            return len(self.chosen)
        return max(*(self.looks or (self.num or 5,)), *self.extended, 1)

    def all_looks(self) -> tuple[int, ...]:
        """Every look, including those beyond the declared maximum; empty in a fixed design."""
        return (*(self.looks or ()), *self.extended)


def declare_maximum(seeds: Seeds, most: int) -> Seeds:
    """The looks of a run whose declared maximum is `most` seeds: cut at it, or continued up to it.

    Raises ValueError if no look remains.
    """
    looks = seeds.looks or ()
    if not looks or most < looks[0]:
        raise ValueError(f"{most} is under the first look, {looks[0] if looks else 'none'}")
    within = tuple(look for look in looks if look <= most)
    return Seeds(looks=(*within, *(later_looks(looks[-1], most) if most > looks[-1] else ())))


def later_looks(last: int, most: int) -> tuple[int, ...]:
    """Looks after `last` up to `most`, each about 1.4 times the previous look."""
    out: list[int] = []
    while last < most:
        last = min(most, math.ceil(1.4 * last))
        out.append(last)
    return tuple(out)


class ReportSpec(Frozen):
    """The reported metric, and shared settings at which every arm reports beside its own best setting."""

    metric: str = "test_top1_percent"
    also_at: dict[str, Items[Any]] = Field(default_factory=dict, description="{train.lr: [1e-3, best_of(ARM), grid]}")


class Stage(Frozen):
    """One stage of a trial: a partial TrialSpec over `base`.

    Without `uses`, a later stage starts from the weights of the stage before it.
    """

    name: Name
    enabled: bool = Field(True, description="An arm may skip a stage: `pretrain.enabled: false` is a from-scratch arm")
    uses: dict[str, Name] | None = Field(
        None,
        description="Earlier stages by role: `start` gives the weights to start from, `teacher` and other roles give "
        "networks that the objective reads. Without `start` the stage starts fresh",
    )
    model: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    evaluate: dict[str, Any] = Field(default_factory=dict)


class Experiment(Frozen):
    """A validated, frozen question. `factors` are crossed; `arms`, if given, are the levels of one more factor."""

    name: Name
    question: str = ""
    uses_code: Items[str] = Field(
        (), description="Python files or entry points with mechanisms of your own; they are run"
    )
    base: dict[str, Any] = Field(default_factory=dict)
    factors: dict[str, Items[Any]] = Field(default_factory=dict, description="First level of each: the baseline")
    arms: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    exclude: Items[dict[str, Any]] = Field((), description="Partial assignments left out of the crossing")
    stages: Items[Stage] = ()
    tune: Tune | None = None
    seeds: Seeds = Seeds(num=5)
    report: ReportSpec = ReportSpec()
    claims: Items[Claim] = ()
    differs: dict[str, str] = Field(default_factory=dict, description="{spec.path: why arms differ in it on purpose}")

    @model_validator(mode="before")
    @classmethod
    def _short_seeds(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("seeds"), (int, list)):
            seeds = value["seeds"]
            return {**value, "seeds": {"chosen": seeds} if isinstance(seeds, list) else {"num": seeds}}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        tuned = set(self.tune.grid) if self.tune else set()
        both = tuned & set(self.factors)
        if both:
            raise ValueError(f"{min(both)} is both a factor and tuned; it can be one or the other")
        if self.tune and self.tune.races and math.prod(len(values) for values in self.tune.grid.values()) == 1:
            raise ValueError("tune: a race needs two settings or more; write the only one under base")
        looks = self.seeds.looks
        if self.tune and self.tune.races and looks and looks[0] < self.tune.first:
            raise ValueError(
                f"tune.first: {self.tune.first} seeds train every setting, the first look is at {looks[0]}"
            )
        for stage in self.stages:
            if stage.name in TrialSpec.model_fields:
                raise ValueError(f"a stage cannot be called {stage.name}, which is a section of its spec")
        for path, levels in self.factors.items():
            if not levels:
                raise ValueError(f"factor {path} has no levels")
        most = self.most_trials()
        if most > max_trials():
            sizes, limit = self._sizes(), max_trials()
            raise ValueError(f"up to {most:,} trials ({sizes}); at most {limit:,} are planned at once; {WAY_OUT}")
        last = max((*self.seeds.first(), self.seeds.most() - 1))
        if self.tune and not self.tune.races and LAST_SEED < last <= last_seed():  # Above that, every file is refused.
            raise ValueError(f"seeds: beside tuning seeds, which begin at {LAST_SEED + 1}, the last is {LAST_SEED}")
        return self

    def most_trials(self) -> int:
        """The largest number of trials, from the sizes alone: nothing is expanded, and `exclude` is ignored."""
        arms, settings = self._num_arms(), self._num_settings()
        shared = sum(settings if v == "grid" else 1 for values in self.report.also_at.values() for v in values)
        reporting = self.seeds.most()
        if self.tune is None:
            trials = reporting * (1 + shared)
        elif self.tune.races:
            trials = reporting * (settings + shared)
        else:
            trials = settings * self.tune.seeds + reporting * (1 + shared)
        return max(1, len(self.stages)) * arms * trials

    def _num_arms(self) -> int:
        return max(1, len(self.arms)) * math.prod(len(levels) for levels in self.factors.values())

    def _num_settings(self) -> int:
        if self.tune is None:
            return 1
        if self.tune.races:
            return math.prod(len(v) for v in self.tune.grid.values()) + self.tune.num_extensions * len(self.tune.grid)
        return math.prod(len(v) + 2 * self.tune.num_extensions for v in self.tune.grid.values())

    def _sizes(self) -> str:
        return f"{self._num_arms():,} arms, {self._num_settings():,} settings"


class Suite(Frozen):
    """Several experiments run as one, sharing trials; `base`, `tune` and `seeds` override theirs."""

    name: Name
    question: str = ""
    suite: Items[str]
    base: dict[str, Any] = Field(default_factory=dict)
    tune: Tune | None = None
    seeds: Seeds | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_seeds(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("seeds"), int):
            return {**value, "seeds": {"num": value["seeds"]}}
        return value
