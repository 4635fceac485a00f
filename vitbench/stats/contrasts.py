"""From a claim to its contrasts: per form, weights on cells and the region in which their sum must lie.

Every form that has one parameter is a linear contrast per seed, d_s = sum of weight x score over cells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from vitbench.base.errors import InputError
from vitbench.spec.arms import find_arms, level_name
from vitbench.spec.claims import ArmRef, Claim
from vitbench.spec.experiment import Experiment
from vitbench.spec.metrics import metric_named
from vitbench.stats.curves import axis_value
from vitbench.stats.decision import Region
from vitbench.stats.table import TrialTable, canonical


class Untested(Exception):
    """A claim cannot be judged yet; the message is the verdict's reason."""


@dataclass(frozen=True)
class Cell:
    """The trials of one arm at one setting, read in one metric; `tuned` where the arm chose the setting itself."""

    arm: str
    setting: str
    metric: str
    tuned: bool = False


Weights = Mapping[Cell, float]


@dataclass(frozen=True)
class ClaimPart:
    """One parameter and where it must lie."""

    label: str
    weights: Weights
    region: Region
    unit: str = "points"
    paper_effect: float | None = None


@dataclass(frozen=True)
class Curve:
    """The curve on which a crossing or a compute ratio is located: one contrast per x, x ascending.

    For a crossover `contrasts` are A - B; for a frontier ratio they are B, and `anchor` is A at `anchor_x`.
    """

    x: tuple[float, ...]
    contrasts: tuple[Weights, ...]
    anchor: Weights | None = None
    anchor_x: float = 0.0


@dataclass(frozen=True)
class Question:
    """A claim's parts, all of which must hold, and the curve of a crossover or frontier ratio."""

    parts: tuple[ClaimPart, ...]
    curve: Curve | None = None

    def cells(self) -> tuple[Cell, ...]:
        """Every cell that the claim reads, once."""
        groups: list[Weights] = [part.weights for part in self.parts]
        if self.curve:
            groups += [*self.curve.contrasts, self.curve.anchor or {}]
        return tuple(dict.fromkeys(cell for group in groups for cell in group))


def add(*terms: tuple[float, Weights]) -> dict[Cell, float]:
    """The weighted sum of contrasts; cells that cancel are dropped."""
    out: dict[Cell, float] = {}
    for factor, weights in terms:
        for cell, weight in weights.items():
            out[cell] = out.get(cell, 0.0) + factor * weight
    return {cell: weight for cell, weight in out.items() if abs(weight) > 1e-12}


class Resolver:
    """Arm references of one experiment as cells of its table."""

    def __init__(self, experiment: Experiment, table: TrialTable) -> None:
        self.experiment, self.table = experiment, table
        self.tuned = dict(experiment.tune.grid) if experiment.tune else {}

    def cells(self, ref: ArmRef, claim: Claim, at: Mapping[str, Any] | None = None) -> dict[Cell, float]:
        """The cells that `ref` means, with weights that sum to 1 (several where it averages `over` a factor).

        A dict may also fix a tuned path or the `metric`. `at` (default: the claim's) fixes factors and tuned paths.
        Raises Untested if the setting is not known yet, InputError if the reference names no arm.
        """
        fixed = {**(claim.at if at is None else at)}
        named: ArmRef = ref
        if isinstance(ref, dict):
            settings = {path: value for path, value in ref.items() if path in self.tuned or path == "metric"}
            fixed.update(settings)
            named = {path: value for path, value in ref.items() if path not in settings}
        metric = str(fixed.pop("metric", claim.metric or self.experiment.report.metric))
        shared = {path: self._value(path, fixed.pop(path)) for path in self.tuned if path in fixed}
        arms = find_arms(self.experiment, named, fixed)
        return {self._cell(arm.name, metric, shared): 1.0 / len(arms) for arm in arms}

    def _cell(self, arm: str, metric: str, shared: Mapping[str, Any]) -> Cell:
        free = set(self.tuned) - set(shared)
        tuned = self._choice(arm) if free else {}
        return Cell(arm, canonical({**tuned, **shared}), metric, bool(free))

    def _value(self, path: str, value: Any) -> Any:
        """A tuned path's value, `best_of(ARM)` replaced by that arm's choice."""
        match = re.fullmatch(r"best_of\((.+)\)", value) if isinstance(value, str) else None
        return self._choice(find_arms(self.experiment, match[1])[0].name)[path] if match else value

    def _choice(self, arm: str) -> Mapping[str, Any]:
        setting = self.table.own_setting(arm)
        if setting is None:
            lost = arm in self.table.tuning
            raise Untested(
                f"{arm}: no setting of the grid finished on every tuning seed" if lost else f"{arm}: no trials yet"
            )
        return setting


