"""An experiment as its file states it: a question, arms, what is tuned, seeds, and claims declared before the run."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import Field, PositiveInt, model_validator

from vitbench.spec.claims import Claim
from vitbench.spec.trial import Frozen, Items, Name, TrialSpec

MAX_TRIALS = 10_000
"""More than this is a slip of the pen (or an attack): no experiment of the paper needs a fifth of it."""


class Tune(Frozen):
    """A grid searched alike in every arm, on seeds of its own, chosen on validation data."""

    grid: dict[str, Items[Any]] = Field(description="{spec.path: [values]}; in a file the paths stand beside `seeds`")
    seeds: PositiveInt = 3
    extend: Annotated[int, Field(ge=0, le=4)] = Field(0, description="Steps by which an edge optimum extends the grid")

    @model_validator(mode="before")
    @classmethod
    def _paths_beside_seeds(cls, value: Any) -> Any:
        if isinstance(value, dict) and "grid" not in value:
            grid = {key: item for key, item in value.items() if "." in str(key)}
            return {"grid": grid, **{key: item for key, item in value.items() if key not in grid}}
        return value


class Seeds(Frozen):
    """Reporting seeds: a fixed design (`num` or `chosen`), or the looks at which verdicts may be drawn."""

    num: PositiveInt | None = None
    chosen: Items[int] | None = None
    looks: Items[PositiveInt] | None = None

    def first(self) -> tuple[int, ...]:
        """The reporting seeds of an ordinary run."""
        if self.chosen is not None:
            return self.chosen
        return tuple(range(self.num if self.num is not None else self.looks[0] if self.looks else 5))

    def most(self) -> int:
        """How many reporting seeds there may be in the end."""
        return len(self.chosen) if self.chosen is not None else max(self.looks or (self.num or 5,))


class ReportSpec(Frozen):
    """What is reported, and at which shared settings beside each arm's own best."""

    metric: str = "test_top1_percent"
    also_at: dict[str, Items[Any]] = Field(default_factory=dict, description="{train.lr: [1e-3, best_of(ARM), grid]}")


class Stage(Frozen):
    """One stage of a trial, a partial TrialSpec over `base`; a later one starts from the weights of the one before."""

    name: Name
    enabled: bool = Field(True, description="An arm may skip a stage: `pretrain.enabled: false` is a from-scratch arm")
    model: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    evaluate: dict[str, Any] = Field(default_factory=dict)


class Experiment(Frozen):
    """A validated, frozen question. `factors` are crossed; `arms`, where given, are the levels of one more factor."""

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
        for stage in self.stages:
            if stage.name in TrialSpec.model_fields:
                raise ValueError(f"a stage cannot be called {stage.name}, which is a section of its spec")
        for path, levels in self.factors.items():
            if not levels:
                raise ValueError(f"factor {path} has no levels")
        most = self.most_trials()
        if most > MAX_TRIALS:
            raise ValueError(f"up to {most:,} trials ({self._sizes()}); at most {MAX_TRIALS:,} are planned at once")
        return self

    def most_trials(self) -> int:
        """How many trials there may be, from the sizes alone: nothing is expanded, `exclude` is not counted off."""
        arms, settings = self._num_arms(), self._num_settings()
        shared = sum(settings if v == "grid" else 1 for values in self.report.also_at.values() for v in values)
        reporting = self.seeds.most()
        tuning = settings * self.tune.seeds if self.tune else 0
        return max(1, len(self.stages)) * arms * (tuning + reporting * (1 + shared))

    def _num_arms(self) -> int:
        return max(1, len(self.arms)) * math.prod(len(levels) for levels in self.factors.values())

    def _num_settings(self) -> int:
        return math.prod(len(v) + 2 * self.tune.extend for v in self.tune.grid.values()) if self.tune else 1

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
