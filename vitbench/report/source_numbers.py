"""What the sources said of an experiment's arms, read from its claims."""

from __future__ import annotations

from collections.abc import Sequence

from vitbench.base.errors import InputError
from vitbench.spec.arms import arms, find_arms
from vitbench.spec.claims import ArmRef, Claim
from vitbench.spec.experiment import Experiment


def equivalence_margin(experiment: Experiment) -> float | None:
    """The widest margin of the experiment's equivalence claims, as judged on its data; None without one."""
    data = str(experiment.base.get("data", {}).get("name", "digits"))
    parts = [part for claim in experiment.claims for part in claim.on(data).part_claims()]
    return max((p.margin_points for p in parts if p.form == "equivalence" and p.margin_points), default=None)


def paper_scores(experiment: Experiment) -> dict[str, float]:
    """{arm: the score that a claim's source printed for it, in percent}, from `paper.values` of the claims."""
    names = {arm.name for arm in arms(experiment)}
    scores: dict[str, float] = {}
    for claim in experiment.claims:
        for arm, value in claim.paper.values.items():
            if arm in names and isinstance(value, (int, float)):
                scores.setdefault(arm, float(value))
    return scores


def paper_effects(experiment: Experiment, baseline: str) -> dict[str, float]:
    """{arm: the source's effect against the baseline}: from its scores, else from claims about one pair of arms."""
    scores = paper_scores(experiment)
    effects = {arm: scores[arm] - scores[baseline] for arm in scores if baseline in scores and arm != baseline}
    for claim in experiment.claims:
        for part in claim.part_claims():
            pair, effect = _plain_pair(experiment, part), part.paper.effect_points
            if pair is None or effect is None or baseline not in pair:
                continue
            arm, sign = (pair[0], 1.0) if pair[1] == baseline else (pair[1], -1.0)
            effects.setdefault(arm, sign * effect)
    return effects


def _plain_pair(experiment: Experiment, claim: Claim) -> tuple[str, str] | None:
    """The two arms of a difference or an equivalence of two arms, both at their own setting."""
    pair: Sequence[ArmRef] = claim.arms
    if claim.form not in ("difference", "equivalence") or claim.at or len(pair) != 2 or claim.metric:
        return None
    try:
        (a, *more_a), (b, *more_b) = (find_arms(experiment, ref) for ref in pair)
    except InputError:
        return None
    return None if more_a or more_b else (a.name, b.name)
