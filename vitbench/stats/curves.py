"""Where two curves cross, and how much more compute one arm needs, by inverting the test along x.

The interval is the set of x at which the mean contrast is within c standard errors of 0. A bootstrap over five seeds
covers 81 to 84% instead of 95, a straight-line fit less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vitbench.stats.distributions import Floats
from vitbench.stats.intervals import NO_SPREAD

NUM_STEPS = 4_001


@dataclass(frozen=True)
class Located:
    """A place on an axis; `low` or `high` is None where the set runs to that end of the range (one-sided)."""

    value: float | None
    low: float | None
    high: float | None
    level: float
    smallest: float
    largest: float


def crossing(x: Floats, contrasts: Floats, extra_variance: Floats, c: float) -> Located:
    """Where the mean of `contrasts` [n, X] (linear between the rising `x` [X]) is 0; `extra_variance` [X] adds noise."""
    return _invert(x, contrasts, extra_variance, c)


def compute_ratio(
    anchor: Floats, x: Floats, curve: Floats, extra_variance: Floats, c: float, anchor_x: float
) -> Located:
    """How many times A's compute B needs for A's score: `anchor` [n] is A, `curve` [n, X] B at log2 compute `x` [X].

    `extra_variance` [X] is that of A and of B together. No extrapolation beyond B's budgets.
    """
    found = _invert(x - anchor_x, anchor[:, None] - curve, extra_variance, c)
    times = [None if value is None else 2.0**value for value in (found.value, found.low, found.high)]
    return Located(*times, found.level, 2.0**found.smallest, 2.0**found.largest)


def _invert(x: Floats, contrasts: Floats, extra_variance: Floats, c: float) -> Located:
    grid = np.linspace(x[0], x[-1], NUM_STEPS)
    shares = np.array([np.interp(grid, x, unit) for unit in np.eye(len(x))])
    values = contrasts @ shares
    sd = values.std(axis=0, ddof=1)
    se = np.sqrt(np.where(sd < NO_SPREAD, 0.0, sd) ** 2 / len(values) + extra_variance @ shares**2)
    mean = values.mean(axis=0)
    inside = grid[np.abs(mean) <= c * se]
    root = _root(grid, mean)
    if not len(inside):
        return Located(root, None, None, 0.95, float(grid[0]), float(grid[-1]))
    low = None if inside[0] == grid[0] else float(inside[0])
    high = None if inside[-1] == grid[-1] else float(inside[-1])
    return Located(root, low, high, 0.95, float(grid[0]), float(grid[-1]))


def _root(grid: Floats, mean: Floats) -> float | None:
    """The first x at which `mean` changes sign, linear between grid points."""
    change = np.flatnonzero(np.sign(mean[:-1]) != np.sign(mean[1:]))
    if not len(change):
        return None
    i = int(change[0])
    return float(grid[i] - mean[i] * (grid[i + 1] - grid[i]) / (mean[i + 1] - mean[i]))