def question(claim: Claim, resolver: Resolver) -> Question:
    """The claim (with its parts) as contrasts. Raises Untested, InputError."""
    questions = [(part, FORMS[part.form](part, resolver)) for part in claim.part_claims()]
    named = []
    for sub, question in questions:
        for part in question.parts:
            label = f"{sub.id}: {part.label}" if claim.parts else part.label
            if not part.weights:
                raise Untested(f"{label}: the same trials on both sides")
            named.append(
                replace(part, label=label, unit=unit_of(sub, part, resolver), paper_effect=sub.paper.effect_points)
            )
    return Question(tuple(named), next((question.curve for _, question in questions if question.curve), None))


def unit_of(claim: Claim, part: ClaimPart, resolver: Resolver) -> str:
    """The unit that the claim states, else that of the metric its contrast reads."""
    if "unit" in claim.model_fields_set:
        return claim.unit
    metrics = {cell.metric for cell in part.weights}
    metric = metrics.pop() if len(metrics) == 1 else resolver.experiment.report.metric
    named = metric_named(metric)
    return named.points if named.source in ("training", "test") else claim.unit


def ref_name(ref: ArmRef) -> str:
    """An arm reference in words."""
    if isinstance(ref, str):
        return ref
    named = "+".join(level_name(value) for path, value in ref.items() if path != "over")
    return named or "baseline"


def cut_region(claim: Claim) -> Region:
    """Above or below the claim's cut point."""
    if claim.above_points is not None:
        return Region(low=claim.above_points)
    assert claim.below_points is not None
    return Region(high=claim.below_points)


def _better_by(claim: Claim, resolver: Resolver, gap: float = 0.0, *, worse: bool = False) -> Region:
    """Where A - B lies if A is better (or `worse`) than B by more than `gap`; of some metrics less is better."""
    lower = metric_named(claim.metric or resolver.experiment.report.metric).better == "lower"
    return Region(high=0.0 - gap) if lower != worse else Region(low=gap)


def _pair(claim: Claim, resolver: Resolver, pair: Sequence[ArmRef], at: Mapping[str, Any] | None = None) -> Weights:
    first, second = (resolver.cells(ref, claim, at) for ref in pair)
    return add((1.0, first), (-1.0, second))


def _label(pair: Sequence[ArmRef]) -> str:
    return " - ".join(ref_name(ref) for ref in pair)


def _difference(claim: Claim, resolver: Resolver) -> Question:
    """A - B; a statistic may be one arm's value alone."""
    weights = _pair(claim, resolver, claim.arms) if len(claim.arms) == 2 else resolver.cells(claim.arms[0], claim)
    return Question((ClaimPart(_label(claim.arms), weights, cut_region(claim)),))


def _equivalence(claim: Claim, resolver: Resolver) -> Question:
    assert claim.margin_points is not None
    region = Region(-claim.margin_points, claim.margin_points, 0.90)
    pairs = claim.pairs or tuple(combinations(claim.arms, 2))
    return Question(tuple(ClaimPart(_label(pair), _pair(claim, resolver, pair), region) for pair in pairs))


