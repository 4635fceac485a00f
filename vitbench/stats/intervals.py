"""t intervals of means and of paired differences over seeds, with the floor of counted scores.

Scores are percentages (or the metric's own unit); S is the number of seeds. A value that cannot be computed is a
refusal with a reason, never NaN.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import fsum

import numpy as np
import numpy.typing as npt

from vitbench.base.errors import InputError
from vitbench.stats.distributions import Floats, t_quantile

NO_SPREAD = 1e-9
"""A standard deviation below this is float noise: differences of percentages that are equal on paper."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its interval; `low` and `high` are None if `reason` says why there is none."""

    mean: float | None
    low: float | None
    high: float | None
    n: int
    level: float
    sd: float | None = None
    reason: str | None = None

    @property
    def refused(self) -> bool:
        """Whether there is no interval."""
        return self.low is None

    @property
    def ends(self) -> tuple[float, float] | None:
        """Both limits, or None if there is no interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def counting_floor(num_images: int | None, weights: Iterable[float] = (1.0, -1.0)) -> float:
    """The least standard deviation credited to a contrast of top-1 scores: half a counting step for a difference.

    A score counted on M images moves in steps of 100 / M points; below half a step a spread is rounding. 0 where
    the number of images is unknown.
    """
    if not num_images:
        return 0.0
    return 50.0 / num_images * float(np.sqrt(fsum(weight**2 for weight in weights) / 2.0))


def mean_interval(scores: npt.ArrayLike, level: float = 0.95, num_images: int | None = None) -> Interval:
    """The t interval of the mean of `scores` (float [S]); refused for one seed, or for equal scores without a floor."""
    return contrast_interval(scores, level, counting_floor(num_images, (1.0,)))


def paired_interval(a: npt.ArrayLike, b: npt.ArrayLike, level: float = 0.95, num_images: int | None = None) -> Interval:
    """The t interval of mean(a - b), float [S] each, paired by seed; `num_images` of the test set sets the floor."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise InputError(f"paired scores need the same seeds: {first.shape} against {second.shape}")
    return contrast_interval(first - second, level, counting_floor(num_images))


def contrast_interval(
    values: npt.ArrayLike,
    level: float = 0.95,
    floor: float = 0.0,
    extra_variance: float = 0.0,
    factor: float | None = None,
) -> Interval:
    """The t interval of one contrast, one value per seed (float [S]).

    `floor` is the least standard deviation credited; `extra_variance` is added to the squared standard error (the
    variance of a tuned choice, which more seeds do not shrink); `factor` replaces the t quantile (at a look).
    """
    data = finite(values)
    n = len(data)
    if n == 0:
        return Interval(None, None, None, 0, level, reason="no seeds")
    mean = float(np.mean(data))
    if n == 1:
        return Interval(mean, None, None, 1, level, reason="n = 1: one seed shows no spread")
    sd = spread(data)
    if max(sd, floor) == 0.0:
        return Interval(
            mean, None, None, n, level, 0.0, "all values are equal and the number of test images is unknown"
        )
    width = float(t_quantile(0.5 + level / 2.0, n - 1)) if factor is None else factor
    half = width * float(standard_error(sd, n, floor, extra_variance))
    return Interval(mean, mean - half, mean + half, n, level, sd)


def standard_error(
    sd: npt.ArrayLike, n: int, floor: npt.ArrayLike = 0.0, extra_variance: npt.ArrayLike = 0.0
) -> Floats:
    """The standard errors of means over n seeds, of the arguments' common shape."""
    return np.asarray(np.sqrt(np.maximum(sd, floor) ** 2 / n + np.asarray(extra_variance)), dtype=np.float64)


def spread(data: Floats) -> float:
    """The standard deviation (n - 1) of `data` [S], 0.0 if it is float noise."""
    sd = float(np.std(data, ddof=1))
    return sd if sd >= NO_SPREAD else 0.0


def finite(values: npt.ArrayLike) -> Floats:
    """`values` as float [S]; an InputError names the first that is not a number."""
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1:
        raise InputError(f"one value per seed is needed, not an array of shape {data.shape}")
    bad = np.flatnonzero(~np.isfinite(data))
    if len(bad):
        raise InputError(f"the score at position {int(bad[0])} is {data[bad[0]]}, not a finite number")
    return data
