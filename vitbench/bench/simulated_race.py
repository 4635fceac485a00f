"""The race of one arm, and the designs it is held against, for many simulated runs at once.

R runs, K settings, n seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vitbench.bench.simulated_worlds import ArmScores
from vitbench.stats.distributions import Floats, normal_cdf, t_quantile

Bools = npt.NDArray[np.bool_]
FIRST = 3
ALPHA = 0.05
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
WEIGHTS = WEIGHTS / np.sqrt(2.0 * np.pi)


def residual(val: Floats, racing: Bools, counts: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """(s, df) [R] as `vitbench.stats.race.residual_spread`, of runs at once; `counts` [R, K] seeds per setting."""
    n = val.shape[2]
    k = racing.sum(axis=1)
    living = np.where(racing[:, :, None], val, 0.0)
    by_seed = living.sum(axis=1) / k[:, None]
    centred = val - val.mean(axis=2, keepdims=True) - (by_seed - by_seed.mean(axis=1, keepdims=True))[:, None, :]
    squares = (np.where(racing[:, :, None], centred, 0.0) ** 2).sum(axis=(1, 2))
    df = (k - 1.0) * (n - 1)
    has = (np.arange(n) < counts[:, :, None]) & ~racing[:, :, None]
    gap = np.where(has, val - by_seed[:, None, :], 0.0)
    mean = gap.sum(axis=2) / np.maximum(counts, 1)
    own = (np.where(has, gap - mean[:, :, None], 0.0) ** 2).sum(axis=2)
    squares += k / (k + 1.0) * own.sum(axis=1)
    df += np.where(racing, 0, np.maximum(counts - 1, 0)).sum(axis=1)
    return np.sqrt(squares / np.maximum(df, 1.0)), df


def regret_variance(gaps: Floats, spread: Floats) -> Floats:
    """V [R]: the squared loss of each setting [R, K] times its chance to lead when the means are drawn again.

    By quadrature, where the product draws: the chance that -gap + spread z is the largest of the K.
    """
    out = np.zeros(len(gaps))
    safe = np.maximum(spread, 1e-12)
    for r in range(gaps.shape[1]):
        value = -gaps[:, r, None] + safe[:, r, None] * NODES  # [R, nodes]
        chance = np.ones_like(value)
        for q in range(gaps.shape[1]):
            if q != r:
                chance = chance * normal_cdf((value + gaps[:, q, None]) / safe[:, q, None])
        out += (chance @ WEIGHTS) * np.maximum(gaps[:, r], 0.0) ** 2
    return out


@dataclass(frozen=True)
class ArmLook:
    """An arm after n seeds: its test scores at the leader [R, n], V [R], and the trainings so far [R]."""

    scores: Floats
    variance: Floats
    trainings: npt.NDArray[np.int64]


def race(arm: ArmScores, points: Sequence[int], looks: Sequence[int], alpha: float = ALPHA) -> dict[int, ArmLook]:
    """The arm at each of `looks`; settings that are significantly behind are dropped at `points`."""
    num_runs, num_settings, _ = arm.val.shape
    racing = np.ones((num_runs, num_settings), dtype=bool)
    counts = np.zeros((num_runs, num_settings), dtype=np.int64)
    out = {}
    for n in sorted({*points, *looks}):
        counts = np.where(racing, n, counts)
        val = arm.val[:, :, :n]
        s, df = residual(val, racing, counts)
        means = np.where(racing, val.mean(axis=2), -np.inf)
        leader = means.argmax(axis=1)
        if n in looks:
            out[n] = _look(arm, n, leader, counts, s)
        if n in points:
            k = racing.sum(axis=1)
            threshold = t_quantile(1.0 - alpha / np.maximum(k - 1, 1), np.maximum(df, 1.0)) * s * np.sqrt(2.0 / n)
            racing &= means.max(axis=1)[:, None] - means <= np.where(k > 1, threshold, np.inf)[:, None]
    return out


def _look(arm: ArmScores, n: int, leader: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], s: Floats) -> ArmLook:
    """What a look reads of an arm."""
    rows = np.arange(len(leader))
    seen = np.arange(n) < counts[:, :, None]
    gap = np.where(seen, arm.val[rows, leader, None, :n] - arm.val[:, :, :n], 0.0).sum(axis=2) / counts
    variance = regret_variance(gap, s[:, None] / np.sqrt(counts))
    return ArmLook(arm.test[rows, leader, :n], variance, counts.sum(axis=1))


def apart(arm: ArmScores, tuning: ArmScores, looks: Sequence[int]) -> dict[int, ArmLook]:
    """The first edition: `tuning` seeds of their own choose, and V does not shrink."""
    num_runs, num_settings, num_seeds = tuning.val.shape
    every = np.ones((num_runs, num_settings), dtype=bool)
    s, _ = residual(tuning.val, every, np.full(every.shape, num_seeds))
    means = tuning.val.mean(axis=2)
    leader = means.argmax(axis=1)
    gaps = means.max(axis=1)[:, None] - means
    variance = regret_variance(gaps, np.repeat(s[:, None], num_settings, axis=1) / np.sqrt(num_seeds))
    rows = np.arange(num_runs)
    cost = num_settings * num_seeds
    return {n: ArmLook(arm.test[rows, leader, :n], variance, np.full(num_runs, cost + n)) for n in looks}


def own_pick(arm: ArmScores, n: int) -> ArmLook:
    """A control: every seed keeps the model that validates best; no V."""
    best = arm.val[:, :, :n].argmax(axis=1)
    scores = np.take_along_axis(arm.test[:, :, :n], best[:, None, :], axis=1)[:, 0]
    return ArmLook(scores, np.zeros(len(scores)), np.full(len(scores), n * arm.val.shape[1]))
