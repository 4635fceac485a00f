"""Lines beside a verdict, never the verdict: exact sign-flip p and the bootstrap-t interval of one contrast."""

from __future__ import annotations

import numpy as np

from vitbench.stats.distributions import Floats
from vitbench.stats.intervals import NO_SPREAD

LEAST_FOR_SIGN_FLIP = 6
MOST_FOR_SIGN_FLIP = 20
LEAST_FOR_BOOTSTRAP = 10
NUM_RESAMPLES = 4_000


def sign_flip_p(values: Floats, reference: float = 0.0) -> float | None:
    """Two-sided exact p of the mean of `values` [n] against `reference`, over all 2^n signs.

    None below 6 seeds, where it cannot reach .05, above 20, and where nothing varies. It assumes symmetry.
    """
    data = np.asarray(values, dtype=np.float64) - reference
    if not LEAST_FOR_SIGN_FLIP <= len(data) <= MOST_FOR_SIGN_FLIP or np.ptp(data) < NO_SPREAD:
        return None
    sums = np.zeros(1)
    for value in data:
        sums = np.concatenate([sums + value, sums - value])
    return float(np.mean(np.abs(sums) >= abs(data.sum()) * (1.0 - 1e-12)))


def bootstrap_t(values: Floats, level: float, rng: np.random.Generator) -> tuple[float, float] | None:
    """The bootstrap-t interval of the mean of `values` [n], a check on skew; None below 10 seeds or without spread."""
    data = np.asarray(values, dtype=np.float64)
    n = len(data)
    if n < LEAST_FOR_BOOTSTRAP or np.ptp(data) < NO_SPREAD:
        return None
    drawn = data[rng.integers(0, n, (NUM_RESAMPLES, n))]
    sd = drawn.std(axis=1, ddof=1)
    varied = sd > NO_SPREAD
    statistic = (drawn.mean(axis=1)[varied] - data.mean()) / (sd[varied] / np.sqrt(n))
    upper, lower = np.quantile(statistic, [0.5 + level / 2.0, 0.5 - level / 2.0])
    se = data.std(ddof=1) / np.sqrt(n)
    return float(data.mean() - upper * se), float(data.mean() - lower * se)
