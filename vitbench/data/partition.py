"""Which training images a trial validates on and trains on: pure functions of labels, seed and spec."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np

from vitbench.data.images import Ints
from vitbench.errors import InputError
from vitbench.seeding import permutation
from vitbench.spec import DataSpec


@dataclass(frozen=True)
class Partition:
    """Positions among the training images, ascending: trained on, and held out."""

    train: Ints
    val: Ints


def partition(labels: Ints, seed: int, spec: DataSpec) -> Partition:
    """Validation images; then the class filter; then the nested subset `train_fraction` of the remaining images.

    The same for every arm of a seed; neither filter nor subset moves an image between training and validation.
    Raises InputError where a class would have no image to train on.
    """
    val = held_out(labels, spec.val_fraction, seed, "split")
    train = np.setdiff1d(np.arange(len(labels)), val, assume_unique=True)
    if spec.classes is not None:
        classes = _checked_classes(labels, spec.classes)
        train, val = train[np.isin(labels[train], classes)], val[np.isin(labels[val], classes)]
    return Partition(_subset(labels, train, spec.train_fraction, seed), val)


def partition_sizes(class_counts: tuple[int, ...], spec: DataSpec) -> tuple[int, int]:
    """How many images a partition trains on and holds out, from the numbers of images a class; the same for every seed."""
    kept = class_counts if spec.classes is None else [class_counts[c] for c in spec.classes]
    held = [_num_held_out(spec.val_fraction, size) for size in kept]
    left = [size - out for size, out in zip(kept, held, strict=True)]
    return sum(_share(spec.train_fraction, size) for size in left), sum(held)


def held_out(labels: Ints, fraction: float, seed: int, stream: str) -> Ints:
    """About `fraction` of each class, ascending; of a class of two or more images at least one and never all."""

    return _take(labels, np.arange(len(labels)), lambda size: _num_held_out(fraction, size), seed, stream)


def _num_held_out(fraction: float, size: int) -> int:
    return min(max(_share(fraction, size), 1), size - 1) if fraction > 0 and size else 0


def _subset(labels: Ints, members: Ints, fraction: float, seed: int) -> Ints:
    """About `fraction` of each class; each smaller fraction's images are among a larger one's."""
    classes, sizes = np.unique(labels[members], return_counts=True)
    smallest = int(sizes.min(initial=1))
    if _share(fraction, smallest) == 0:
        fits = ceil(0.5e5 / smallest) / 1e5
        raise InputError(
            f"data.train_fraction: {fraction:g} of the {smallest} training images of class {classes[sizes.argmin()]} "
            f"is none; at least {fits:g} would fit"
        )
    return _take(labels, members, lambda size: _share(fraction, size), seed, "subset")


def _share(fraction: float, size: int) -> int:
    return int(fraction * size + 0.5)


def _take(labels: Ints, members: Ints, count: Callable[[int], int], seed: int, stream: str) -> Ints:
    """The first `count(size)` members of each class in the order of their hashes, ascending by position."""
    order = permutation(seed, stream, 0, members)
    by_class = (order[labels[order] == c] for c in np.unique(labels[members]))
    return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *(own[: count(len(own))] for own in by_class)]))


def _checked_classes(labels: Ints, classes: tuple[int, ...]) -> list[int]:
    known = {int(c) for c in np.unique(labels)}
    missing = sorted(set(classes) - known)
    if missing:
        raise InputError(f"data.classes: no class {missing[0]} in this data set; it has {min(known)} to {max(known)}")
    if len(set(classes)) < 2:
        raise InputError(f"data.classes: {list(classes)} is one class, and at least two are needed")
    return sorted(set(classes))
