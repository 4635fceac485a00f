"""The verdict on a claim: `judge` takes the rows of its experiment and returns a Verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import fsum
from typing import Any

import numpy as np

from vitbench.base.errors import InputError
from vitbench.spec.arms import level_name
from vitbench.spec.claims import Claim
from vitbench.spec.experiment import Experiment
from vitbench.stats.claim_data import Case, claim_problem, open_case
from vitbench.stats.contrasts import ClaimPart, Untested, Weights
from vitbench.stats.curves import Located, crossing, powers_of_two
from vitbench.stats.decision import CONTRADICTED, OPEN, SUPPORTED, Settlement, two_sided_p
from vitbench.stats.design import races, rule
from vitbench.stats.distributions import Floats
from vitbench.stats.forecast import forecast
from vitbench.stats.images import contrast_points, images_interval
from vitbench.stats.intervals import Interval, contrast_interval, spread
from vitbench.stats.power import sd_range, smallest_difference, smallest_margin
from vitbench.stats.qualifiers import notes_on
from vitbench.stats.race import Race
from vitbench.stats.table import Row, TrialTable, canonical, tabulate
from vitbench.stats.verdict_types import ArmRace, Context, PartVerdict, State, Verdict

__all__ = ["Context", "PartVerdict", "State", "Verdict", "claim_problem", "judge"]

STATES: dict[int, State] = {SUPPORTED: "supported", CONTRADICTED: "contradicted", OPEN: "inconclusive"}


def judge(
    claim: Claim, experiment: Experiment, rows: Iterable[Row] | TrialTable, facts: Context | None = None
) -> Verdict:
    """The verdict on one claim (a conjunction, where it has parts).

    Raises InputError if the claim names an arm, level or metric that does not exist, or is judged by its parts.
    """
    if len(claim.parts) > 1 and not claim.all_parts:
        raise InputError(f"claim {claim.id} is judged by its parts; judge each of them")
    context = facts or Context()
    table = rows if isinstance(rows, TrialTable) else tabulate(rows)
    claim = claim.on(str(experiment.base.get("data", {}).get("name", "digits")))
    paper = claim.paper
    blank = Verdict(
        claim.id, claim.form, "untested", claim.statement, claim.unit, scale=context.scale, expect=claim.expect,
        paper_effect=paper.effect_points, paper_source=paper.source, rule=rule(experiment),
    )  # fmt: skip
    if claim.untested or claim.form == "descriptive":
        return replace(blank, reason=claim.untested or "descriptive: shown, never decided")
    blank = replace(blank, notes=_edit_notes(claim, context))
    try:
        case = open_case(claim, experiment, table)
    except Untested as why:
        return replace(blank, reason=str(why))
    blank = replace(blank, n=case.sample.n, provisional=case.sample.holes)
    return _decided(case, _with_races(case, blank), context)


def _decided(case: Case, blank: Verdict, facts: Context) -> Verdict:
    """The verdict of a case that has trials."""
    refusal = case.refusal()
    if not case.measurable():
        assert refusal is not None
        return replace(_bare(case, blank), state=refusal[0], reason=refusal[1])
    settled = case.settle()
    parts = tuple(_part(case, settled, index) for index in range(len(case.question.parts)))
    state, reason = refusal or (STATES[int(settled.state)], "")
    hinge = _hinge(settled)
    head, part = parts[hinge], case.question.parts[hinge]
    finished, images = _finished(case, part), _images(case, part, facts)
    verdict = replace(
        blank, state=state, reason=reason, parts=parts, label=head.label, effect=head.effect, interval=head.interval,
        above=head.above, below=head.below, unit=part.unit, paper_effect=part.paper_effect,
        finished_interval=finished, images_interval=images,
        tuning_variance=float(case.noise.extra_variance[hinge]), located=_located(case, state),
        notes=(*blank.notes, *notes_on(case, settled, state, facts)),
    )  # fmt: skip
    if state == "untested":
        return verdict
    verdict = replace(verdict, p=two_sided_p(settled.p_false, settled.p_true), choice_share=_choice_share(case, hinge))
    if _leaves(images, part, state):
        verdict = replace(verdict, notes=(*verdict.notes, "on these test images"))
    return _open(case, verdict, hinge) if settled.state == OPEN or reason else verdict


def _edit_notes(claim: Claim, context: Context) -> tuple[str, ...]:
    """What was changed after the first trial, of the claim, its parts and of all claims."""
    ids = dict.fromkeys(["", claim.id, *(part.id for part in claim.part_claims())])
    return tuple(f"exploratory: {edit}" for name in ids for edit in context.edits.get(name, ()))


def _with_races(case: Case, blank: Verdict) -> Verdict:
    """The verdict with the trainings of its arms' races and the settings that they dropped."""
    if not races(case.experiment):
        return blank
    arms = dict.fromkeys(cell.arm for cell in case.sample.cells)
    raced = {arm: search for arm in arms if isinstance(search := case.table.tuning.get(arm), Race)}
    seeds = case.experiment.seeds
    return replace(
        blank,
        trainings=len(_trial_ids(case, raced)),
        maximum=max(seeds.looks) if seeds.looks else None,
        arm_races=tuple(_arm_race(arm, race) for arm, race in raced.items()),
    )


