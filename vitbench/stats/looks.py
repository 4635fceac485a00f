"""When verdicts may be drawn, and how wide the interval is then: a fixed number of seeds, or declared looks.

At look k the interval is mean +- c_k se; the c are calibrated so that all looks together hold the level. A fixed
design is the schedule of one look, with the t quantile.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from vitbench.base.errors import InputError
from vitbench.stats.distributions import Floats, t_quantile, t_upper

DEFAULT_LOOKS = (6, 9, 13, 20)
FIRST_EDITION_LOOKS = (5, 8, 12, 20)
"""Looks of a design with tuning seeds of its own, which spends its error later."""
NUM_PATHS = 1_000_000
SPENDING_POWER = 1.0
FIRST_EDITION_POWER = 1.5
"""The share of the error spent by n seeds is (n / n_max) to this power."""


@dataclass(frozen=True)
class Schedule:
    """Looks (numbers of seeds), the factor c on the standard error at each, and each look's share of the error."""

    looks: tuple[int, ...]
    c95: tuple[float, ...]
    c90: tuple[float, ...]
    shares: tuple[float, ...]

    def factor(self, index: int, level: float, df: int) -> float:
        """c at one look; with fewer degrees of freedom than the look has (a seed was lost), c of equal tail area."""
        c = {0.95: self.c95, 0.90: self.c90}[level][index]
        planned = self.looks[index] - 1
        if df == planned:
            return c
        return float(-t_quantile(t_upper(c, planned), df))

    def upto(self, num_seeds: int) -> int:
        """How many looks are reached with `num_seeds` seeds, at least 1: the first is judged on what there is."""
        return max(1, sum(look <= num_seeds for look in self.looks))


# Calibrated with 4e6 paths; all looks together err .0494 to .0499 at 95% and .0982 to .0996 at 90%.
FIRST_EDITION = {
    (5, 8, 12, 20): Schedule(
        (5, 8, 12, 20), (5.27, 3.71, 2.94, 2.30), (4.32, 3.16, 2.52, 1.92), (0.10, 0.13, 0.22, 0.55)
    ),
    (5, 8, 12): Schedule((5, 8, 12), (4.22, 3.11, 2.48), (3.42, 2.58, 2.04), (0.27, 0.27, 0.46)),
    (5, 10, 20): Schedule((5, 10, 20), (5.27, 3.12, 2.25), (4.33, 2.67, 1.88), (0.12, 0.23, 0.65)),
    (5, 10): Schedule((5, 10), (3.90, 2.45), (3.13, 2.00), (0.35, 0.65)),
}


# Calibrated with 4e6 paths at spending power 1; on 2e6 fresh paths all looks together err .0496 to .0498 at 95% and
# .0991 to .0999 at 90%.
CALIBRATED = {
    (6, 9, 13, 20): Schedule(
        (6, 9, 13, 20), (3.64, 3.28, 2.84, 2.43), (3.01, 2.77, 2.41, 2.05), (0.30, 0.15, 0.20, 0.35)
    ),
    (6, 9, 13): Schedule((6, 9, 13), (3.24, 2.96, 2.58), (2.64, 2.45, 2.14), (0.462, 0.231, 0.307)),
    (6, 9): Schedule((6, 9), (2.92, 2.69), (2.34, 2.19), (0.667, 0.333)),
}


def fixed(num_seeds: int) -> Schedule:
    """The schedule of a fixed number of seeds (at least 2): one look, the t quantile."""
    df = num_seeds - 1
    return Schedule((num_seeds,), (float(t_quantile(0.975, df)),), (float(t_quantile(0.95, df)),), (1.0,))


@lru_cache(maxsize=32)
def schedule(looks: tuple[int, ...], extended: tuple[int, ...] = (), power: float = SPENDING_POWER) -> Schedule:
    """The schedule of declared looks: stored where it is a usual one, else calibrated by simulation, rounded up.

    `extended` are looks beyond the declared maximum: they have the anytime-valid bound. Raises InputError unless the
    looks rise from 3 or more.
    """
    if extended:
        return _extended(schedule(looks, (), power), extended)
    if not looks or looks[0] < 3 or list(looks) != sorted(set(looks)):
        raise InputError(f"seeds.looks {list(looks)}: looks must rise, from 3 seeds or more")
    if len(looks) == 1:
        return fixed(looks[0])
    stored = FIRST_EDITION if power == FIRST_EDITION_POWER else CALIBRATED
    return stored.get(looks) or calibrate(looks, power=power)


