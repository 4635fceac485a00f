"""A palette of colours by k-means: the same colours in give the same palette. No torch.

n colours, C channels, K entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vitbench.base.seeding import uniforms

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class TrainingPixels(NamedTuple):
    """What a palette is measured on: `read` gives standardised training images `[n, C, H, W]`, and `standardise` does
    to images in [0, 1] what was done to them."""

    read: Callable[[], Floats]
    standardise: Callable[[Floats], Floats]


MOST_COLOURS = 1 << 16
"""Pixels that k-means reads, evenly spaced among those it is given."""
MOST_ROUNDS = 30
ROWS = 1 << 13
"""Colours that are compared with the palette at once, to bound memory."""


def nearest(colours: Floats, palette: Floats) -> Ints:
    """The entry nearest to each of `colours [n, C]`; the first one of a tie."""
    parts = [colours[first : first + ROWS] for first in range(0, len(colours), ROWS)]
    return np.concatenate([_distances(part, palette).argmin(1) for part in parts])


def _distances(colours: Floats, palette: Floats) -> Floats:
    """Squared distances `[n, K]`, added up channel by channel, as the network does."""
    out = np.zeros((len(colours), len(palette)), dtype=colours.dtype)
    for channel in range(colours.shape[1]):
        out += (colours[:, channel, None] - palette[None, :, channel]) ** 2
    return out


def clusters(colours: Floats, num: int) -> Floats:
    """The palette `[num, C]` of `colours [n, C]`, from dark to light.

    First entries are drawn as in k-means++ (Arthur and Vassilvitskii 2007), with draws that never change. If there are
    no more than `num` colours, they are the palette, and the last one fills it up.
    """
    picked = colours[np.linspace(0, len(colours) - 1, min(len(colours), MOST_COLOURS)).round().astype(np.int64)]
    distinct, counts = np.unique(picked, axis=0, return_counts=True)
    if len(distinct) <= num:
        return _from_dark(np.concatenate([distinct, distinct[-1:].repeat(num - len(distinct), axis=0)]))
    palette, labels = _first_entries(distinct, counts, num), np.zeros(0, dtype=np.int64)
    for _ in range(MOST_ROUNDS):
        before, labels = labels, nearest(distinct, palette)
        if np.array_equal(before, labels):
            break
        palette = _means(distinct, counts, labels, palette)
    return _from_dark(palette)


def _first_entries(distinct: Floats, counts: Ints, num: int) -> Floats:
    """Colours far from each other: each with a probability that grows with its squared distance to the earlier ones."""
    draws = uniforms(0, "palette", 0, np.arange(num))[:, 0]
    entries, far = np.empty((num, distinct.shape[1]), dtype=distinct.dtype), np.full(len(distinct), np.inf)
    for number, draw in enumerate(draws):
        weights = np.cumsum(counts * (far if number else 1.0))
        entries[number] = distinct[min(len(distinct) - 1, np.searchsorted(weights, draw * weights[-1], side="right"))]
        far = np.minimum(far, _distances(distinct, entries[number : number + 1])[:, 0])
    return entries


def _means(distinct: Floats, counts: Ints, labels: Ints, palette: Floats) -> Floats:
    """The mean colour of every entry; an entry without colours stays as it is."""
    sizes = np.bincount(labels, counts, len(palette))
    sums = [np.bincount(labels, counts * channel, len(palette)) for channel in distinct.T.astype(np.float64)]
    means = np.stack(sums, axis=1) / np.maximum(sizes, 1)[:, None]
    return np.where(sizes[:, None] > 0, means, palette).astype(np.float32)


def _from_dark(palette: Floats) -> Floats:
    return palette[np.lexsort((*palette.T, palette.sum(1)))]
