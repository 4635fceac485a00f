"""Power of one interval, and the smallest effect or margin that a design can detect.

Effects, margins in units of the standard deviation over seeds; `c` is the interval's half-width in standard errors.
Power integrates over the estimated standard deviation: the noncentral t of the library is NaN in far tails, and
equivalence has no library function.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import lgamma, log

import numpy as np

from vitbench.stats.distributions import Floats, chi_squared_quantile, normal_cdf

NUM_NODES = 400


def difference_power(effect: float, n: int, c: float) -> float:
    """The chance that mean +- c se leaves out 0, at a true `effect`."""
    ratio, weight = _sd_nodes(n, np.inf)
    shift = effect * np.sqrt(n)
    return float((weight * (normal_cdf(shift - c * ratio) + normal_cdf(-shift - c * ratio))).sum())


def equivalence_power(margin: float, n: int, c: float) -> float:
    """The chance that mean +- c se lies inside +-margin, at a true difference of 0."""
    room = margin * np.sqrt(n)
    ratio, weight = _sd_nodes(n, room / c)
    return float((weight * (2.0 * normal_cdf(room - c * ratio) - 1.0)).sum())


@lru_cache(maxsize=256)
def smallest_difference(n: int, c: float, power: float = 0.8) -> float:
    """The true difference that is seen with this power."""
    return _solve(lambda effect: difference_power(effect, n, c) - power)


@lru_cache(maxsize=256)
def smallest_margin(n: int, c: float, power: float = 0.8) -> float:
    """The margin within which a true 0 is shown with this power."""
    return _solve(lambda margin: equivalence_power(margin, n, c) - power)


def sd_range(n: int) -> tuple[float, float]:
    """The 80% range of the true standard deviation over its estimate."""
    low, high = chi_squared_quantile(np.array([0.9, 0.1]), n - 1)
    return float(np.sqrt((n - 1) / low)), float(np.sqrt((n - 1) / high))


def _sd_nodes(n: int, largest: float) -> tuple[Floats, Floats]:
    """Nodes and weights [NUM_NODES] for integrals over s / sigma of n normal values, up to `largest`."""
    df = n - 1
    top = min(float(np.sqrt(chi_squared_quantile(1.0 - 1e-15, df) / df)), largest)
    nodes, weights = _legendre()
    ratio = (nodes + 1.0) * top / 2.0
    log_density = (df - 1) * np.log(ratio) - df * ratio**2 / 2.0 + _log_constant(df)
    return ratio, weights * top / 2.0 * np.exp(log_density)


@lru_cache(maxsize=1)
def _legendre() -> tuple[Floats, Floats]:
    """Gauss-Legendre nodes and weights on [-1, 1]; finding them costs an eigenvalue problem."""
    nodes, weights = np.polynomial.legendre.leggauss(NUM_NODES)
    return nodes, weights


def _log_constant(df: int) -> float:

    return log(2.0) + df / 2.0 * log(df / 2.0) - lgamma(df / 2.0)


def _solve(gap: Callable[[float], float]) -> float:
    """The root of a rising function, by bisection to float precision."""
    low, high = 0.0, 1.0
    while gap(high) < 0.0:
        high *= 2.0
    for _ in range(80):
        middle = (low + high) / 2.0
        low, high = (middle, high) if gap(middle) < 0.0 else (low, middle)
    return high
