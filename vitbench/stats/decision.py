"""The one rule: a claim is a region, and the interval lies inside it, inside its complement, or neither.

P parts of a claim, n seeds, any leading axes (...) of simulated copies. A part's data come as two arrays [..., n, P]:
`low` is what its lower limit is taken from and `high` its upper one. They are equal unless trials diverged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vitbench.stats.distributions import Floats, t_upper
from vitbench.stats.intervals import NO_SPREAD, standard_error
from vitbench.stats.looks import Schedule

SUPPORTED, OPEN, CONTRADICTED = 1, 0, -1


@dataclass(frozen=True)
class Region:
    """Where a part's parameter lies if the claim is true: the open interval (low, high), judged at `level`."""

    low: float = -np.inf
    high: float = np.inf
    level: float = 0.95

    @property
    def alpha(self) -> float:
        """The error of either wrong verdict."""
        return (1.0 - self.level) / 2.0


@dataclass(frozen=True)
class Noise:
    """Per part [P]: the least standard deviation credited, and the variance of tuned choices.

    `raced_seeds`: the seeds that a race's choices rest on; their variance shrinks as these grow. None: it stays.
    """

    floor: Floats
    extra_variance: Floats
    raced_seeds: int | None = None

    def after(self, num_seeds: int) -> Noise:
        """The noise to expect once there are more seeds."""
        if self.raced_seeds is None or num_seeds <= self.raced_seeds:
            return self
        return Noise(self.floor, self.extra_variance * (self.raced_seeds / num_seeds), num_seeds)

    @classmethod
    def none(cls, num_parts: int) -> Noise:
        """No floor, no tuned arm."""
        return cls(np.zeros(num_parts), np.zeros(num_parts))


@dataclass(frozen=True)
class Estimate:
    """Means and standard errors [..., P] for the lower and for the upper limit, with n seeds."""

    mean_low: Floats
    se_low: Floats
    mean_high: Floats
    se_high: Floats
    n: int


def has_spread(low: Floats, high: Floats, noise: Noise) -> bool:
    """Whether every part has a standard error: data [n, P] that vary, or a floor."""
    spread = np.minimum(low.std(axis=0, ddof=1), high.std(axis=0, ddof=1))
    return bool(((spread >= NO_SPREAD) | (noise.floor > 0.0)).all())


def estimate(low: Floats, high: Floats, noise: Noise) -> Estimate:
    """The estimate from the data of n seeds, [..., n, P]."""
    n = low.shape[-2]
    return Estimate(low.mean(axis=-2), _errors(low, noise), high.mean(axis=-2), _errors(high, noise), n)


def _errors(data: Floats, noise: Noise) -> Floats:
    sd = data.std(axis=-2, ddof=1)
    return standard_error(np.where(sd < NO_SPREAD, 0.0, sd), data.shape[-2], noise.floor, noise.extra_variance)


def limits(estimate: Estimate, factors: Floats) -> tuple[Floats, Floats]:
    """Lower and upper limits [..., P], `factors` [P] standard errors away."""
    return estimate.mean_low - factors * estimate.se_low, estimate.mean_high + factors * estimate.se_high


def part_p_values(estimate: Estimate, regions: Sequence[Region]) -> tuple[Floats, Floats]:
    """One-sided p per part [..., P]: against "the part is false", and against "the part is true"."""
    below = np.array([region.low for region in regions])
    above = np.array([region.high for region in regions])
    df = estimate.n - 1
    with np.errstate(divide="ignore"):
        inside = np.maximum(
            t_upper((estimate.mean_low - below) / estimate.se_low, df),
            t_upper((above - estimate.mean_high) / estimate.se_high, df),
        )
        outside = np.minimum(
            t_upper((below - estimate.mean_high) / estimate.se_high, df),
            t_upper((estimate.mean_low - above) / estimate.se_low, df),
        )
    return inside, outside


@dataclass(frozen=True)
class Settlement:
    """The decision after the looks so far.

    `state` [...] is SUPPORTED, OPEN or CONTRADICTED; `settled_at` [...] the index of the look at which it came, -1
    where open; `low`, `high` [..., P] the intersected intervals; `p_false`, `p_true` [..., P] one-sided p over looks.
    """

    state: npt.NDArray[np.int64]
    settled_at: npt.NDArray[np.int64]
    low: Floats
    high: Floats
    p_false: Floats
    p_true: Floats


def settle(estimates: Sequence[Estimate | None], regions: Sequence[Region], plan: Schedule) -> Settlement:
    """The rule applied to the intersection of the intervals, look by look; the first verdict stands.

    A single part is contradicted by its interval. Of several, all must be supported, without correction, and one is
    enough to contradict, with its p times their number. A look without an estimate (too few seeds left) is passed over;
    the last must have one.
    """
    assert estimates[-1] is not None
    shape = estimates[-1].mean_low.shape
    state = np.zeros(shape[:-1], dtype=np.int64)
    settled_at = np.full(shape[:-1], -1)
    low, high = np.full(shape, -np.inf), np.full(shape, np.inf)
    p_false, p_true = np.ones(shape), np.ones(shape)
    for index, estimate in enumerate(estimates):
        if estimate is None:
            continue
        factors = np.array([plan.factor(index, region.level, estimate.n - 1) for region in regions])
        new_low, new_high = limits(estimate, factors)
        # Limits of two looks may leave nothing in common; the older interval then stands.
        narrower = np.maximum(low, new_low) <= np.minimum(high, new_high)
        low, high = (
            np.where(narrower, np.maximum(low, new_low), low),
            np.where(narrower, np.minimum(high, new_high), high),
        )
        now_false, now_true = part_p_values(estimate, regions)
        p_false = np.minimum(p_false, now_false / plan.shares[index])
        p_true = np.minimum(p_true, now_true / plan.shares[index])
        fresh = (state == OPEN) & ((verdict := _verdict(low, high, p_true, regions)) != OPEN)
        state, settled_at = np.where(fresh, verdict, state), np.where(fresh, index, settled_at)
    return Settlement(state, settled_at, low, high, p_false, p_true)


def _verdict(low: Floats, high: Floats, p_true: Floats, regions: Sequence[Region]) -> npt.NDArray[np.int64]:
    """The state [...] that intervals [..., P] and p against each part give."""
    below = np.array([region.low for region in regions])
    above = np.array([region.high for region in regions])
    supported = ((low > below) & (high < above)).all(axis=-1)
    if len(regions) == 1:
        contradicted = ((high <= below) | (low >= above)).any(axis=-1)
    else:
        alpha = np.array([region.alpha for region in regions])
        contradicted = (p_true * len(regions) <= alpha).any(axis=-1)
    return np.where(supported, SUPPORTED, np.where(contradicted, CONTRADICTED, OPEN))


def two_sided_p(p_false: Floats, p_true: Floats) -> float:
    """One p for the scoreboard from p [P]: twice the smaller of "all hold" (the largest), "one fails" (least x P)."""
    num_parts = p_true.shape[-1]
    return float(min(1.0, 2.0 * min(p_false.max(), p_true.min() * num_parts)))
