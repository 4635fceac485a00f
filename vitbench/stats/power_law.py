"""How an error falls with compute, data or size: a power law per seed, and the spread of its numbers over seeds.

S seeds, X sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vitbench.base.errors import InputError
from vitbench.stats.distributions import Floats
from vitbench.stats.intervals import Interval, mean_interval

NUM_NUMBERS = 3


@dataclass(frozen=True)
class PowerLaw:
    """`error = scale * (x / x[0]) ** -exponent + floor`: each number's mean over the seeds' fits, with its t interval.

    `floor` is None if the law has none. `fits [S, 3]` are the seeds' own numbers in this order.
    """

    scale: Interval
    exponent: Interval
    floor: Interval | None
    fits: Floats


def power_law(x: npt.ArrayLike, errors: npt.ArrayLike, level: float = 0.95, *, floor: bool = False) -> PowerLaw:
    """The law of errors `[S, X]`, above 0, at sizes `x [X]`, above 0; one fit per seed, by least squares of logarithms.

    Without a floor the intervals are exact for normal noise of log errors; with one they are approximate, and at least
    four sizes are needed.
    """
    sizes, rows = np.asarray(x, dtype=np.float64), np.atleast_2d(np.asarray(errors, dtype=np.float64))
    if sizes.ndim != 1 or rows.shape[1:] != sizes.shape:
        raise InputError(f"a power law needs one error per size: {rows.shape[1:]} against {sizes.shape}")
    if len(np.unique(sizes)) < NUM_NUMBERS + floor:
        raise InputError(f"a power law needs at least {NUM_NUMBERS + floor} sizes")
    if not (np.isfinite(rows).all() and (rows > 0).all() and (sizes > 0).all()):
        raise InputError("a power law needs finite sizes and errors above 0")
    log_x = np.log(sizes / sizes[0])
    fits = np.array([_fit(log_x, row, floor) for row in rows])
    scale, exponent, floors = (mean_interval(fits[:, k], level) for k in range(NUM_NUMBERS))
    return PowerLaw(scale, exponent, floors if floor else None, fits)


def _fit(log_x: Floats, errors: Floats, floor: bool) -> Floats:
    """Scale, exponent and floor (0 without one) of one seed."""
    slope, intercept = np.polyfit(log_x, np.log(errors), 1)
    straight = np.array([np.exp(intercept), -slope, 0.0])
    if not floor:
        return straight
    from scipy.optimize import least_squares  # Late: it takes half a second.

    least = errors.min()

    def residuals(numbers: Floats) -> Floats:
        distance: Floats = np.log(np.exp(numbers[0] - numbers[1] * log_x) + numbers[2]) - np.log(errors)
        return distance

    starts = [
        np.array([np.log(max(errors[0] - c, least / 100)), max(-slope, 0.1), c])
        for c in (0.0, 0.5 * least, 0.9 * least)
    ]
    bounds = ([-np.inf, -np.inf, 0.0], [np.inf, np.inf, float(errors.max())])
    best = min(
        (least_squares(residuals, start, bounds=bounds, xtol=1e-12, ftol=1e-12) for start in starts),
        key=lambda fit: fit.cost,
    )
    return np.array([np.exp(best.x[0]), best.x[1], best.x[2]])
