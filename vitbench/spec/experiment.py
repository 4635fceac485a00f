"""An experiment as its file states it: a question, arms, what is tuned, seeds, and claims declared before the run."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from vitbench.spec.trial import Frozen, Items, TrialSpec

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
ArmRef = str | dict[str, Any]
"""A level's or arm's name, levels joined with '+', or a partial assignment {spec.path: level, over: [spec.path]}."""

Form = Literal[
    "difference", "equivalence", "ordering", "interaction", "slope", "diminishing_returns",
    "share_of_gain", "statistic", "crossover", "frontier_ratio", "descriptive",
]  # fmt: skip
Axis = Literal["log2_images", "log2_train_flops", "log2_grid_side", "log2_params", "depth", "layer_fraction"]
MAX_TRIALS = 10_000
"""More than this is a slip of the pen (or an attack): no experiment of the paper needs a fifth of it."""
CROSSED_FORMS = ("difference", "statistic", "interaction", "slope")


class Paper(Frozen):
    """What the source reported of exactly this contrast."""

    source: str = ""
    effect_points: float | None = Field(None, description="A minus B, percentage points (or `unit`)")
    note: str = Field("", description="Which cell it was read from, and what the other cells say")
    values: dict[str, Any] = Field(default_factory=dict)


class Claim(Frozen):
    """One claim in decidable form: a region of a parameter (statistics: see vitbench.stats.verdict)."""

    id: Name
    form: Form
    statement: str = ""
    arms: Items[ArmRef] = ()
    pairs: Items[Items[ArmRef]] = ()
    tiers: Items[Items[ArmRef]] = Field((), description="Best first")
    at: dict[str, Any] = Field(default_factory=dict, description="{train.lr: best_of(ARM)} or fixed levels")
    above_points: float | None = None
    below_points: float | None = None
    margin_points: float | None = None
    margin_points_digits: float | None = Field(None, description="The margin on digits (359 test images)")
    gap_points: NonNegativeFloat = 0.0
    tie_points: PositiveFloat | None = None
    tie_points_digits: PositiveFloat | None = None
    x: Axis | None = None
    levels: dict[str, Items[Any]] = Field(default_factory=dict, description="The factor along which x runs")
    split_at: dict[str, Any] = Field(default_factory=dict)
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    ratio: PositiveFloat | None = None
    unit: str = "points"
    metric: str | None = None
    seeds_min: Annotated[int, Field(ge=3)] = 5
    paper: Paper = Paper()
    parts: Items[dict[str, Any]] = ()
    all_parts: bool = True
    excludes: Items[str] = ()
    expect: Literal["supported"] | None = None
    untested: str | None = Field(None, description="Why this claim cannot be tested here")

    def part_claims(self) -> tuple[Claim, ...]:
        """The parts as claims; a part inherits what it does not state. Without parts: the claim itself."""
        if not self.parts:
            return (self,)
        shared = self.model_dump(exclude_unset=True, exclude={"parts", "id"})
        return tuple(Claim.model_validate({**shared, **part}) for part in self.parts)

    def on(self, data_name: str) -> Claim:
        """The claim with the margins that hold on this data set."""
        if data_name != "digits":
            return self
        own = {"margin_points": self.margin_points_digits, "tie_points": self.tie_points_digits}
        parts = tuple({**part, **{k: part[f"{k}_digits"] for k in own if f"{k}_digits" in part}} for part in self.parts)
        return self.model_copy(update={"parts": parts, **{k: v for k, v in own.items() if v is not None}})

    @model_validator(mode="after")
    def _decidable(self) -> Claim:
        if self.parts:
            self.part_claims()
        elif self.untested is None:
            problem = form_problem(self)
            if problem:
                raise ValueError(problem)
        return self


def form_problem(claim: Claim) -> str | None:
    """Why the form's rules forbid this claim, or None. Source: the decision rules per form."""
    cuts = [cut for cut in (claim.above_points, claim.below_points) if cut is not None]
    effect = claim.paper.effect_points
    if claim.form in CROSSED_FORMS and len(cuts) != 1:
        return f"a {claim.form} needs exactly one of above_points, below_points"
    if claim.above_points is not None and effect is not None and effect < claim.above_points:
        return f"the paper's effect {effect:g} lies on the other side of above_points {claim.above_points:g}"
    if claim.below_points is not None and effect is not None and effect > claim.below_points:
        return f"the paper's effect {effect:g} lies on the other side of below_points {claim.below_points:g}"
    if claim.form == "equivalence" and not (claim.margin_points and claim.margin_points > 0):
        return "an equivalence needs margin_points above 0"
    needed = _needed(claim)
    return f"a {claim.form} needs {needed}" if needed else None


def _needed(claim: Claim) -> str | None:
    """Which fields the form lacks, in words."""
    form, arms = claim.form, len(claim.arms)
    if form == "difference" and arms != 2:
        return "arms: [A, B]"
    if form == "equivalence" and arms < 2 and not claim.pairs:
        return "arms or pairs"
    if form == "interaction" and (len(claim.pairs) != 2 or any(len(pair) != 2 for pair in claim.pairs)):
        return "pairs: [[A1, B1], [A2, B2]]"
    if form == "ordering" and len(claim.tiers) < 2:
        return "at least two tiers"
    if form in ("slope", "diminishing_returns", "crossover") and (claim.x is None or not claim.levels):
        return "x and levels"
    if form == "share_of_gain" and (arms != 3 or claim.share is None):
        return "arms: [low, mid, high] and share"
    if form == "frontier_ratio" and (arms != 2 or claim.ratio is None or not claim.at):
        return "arms: [A, B], at and ratio"
    return None


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
