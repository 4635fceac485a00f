"""Which training images a trial validates on and trains on: pure functions of labels, seed and spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from vitbench.base.errors import InputError
from vitbench.base.seeding import permutation
from vitbench.data.types import Ints
from vitbench.spec.trial import DataSpec


@dataclass(frozen=True)
class Partition:
    """Positions among the training images, ascending: trained on, and held out."""

    train: Ints
    val: Ints


@dataclass(frozen=True)
class Sizes:
    """Images of each class, by class: trained on, and held out."""

    train: Mapping[int, int]
    val: Mapping[int, int]


def partition(labels: Ints, seed: int, spec: DataSpec) -> Partition:
    """Validation images; then the class filter; then the nested subset `train_fraction` of the remaining images.

    The same for every arm of a seed; neither filter nor subset moves an image between training and validation.
    Raises InputError where a class would have no image to train on.
    """
    sizes = class_sizes(np.bincount(labels).tolist(), spec)
    val = _first(labels, np.arange(len(labels)), sizes.val, seed, "split")
    rest = np.setdiff1d(np.arange(len(labels)), val, assume_unique=True)
    return Partition(_first(labels, rest, sizes.train, seed, "subset"), val)


def partition_sizes(class_counts: Sequence[int], spec: DataSpec) -> tuple[int, int]:
    """How many images `partition` trains on and holds out, whatever the seed; raises what it raises."""
    sizes = class_sizes(class_counts, spec)
    return sum(sizes.train.values()), sum(sizes.val.values())


def class_sizes(class_counts: Sequence[int], spec: DataSpec) -> Sizes:
    """The sizes of a partition; a share is rounded half up, and no class is held out in whole."""
    present = {c: count for c, count in enumerate(class_counts) if count}
    kept = present if spec.classes is None else {c: present[c] for c in _checked(spec.classes, present)}
    val = {c: _num_held_out(spec.val_fraction, count) for c, count in kept.items()}
    rest = {c: count - val[c] for c, count in kept.items()}
    train = {c: _share(spec.train_fraction, count) for c, count in rest.items()}
    fewest = min(rest, key=lambda c: rest[c])
    if train[fewest] == 0:
        raise InputError(
            f"data.train_fraction: {spec.train_fraction:g} of the {rest[fewest]} training images of class {fewest} "
            f"is none; at least {ceil(0.5e5 / rest[fewest]) / 1e5:g} would fit"
        )
    return Sizes(train, val)


def held_out(labels: Ints, fraction: float, seed: int, stream: str) -> Ints:
    """About `fraction` of each class, ascending; of a class of two or more images at least one and never all."""
    sizes = {c: _num_held_out(fraction, count) for c, count in enumerate(np.bincount(labels).tolist())}
    return _first(labels, np.arange(len(labels)), sizes, seed, stream)


def _num_held_out(fraction: float, size: int) -> int:
    return min(max(_share(fraction, size), 1), size - 1) if fraction > 0 and size else 0


def _share(fraction: float, size: int) -> int:
    return int(fraction * size + 0.5)


def _first(labels: Ints, members: Ints, sizes: Mapping[int, int], seed: int, stream: str) -> Ints:
    """The first `sizes[c]` members of each class c in the order of their hashes, then ascending by position.

    So a smaller size takes a subset of what a larger one takes, and no class's draw depends on another class.
    """
    order = permutation(seed, stream, 0, members)
    grouped = order[np.argsort(labels[order], kind="stable")]
    own = labels[grouped]
    rank = np.arange(len(own)) - np.searchsorted(own, own)
    wanted = np.array([sizes.get(c, 0) for c in range(own.max(initial=0) + 1)])
    return np.sort(grouped[rank < wanted[own]])


def _checked(classes: Sequence[int], present: Mapping[int, int]) -> list[int]:
    missing = sorted(set(classes) - set(present))
    if missing:
        raise InputError(f"data.classes: no images of class {missing[0]}; classes are {min(present)} to {max(present)}")
    if len(set(classes)) < 2:
        raise InputError(f"data.classes: {list(classes)} is one class, and at least two are needed")
    return sorted(set(classes))
