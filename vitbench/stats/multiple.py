"""Many p values at once: Holm for a table of arms, Benjamini-Hochberg for the scoreboard's q column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


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
