"""A claim in decidable form: a region of a parameter, declared before the run, and the number of its source."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from vitbench.spec.trial import Frozen, Items, Name

ArmRef = str | dict[str, Any]
"""A level's or arm's name, levels joined with '+', or a partial assignment {spec.path: level, over: [spec.path]}."""

Form = Literal[
    "difference", "equivalence", "ordering", "interaction", "slope", "diminishing_returns",
    "share_of_gain", "statistic", "crossover", "frontier_ratio", "descriptive",
]  # fmt: skip
Axis = Literal[
    "log2_images", "log2_train_flops", "log2_pretrain_flops", "log2_grid_side", "log2_params", "log2_coefficients",
    "depth", "layer_fraction",
]  # fmt: skip
CROSSED_FORMS = ("difference", "statistic", "interaction", "slope")


class Paper(Frozen):
    """The source's report on exactly this contrast."""

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
        margins = {"margin_points": self.margin_points_digits, "tie_points": self.tie_points_digits}
        parts = tuple(
            {**part, **{key: part[f"{key}_digits"] for key in margins if f"{key}_digits" in part}}
            for part in self.parts
        )
        return self.model_copy(update={"parts": parts, **{k: v for k, v in margins.items() if v is not None}})

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
    """The fields that the form lacks, in words, or None."""
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


def single_claims(claims: Iterable[Claim]) -> list[Claim]:
    """The claims that get one verdict each; a claim whose parts are judged alone is replaced by its parts."""
    return [part for claim in claims for part in ((claim,) if claim.all_parts else claim.part_claims())]