def _trial_ids(case: Case, raced: Mapping[str, Race]) -> set[str]:
    """The trials of the claim: all that its arms' races have run so far, and those of its shared settings."""
    cells = {(cell.arm, cell.setting) for cell in case.sample.cells}
    cells |= {(arm, canonical(setting)) for arm, race in raced.items() for setting in race.settings}
    last = max(case.design.seeds[-1])
    return {
        str(row["trial_id"])
        for cell in cells
        for seed, row in case.table.reporting.get(cell, {}).items()
        if seed <= last
    }


def _arm_race(arm: str, race: Race) -> ArmRace:
    """An arm's race in words."""
    racing = tuple(setting_words(setting) for setting in race.racing())
    dropped = tuple((setting_words(setting), seeds, gap) for setting, seeds, gap in race.dropped())
    leader = setting_words(race.choice.setting) if race.choice else ""
    return ArmRace(arm, leader, racing, dropped)


def setting_words(setting: Mapping[str, Any]) -> str:
    """A setting's values: `0.002`, or `0.002, weight_decay 0.1` where several paths are tuned."""
    if len(setting) == 1:
        return level_name(next(iter(setting.values())))
    return ", ".join(f"{path.rsplit('.', 1)[-1]} {level_name(value)}" for path, value in setting.items())


def _choice_share(case: Case, hinge: int) -> float | None:
    """The share of the part's squared standard error that the choice of settings makes; None without a race."""
    now = case.estimate(case.look)
    if now is None or case.noise.raced_seeds is None:
        return None
    return float(case.noise.extra_variance[hinge] / max(now.se_low[hinge], now.se_high[hinge]) ** 2)


def _bare(case: Case, blank: Verdict) -> Verdict:
    """A verdict with an effect but no interval; without trials, the blank verdict."""
    if case.sample.n == 0:
        return blank
    part = case.question.parts[0]
    low, high = (column[:, 0] for column in case.data())
    above, below = _sides(part)
    return replace(blank, label=part.label, effect=float((low + high).mean() / 2.0), above=above, below=below)


def _sides(part: ClaimPart) -> tuple[float | None, float | None]:
    """The region's ends, None if it has none."""
    low, high = part.region.low, part.region.high
    return low if np.isfinite(low) else None, high if np.isfinite(high) else None


def _part(case: Case, settled: Settlement, index: int) -> PartVerdict:
    """One part with its intersected interval."""
    part = case.question.parts[index]
    low, high = (column[:, index] for column in case.data())
    effect = float((low.mean() + high.mean()) / 2.0)
    limits = float(settled.low[index]), float(settled.high[index])
    interval = Interval(effect, *limits, case.sample.n, part.region.level, max(spread(low), spread(high)))
    p_false, p_true = (min(1.0, float(p[index])) for p in (settled.p_false, settled.p_true))
    return PartVerdict(part.label, effect, interval, *_sides(part), p_false, p_true)


def _hinge(settled: Settlement) -> int:
    """Index of the part that decides the verdict: the worst one if contradicted, else the one furthest from support."""
    return int(np.argmin(settled.p_true) if settled.state == CONTRADICTED else np.argmax(settled.p_false))


def _finished(case: Case, part: ClaimPart) -> Interval | None:
    """The interval over seeds where training finished; None if all did."""
    if not case.sample.diverged.any():
        return None
    return contrast_interval(case.sample.finished(part.weights), part.region.level)