def _extended(declared: Schedule, more: tuple[int, ...]) -> Schedule:
    """The declared looks, whose error is spent, and more with the anytime-valid bound.

    The share of such a look is its tail area at the bound over the nominal one, so that p stays comparable.
    """
    if list(more) != sorted(set(more)) or more[0] <= declared.looks[-1]:
        raise InputError(f"seeds.extended {list(more)}: must rise beyond the last of seeds.looks, {declared.looks[-1]}")
    c95, c90 = (tuple(anytime_factor(n, alpha) for n in more) for alpha in (0.05, 0.10))
    shares = tuple(float(t_upper(c, n - 1)) / 0.025 for n, c in zip(more, c95, strict=True))
    return Schedule((*declared.looks, *more), declared.c95 + c95, declared.c90 + c90, declared.shares + shares)


def anytime_factor(n: int, alpha: float, spread: float = 1.0) -> float:
    """Standard errors that no number of looks leaves with more than `alpha`: a Gaussian mixture on the effect size.

    The Bayes factor of effect sizes N(0, spread) against 0 exceeds 1 / alpha at most in a share alpha of runs, whenever
    one looks. Solved for |t| of n seeds.
    """
    df, scale = n - 1, 1.0 + n * spread
    target = (scale**0.5 / alpha) ** (2.0 / n)
    # (1 + t^2 / df) / (1 + t^2 / (df scale)) = target, linear in t^2; it has no solution for too few seeds.
    slope = 1.0 - target / scale
    return float(np.sqrt(df * (target - 1.0) / slope)) if slope > 0.0 else float("inf")


def calibrate(looks: tuple[int, ...], num_paths: int = NUM_PATHS, power: float = SPENDING_POWER) -> Schedule:
    """The schedule of any looks, from `num_paths` simulated paths of the t statistic and a fixed generator."""
    statistics = np.abs(simulate_t(looks, num_paths, np.random.default_rng(2021)))
    spent = (np.array(looks) / looks[-1]) ** power
    c95, c90 = (_boundary(statistics, looks, spent * alpha) for alpha in (0.05, 0.10))
    return Schedule(looks, c95, c90, tuple(float(share) for share in np.diff(spent, prepend=0.0)))


def simulate_t(looks: tuple[int, ...], num_paths: int, rng: np.random.Generator) -> Floats:
    """The one-sample t statistic of normal data of mean 0 at each look, [num_paths, looks].

    Means and sums of squares of the seeds between two looks are drawn, not the seeds.
    """
    out = np.empty((num_paths, len(looks)))
    total, squares = np.zeros(num_paths), np.zeros(num_paths)
    for index, (n, before) in enumerate(zip(looks, (0, *looks), strict=False)):
        m = n - before
        mean = rng.standard_normal(num_paths) / np.sqrt(m)
        if before:
            squares += (mean - total / before) ** 2 * before * m / n
        if m > 1:
            squares += rng.chisquare(m - 1, num_paths)
        total += m * mean
        out[:, index] = total / n / np.sqrt(squares / (n - 1) / n)
    return out


def _boundary(statistics: Floats, looks: tuple[int, ...], spent: Floats) -> tuple[float, ...]:
    """c per look, such that the share of paths beyond some c so far is `spent`; up to two decimals."""
    num_paths = len(statistics)
    inside = np.ones(num_paths, dtype=bool)
    out = []
    for index, n in enumerate(looks):
        if index == 0:
            c = float(t_quantile(1.0 - spent[0] / 2.0, n - 1))
        else:
            allowed = int(num_paths * spent[index]) - int((~inside).sum())
            c = float(np.sort(statistics[inside, index])[-allowed])
        out.append(float(np.ceil(c * 100.0) / 100.0))
        inside &= statistics[:, index] <= out[-1]
    return tuple(out)