def _ordering(claim: Claim, resolver: Resolver) -> Question:
    """Each arm better than each of the next tier by more than the gap; in a tier within `tie_points` of each other."""
    better = _better_by(claim, resolver, claim.gap_points)
    parts = [
        ClaimPart(_label((upper, lower)), _pair(claim, resolver, (upper, lower)), better)
        for tier, after in zip(claim.tiers, claim.tiers[1:], strict=False)
        for upper in tier
        for lower in after
    ]
    if claim.tie_points is not None:
        tie = Region(-claim.tie_points, claim.tie_points, 0.90)
        for tier in claim.tiers:
            parts += [ClaimPart(_label(pair), _pair(claim, resolver, pair), tie) for pair in combinations(tier, 2)]
    return Question(tuple(parts))


def _interaction(claim: Claim, resolver: Resolver) -> Question:
    """(A1 - B1) - (A2 - B2); a list in `at` gives one value to each pair."""
    halves = []
    for index, pair in enumerate(claim.pairs):
        at = {path: value[index] if isinstance(value, (list, tuple)) else value for path, value in claim.at.items()}
        halves.append(_pair(claim, resolver, pair, at))
    label = " - ".join(f"({_label(pair)})" for pair in claim.pairs)
    return Question((ClaimPart(label, add((1.0, halves[0]), (-1.0, halves[1])), cut_region(claim)),))


def _levels(claim: Claim, resolver: Resolver) -> tuple[list[float], list[Weights], list[Any]]:
    """x, the contrast (A - B, or A) and the level, for each level of the claim, in the order of x."""
    if len(claim.levels) != 1:
        raise InputError(f"claim {claim.id}: levels must name one factor, not {len(claim.levels)}")
    ((path, levels),) = claim.levels.items()
    rows = []
    for position, level in enumerate(levels):
        at = {**claim.at, path: level}
        cells = resolver.cells(claim.arms[0], claim, at)
        share = position / max(1, len(levels) - 1)
        x = share if claim.x == "layer_fraction" else _x(cells, claim, resolver)
        weights = _pair(claim, resolver, claim.arms, at) if len(claim.arms) == 2 else cells
        rows.append((x, position, weights, level))
    rows.sort(key=lambda row: row[:2])
    return [row[0] for row in rows], [row[2] for row in rows], [row[3] for row in rows]


def _x(cells: Weights, claim: Claim, resolver: Resolver) -> float:
    """The mean over cells and seeds of the claim's axis."""
    assert claim.x is not None
    values = [
        value
        for cell in cells
        for row in resolver.table.reporting.get((cell.arm, cell.setting), {}).values()
        if (value := axis_value(row, claim.x)) is not None
    ]
    if not values:
        raise Untested(f"{' and '.join(cell.arm for cell in cells)}: no trials yet")
    return float(np.mean(values))


def _slope_of(x: Sequence[float], contrasts: Sequence[Weights], claim: Claim) -> dict[Cell, float]:
    """The least-squares slope in x as one contrast."""
    centred = np.asarray(x) - np.mean(x)
    if np.ptp(centred) < 1e-9:
        raise InputError(f"claim {claim.id}: all levels have one and the same {claim.x}")
    weights = centred / (centred**2).sum()
    return add(*((float(weight), contrast) for weight, contrast in zip(weights, contrasts, strict=True)))


def _slope(claim: Claim, resolver: Resolver) -> Question:
    x, contrasts, _ = _levels(claim, resolver)
    label = f"slope of {_label(claim.arms)} in {claim.x}"
    return Question((ClaimPart(label, _slope_of(x, contrasts, claim), cut_region(claim)),))


