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

DEFAULT_LOOKS = (5, 8, 12, 20)
NUM_PATHS = 1_000_000
SPENDING_POWER = 1.5
"""The share of the error spent by n seeds is (n / n_max) to this power: little early, most of it at the end."""


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
CALIBRATED = {
    (5, 8, 12, 20): Schedule(
        (5, 8, 12, 20), (5.27, 3.71, 2.94, 2.30), (4.32, 3.16, 2.52, 1.92), (0.10, 0.13, 0.22, 0.55)
    ),
    (5, 8, 12): Schedule((5, 8, 12), (4.22, 3.11, 2.48), (3.42, 2.58, 2.04), (0.27, 0.27, 0.46)),
    (5, 10, 20): Schedule((5, 10, 20), (5.27, 3.12, 2.25), (4.33, 2.67, 1.88), (0.12, 0.23, 0.65)),
    (5, 10): Schedule((5, 10), (3.90, 2.45), (3.13, 2.00), (0.35, 0.65)),
}


def fixed(num_seeds: int) -> Schedule:
    """The schedule of a fixed number of seeds (at least 2): one look, the t quantile."""
    df = num_seeds - 1
    return Schedule((num_seeds,), (float(t_quantile(0.975, df)),), (float(t_quantile(0.95, df)),), (1.0,))


@lru_cache(maxsize=32)
def schedule(looks: tuple[int, ...]) -> Schedule:
    """The schedule of declared looks: stored where it is a usual one, else calibrated by simulation, rounded up.

    Raises InputError unless the looks rise from 3 or more.
    """
    if not looks or looks[0] < 3 or list(looks) != sorted(set(looks)):
        raise InputError(f"seeds.looks {list(looks)}: looks must rise, from 3 seeds or more")
    if len(looks) == 1:
        return fixed(looks[0])
    return CALIBRATED.get(looks) or calibrate(looks)


def calibrate(looks: tuple[int, ...], num_paths: int = NUM_PATHS) -> Schedule:
    """The schedule of any looks, from `num_paths` simulated paths of the t statistic and a fixed generator."""
    statistics = np.abs(simulate_t(looks, num_paths, np.random.default_rng(2021)))
    spent = (np.array(looks) / looks[-1]) ** SPENDING_POWER
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
