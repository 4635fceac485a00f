"""The similarity of two places' embeddings, compared with the distance of the places on the grid.

Source: Dosovitskiy et al. 2021, s4.5 and App. D.4, Figs. 7 and 10.
Shapes: N = G G places in raster order, G grid side, D embed_dim.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
TINY = 1e-12


def cosine_map(table: Floats) -> Floats:
    """Cosine similarity of every two rows, `[N, N]`, of `table [N, D]`; 0 for a row of zeros."""
    unit = table / np.linalg.norm(table, axis=1, keepdims=True).clip(TINY)
    return np.asarray(unit @ unit.T)


def rotary_map(cos: Floats, sin: Floats) -> Floats:
    """Similarity `[N, N]` from rotary angles alone: the cosine of the angle between two places, mean over dimensions.

    `cos` and `sin` are `[N, K/2]`. Queries and keys do not enter, so the map is the same for every head.
    """
    return np.asarray((cos @ cos.T + sin @ sin.T) / cos.shape[1])


def grid_offsets(side: int) -> tuple[Floats, Floats]:
    """Row and column offsets between every two places, `[N, N]` each, in cells."""
    place = np.arange(side * side)
    row, column = place // side, place % side
    return (row[:, None] - row[None]).astype(float), (column[:, None] - column[None]).astype(float)


def distance_spearman(similarity: Floats, side: int) -> float:
    """Spearman's rho over all pairs between similarity `[N, N]` and minus the Euclidean distance; 0 if either is
    constant."""
    upper = np.triu_indices(side * side, 1)
    return spearman(similarity[upper], -np.hypot(*grid_offsets(side))[upper])


def spearman(x: Floats, y: Floats) -> float:
    """Spearman's rank correlation of `x [n]` and `y [n]`, ties at their mean rank; 0 if either is constant."""
    a, b = (_ranks(values) - (len(values) - 1) / 2.0 for values in (x, y))
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > TINY else 0.0


def _ranks(values: Floats) -> Floats:
    """Ranks from 0; equal values share their mean rank."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count + 1) / 2.0)[group], dtype=np.float64)


def row_column_effect(similarity: Floats, side: int) -> float:
    """Mean similarity of places in one row or column, minus that of other pairs at the same distance; cosine units.

    Few other pairs have a whole-number distance, so the mean of the others at distance d is interpolated linearly
    between their nearest distances. d = 1 is left out, because the others have no smaller distance.
    """
    rows, columns = grid_offsets(side)
    upper = np.triu_indices(side * side, 1)
    aligned = ((rows == 0) | (columns == 0))[upper]
    squared, values = (rows**2 + columns**2)[upper], similarity[upper]
    other, means = _means_by(squared[~aligned], values[~aligned])
    distance, aligned_values = np.sqrt(squared[aligned]), values[aligned]
    inside = distance > np.sqrt(other[0])
    matched = np.interp(distance[inside], np.sqrt(other), means)
    return float((aligned_values[inside] - matched).mean()) if inside.any() else 0.0


def _means_by(keys: Floats, values: Floats) -> tuple[Floats, Floats]:
    """The distinct keys in ascending order, and the mean of each key's values."""
    distinct, group = np.unique(keys, return_inverse=True)
    return distinct, np.bincount(group, weights=values) / np.bincount(group)


def permutation_null(similarity: Floats, side: int, draws: int, rng: np.random.Generator) -> Floats:
    """Spearman's rho and row-column effect `[draws, 2]` of places in random order, which ignore the grid."""
    out = np.empty((draws, 2))
    for draw in range(draws):
        order = rng.permutation(side * side)
        shuffled = similarity[np.ix_(order, order)]
        out[draw] = distance_spearman(shuffled, side), row_column_effect(shuffled, side)
    return out


def permutation_p(observed: float, null: Floats) -> float:
    """One-sided p of `observed` against `null [draws]`. The observation counts too, so that p is never 0."""
    return float((1 + (null >= observed).sum()) / (1 + len(null)))