def _diminishing_returns(claim: Claim, resolver: Resolver) -> Question:
    """Slope from the split level up, minus the slope up to it; a smaller gain of what counts as better."""
    x, contrasts, levels = _levels(claim, resolver)
    split_level = canonical(next(iter(claim.split_at.values()), levels[len(levels) // 2]))
    split = next((index for index, level in enumerate(levels) if canonical(level) == split_level), 0)
    if not 0 < split < len(levels) - 1:
        raise InputError(f"claim {claim.id}: split_at must be one of the inner levels of {levels}")
    upper = _slope_of(x[split:], contrasts[split:], claim)
    lower = _slope_of(x[: split + 1], contrasts[: split + 1], claim)
    label = f"slope of {_label(claim.arms)} in {claim.x}, upper half - lower half"
    region = _better_by(claim, resolver, worse=True) if claim.below_points is None else Region(high=claim.below_points)
    return Question((ClaimPart(label, add((1.0, upper), (-1.0, lower)), region),))


def _share_of_gain(claim: Claim, resolver: Resolver) -> Question:
    """mid - (1 - q) low - q high: a contrast, never a ratio of two noisy gains."""
    assert claim.share is not None
    low, mid, high = (resolver.cells(ref, claim) for ref in claim.arms)
    names = [ref_name(ref) for ref in claim.arms]
    label = f"{names[1]} - {1 - claim.share:g} {names[0]} - {claim.share:g} {names[2]}"
    weights = add((1.0, mid), (claim.share - 1.0, low), (-claim.share, high))
    return Question((ClaimPart(label, weights, _better_by(claim, resolver)),))


def _crossover(claim: Claim, resolver: Resolver) -> Question:
    x, contrasts, _ = _levels(claim, resolver)
    name = _label(claim.arms)
    ends = (
        ClaimPart(f"{name} at the least {claim.x}", contrasts[0], _better_by(claim, resolver, worse=True)),
        ClaimPart(f"{name} at the greatest {claim.x}", contrasts[-1], _better_by(claim, resolver)),
    )
    return Question(ends, Curve(tuple(x), tuple(contrasts)))


def _frontier_ratio(claim: Claim, resolver: Resolver) -> Question:
    """A at compute C0 minus B at r C0, B linear in log2 C between its budgets; A is better if B needs more than r.

    `at` gives C0 as a level of the budgets' factor; B's budgets are `levels`, else all of that factor.
    """
    first, second = claim.arms
    axis = claim.model_copy(update={"x": claim.x or "log2_train_flops"})
    factors = resolver.experiment.factors
    budgets = claim.levels or {path: factors[path] for path in claim.at if path in factors}
    elsewhere = {path: value for path, value in claim.at.items() if path not in budgets}
    anchor = resolver.cells(first, claim)
    other = axis.model_copy(update={"arms": (second,), "levels": budgets, "at": elsewhere})
    x, contrasts, _ = _levels(other, resolver)
    start = _x(anchor, axis, resolver)
    assert claim.ratio is not None
    target = start + float(np.log2(claim.ratio))
    if not x[0] <= target <= x[-1]:
        raise Untested(f"{ref_name(second)} was not run at {claim.ratio:g} times the compute of {ref_name(first)}")
    shares = [float(np.interp(target, x, np.eye(len(x))[index])) for index in range(len(x))]
    weights = add((1.0, anchor), *((-share, cell) for share, cell in zip(shares, contrasts, strict=True)))
    label = f"{ref_name(first)} - {ref_name(second)} at {claim.ratio:g} times its compute"
    return Question(
        (ClaimPart(label, weights, _better_by(claim, resolver)),), Curve(tuple(x), tuple(contrasts), anchor, start)
    )


FORMS: Mapping[str, Callable[[Claim, Resolver], Question]] = {
    "difference": _difference,
    "statistic": _difference,
    "equivalence": _equivalence,
    "ordering": _ordering,
    "interaction": _interaction,
    "slope": _slope,
    "diminishing_returns": _diminishing_returns,
    "share_of_gain": _share_of_gain,
    "crossover": _crossover,
    "frontier_ratio": _frontier_ratio,
}
