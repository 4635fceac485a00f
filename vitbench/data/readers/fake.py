"""Synthetic images that can be learned: a small pattern at a random place on noise. The pattern is the class.

`fake` is 8 x 8 and grey, so that a whole experiment trains in seconds: a ViT of depth 2 and width 32 on patches of 2
starts at chance, 25%, and passes 70% within 10 epochs (one second on one core). `fake_colour` is 16 x 16 in three
colours. `Split.boxes` is the place of the pattern, so that maps of attention can be compared with the truth.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from vitbench.base.seeding import hash_indices
from vitbench.data.source import Files, Raw, Source
from vitbench.data.types import DataOptions, Ints, Split

NUM_TRAIN, NUM_TEST = 512, 256
PATTERNS = {
    "rows": ("1111", "0000", "1111", "0000"),
    "columns": ("1010", "1010", "1010", "1010"),
    "ring": ("1111", "1001", "1001", "1111"),
    "square": ("1111", "1111", "1111", "1111"),
}
NOISE_LEVELS, LIFT = 128, 128


def _draws(stream: str, indices: Ints, levels: int) -> Ints:
    """Integers in [0, levels), one per index."""
    return (hash_indices(0, f"fake/{stream}", 0, indices) % np.uint64(levels)).astype(np.int64)


def _make(first: int, num: int, img_size: int, in_chans: int) -> Split:
    """Images `first` to `first + num - 1` of an endless series; classes alternate; a pattern has half the side."""
    cells = np.array([[list(row) for row in pattern] for pattern in PATTERNS.values()]) == "1"
    scale = img_size // (2 * cells.shape[1])
    patterns = cells.repeat(scale, axis=1).repeat(scale, axis=2)
    side = patterns.shape[1]
    index = np.arange(first, first + num)
    labels = index % len(patterns)
    shape = (num, img_size, img_size, in_chans)
    values = np.arange(np.prod(shape)) + first * np.prod(shape[1:])
    images = _draws("noise", values, NOISE_LEVELS).reshape(shape)
    left, top = (_draws(axis, index, img_size - side + 1) for axis in ("left", "top"))
    for image, label, x, y in zip(images, labels, left, top, strict=True):
        image[y : y + side, x : x + side] += LIFT * patterns[label][:, :, None]
    return Split(labels, images.astype(np.uint8), boxes=np.stack([left, top, left + side, top + side], axis=1))


def _locate(name: str, options: DataOptions) -> Files:
    return ()


def _load(name: str, files: Files, img_size: int, in_chans: int) -> Raw:
    train, test = _make(0, NUM_TRAIN, img_size, in_chans), _make(NUM_TRAIN, NUM_TEST, img_size, in_chans)
    return Raw(train, test, tuple(PATTERNS))


FAKE = Source(_locate, partial(_load, img_size=8, in_chans=1), flip=False, pixels_publishable=True)
FAKE_COLOUR = Source(_locate, partial(_load, img_size=16, in_chans=3), flip=False, pixels_publishable=True)
