"""How the arms of a question stand after some seeds: who leads, who is behind, who is equal, and what stays open.

Validation scores only. K arms by n seeds; an arm that was dropped has the first seeds only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vitbench.recommend.questions import ALPHA, MARGIN
from vitbench.stats.distributions import t_quantile
from vitbench.stats.race import residual_spread

State = Literal["leads", "behind", "equal", "open"]
Scores = Mapping[str, Mapping[int, float]]
"""{arm: {seed: validation top-1 in percent}}"""


@dataclass(frozen=True)
class ArmGap:
    """One arm against the leader: points behind it with the half width of the interval, and what that means.

    `half` is None where the seeds show no spread.
    """

    arm: str
    mean: float
    behind: float
    half: float | None
    num_seeds: int
    state: State


def arm_gaps(scores: Scores, floor: float = 0.0) -> tuple[ArmGap, ...]:
    """The arms, best first; arms without a score are left out. `floor`: the least spread of a score, in points.

    The arm that is truly the best is called behind with a chance of at most ALPHA (Hsu's comparison with the best, the
    quantile by Bonferroni).
    """
    names = [name for name, by_seed in scores.items() if by_seed]
    if not names:
        return ()
    most = max(len(scores[name]) for name in names)
    seeds = sorted({seed for name in names for seed in scores[name]})
    table = np.array([[scores[name].get(seed, 0.0) for seed in seeds] for name in names])
    ok = np.array([[seed in scores[name] for seed in seeds] for name in names])
    full = [row for row, name in enumerate(names) if len(scores[name]) == most]
    leader = max(full, key=lambda row: (table[row][ok[row]].mean(), -row))
    spread, df = residual_spread(table, ok)
    spread = max(spread, floor)
    width = float(t_quantile(1.0 - ALPHA / max(1, len(names) - 1), df)) if df else None
    out = []
    for row, name in enumerate(names):
        common = ok[row] & ok[leader]
        behind = float((table[leader] - table[row])[common].mean()) if common.any() else math.inf
        half = None if width is None else width * spread * math.sqrt(2.0 / max(1, int(common.sum())))
        state = _state(behind, half) if row != leader else "leads"
        out.append(ArmGap(name, float(table[row][ok[row]].mean()), behind, half, int(ok[row].sum()), state))
    return tuple(sorted(out, key=lambda standing: (standing.state != "leads", standing.behind)))


def _state(behind: float, half: float | None) -> State:
    if half is None:
        return "open"
    if behind - half > 0.0:
        return "behind"
    return "equal" if behind + half < MARGIN else "open"


def noise_of(scores: Scores) -> float | None:
    """The spread of a score in points, without what arms and seeds share; None without two arms and two seeds."""
    standing = arm_gaps(scores)
    if len(standing) < 2 or standing[0].half is None:
        return None
    seeds = sorted({seed for by_seed in scores.values() for seed in by_seed})
    table = np.array([[by_seed.get(seed, 0.0) for seed in seeds] for by_seed in scores.values()])
    ok = np.array([[seed in by_seed for seed in seeds] for by_seed in scores.values()])
    return residual_spread(table, ok)[0]


def pick(standing: Sequence[ArmGap], cost: Mapping[str, float] | None = None) -> str:
    """The arm to use: the leader; with a `cost`, the cheapest arm whose mean is within the margin of the leader's."""
    if cost is None:
        return standing[0].arm
    near = [each.arm for each in standing if each.behind <= MARGIN]
    return min(near, key=lambda arm: (cost[arm], near.index(arm)))


def seeds_to_settle(standing: ArmGap, most: int = 1000) -> int | None:
    """Seeds at which the difference, if it stays as it is, would be clear; None beyond `most`."""
    if standing.half is None:
        return None
    target = max(abs(standing.behind), abs(MARGIN - standing.behind))
    if target <= 0.0:
        return None
    needed = math.ceil(standing.num_seeds * (standing.half / target) ** 2)
    return needed if needed <= most else None