def _open(case: Case, verdict: Verdict, hinge: int) -> Verdict:
    """An undecided verdict with the smallest detectable effect and the chance that more seeds decide.

    If something other than the number of seeds prevents a verdict, neither is added.
    """
    n, region = case.sample.n, case.regions[hinge]
    if verdict.reason and n >= case.claim.seeds_min:
        return verdict
    estimate = case.estimate(case.look)
    assert estimate is not None
    sd = float(max(estimate.se_low[hinge], estimate.se_high[hinge])) * float(np.sqrt(n))
    smallest = smallest_difference if region.level == 0.95 else smallest_margin
    mde = smallest(n, case.factor(region.level)) * sd
    low, high = sd_range(n)
    raced = case.noise.raced_seeds is not None and case.design.ahead is case.design.plan
    past = [case.estimate(look) for look in range(case.look + 1)] if raced else ()
    coming = forecast(case.data(), case.regions, case.noise, case.design.ahead, case.claim.seeds_min, past)
    coming = tuple(replace(look, trainings=_trainings_until(case, look.n)) for look in coming)
    return replace(verdict, mde=mde, mde_range=(mde * low, mde * high), forecast=coming)


def _trainings_until(case: Case, num_seeds: int) -> int | None:
    """How many more trainings the claim's arms need at most for so many seeds; None without a race."""
    searches = [case.table.tuning.get(arm) for arm in dict.fromkeys(cell.arm for cell in case.sample.cells)]
    counts = [len(search.racing()) for search in searches if isinstance(search, Race)]
    return sum(counts) * (num_seeds - case.sample.n) if counts else None


def _images(case: Case, part: ClaimPart, facts: Context) -> Interval | None:
    """The hinge's interval for new seeds and new images; None without every trial's answers to one test set."""
    cells = tuple(part.weights)
    if not facts.correct or case.sample.diverged.any() or any(cell.metric != "test_top1_percent" for cell in cells):
        return None
    trials = [case.table.reporting[cell.arm, cell.setting] for cell in cells]
    ids = [[str(by_seed[seed]["trial_id"]) for seed in case.sample.seeds] for by_seed in trials]
    answers = [facts.correct.get(trial) for row in ids for trial in row]
    lengths = {None if right is None else len(right) for right in answers}
    if None in lengths or len(lengths) > 1:
        return None
    right = np.array([[facts.correct[trial] for trial in row] for row in ids])
    points = contrast_points(np.array(list(part.weights.values())), right)
    extra = fsum(weight**2 * (case.variances.get(cell) or 0.0) for cell, weight in part.weights.items())
    return images_interval(points, part.region.level, case.factor(part.region.level), extra)


def _leaves(interval: Interval | None, part: ClaimPart, state: State) -> bool:
    """Whether the interval for new images would no longer give the state."""
    if interval is None or interval.ends is None:
        return False
    (least, greatest), low, high = interval.ends, part.region.low, part.region.high
    if state == "supported":
        return not (least > low and greatest < high)
    return state == "contradicted" and not (greatest <= low or least >= high)


def _located(case: Case, state: State) -> Located | None:
    """Where the curves cross (only where both ends are decided), or the compute ratio; None for other forms."""
    curve = case.question.curve
    if curve is None or case.sample.diverged.any() or (curve.anchor is None and state != "supported"):
        return None
    x = np.array(curve.x)
    values = np.stack([_column(case, weights) for weights in curve.contrasts], axis=1)
    extra = np.array([_variance(case, weights) for weights in curve.contrasts])
    fixed = 0.0
    if curve.anchor is not None:
        x, values = x - curve.anchor_x, _column(case, curve.anchor)[:, None] - values
        fixed = _variance(case, curve.anchor)
    place = crossing(x, values, case.factor(0.95), extra, fixed)
    is_log = curve.anchor is not None or str(case.claim.x).startswith("log2_")
    return powers_of_two(place) if is_log else place


def _column(case: Case, weights: Weights) -> Floats:
    return case.sample.project(weights)[0]


def _variance(case: Case, weights: Weights) -> float:
    return float(fsum(weight**2 * (case.variances.get(cell) or 0.0) for cell, weight in weights.items()))
