"""Quantiles and tails of t, normal and chi-squared, for scalars and arrays; the package's one door to scipy.

`scipy.special` alone: `scipy.stats` takes two seconds to import and its `nct.cdf` is NaN in far tails. And late: `plan`
and `status`, which choose settings but compute no quantile, would wait for it, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def t_quantile(probability: npt.ArrayLike, df: npt.ArrayLike) -> Floats:
    """The t value below which `probability` of Student's distribution with `df` degrees of freedom lies."""
    from scipy import special

    return np.asarray(special.stdtrit(df, probability), dtype=np.float64)


def t_upper(value: npt.ArrayLike, df: npt.ArrayLike) -> Floats:
    """P(T > value); +-inf give 0 and 1."""
    from scipy import special

    return np.asarray(special.stdtr(df, -np.asarray(value, dtype=np.float64)), dtype=np.float64)


def normal_cdf(value: npt.ArrayLike) -> Floats:
    """P(Z <= value)."""
    from scipy import special

    return np.asarray(special.ndtr(value), dtype=np.float64)


def chi_squared_quantile(probability: npt.ArrayLike, df: npt.ArrayLike) -> Floats:
    """The chi-squared value below which `probability` lies."""
    from scipy import special

    return np.asarray(2.0 * special.gammaincinv(np.asarray(df) / 2.0, probability), dtype=np.float64)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p, in the order given: the chance of any false finding in the table is held."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty(len(p))
    out[order] = np.minimum(steps, 1.0)
    return [float(value) for value in out]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """q values, in the order given: the false share among findings with q below a line is held at that line."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")[::-1]
    steps = np.minimum.accumulate(p[order] * len(p) / np.arange(len(p), 0, -1))
    out = np.empty(len(p))
    out[order] = np.minimum(steps, 1.0)
    return [float(value) for value in out]
