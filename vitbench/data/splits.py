"""Which training images a trial validates on and trains on: pure functions of labels, seed and spec."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from vitbench.base.errors import InputError
from vitbench.base.seeding import hash_indices, permutation
from vitbench.data.copies import group_sizes
from vitbench.data.types import Counts, Ints, Split
from vitbench.spec.trial import DataSpec

GroupCounts = Mapping[int, int]
"""Number of groups of equal images by size; an image without a copy is a group of size 1."""


@dataclass(frozen=True)
class Partition:
    """Positions among the training images, ascending: trained on, and held out."""

    train: Ints
    val: Ints


@dataclass(frozen=True)
class Sizes:
    """Images per class, by class: trained on, and held out; `val_groups` says in groups of which sizes."""

    train: Mapping[int, int]
    val: Mapping[int, int]
    val_groups: Mapping[int, GroupCounts]


def partition(split: Split, seed: int, spec: DataSpec) -> Partition:
    """Validation images; then the class filter; then the nested subset `train_fraction` of the remaining images.

    The same for every arm of a seed; neither filter nor subset moves an image between training and validation. Equal
    images are on one side. A validation split that the user made is the validation split of every seed.
    Raises InputError if a class would have no image to train on.
    """
    labels = split.labels
    sizes = class_sizes(counts_of(split), spec)
    if split.val is not None:
        val = np.flatnonzero(split.val & np.isin(labels, list(sizes.val)))
        rest = np.flatnonzero(~split.val)
    else:
        val = _held_out_val(split, sizes, seed)
        rest = np.setdiff1d(np.arange(len(labels)), val, assume_unique=True)
    return Partition(_first(labels, rest, sizes.train, seed, "subset"), val)


def _held_out_val(split: Split, sizes: Sizes, seed: int) -> Ints:
    """Validation images of one seed: drawn image by image, or a block of each class at a place that the seed draws."""
    if split.rank is None:
        return _first_groups(split, sizes.val_groups, seed, "split")
    place = float(hash_indices(seed, "block", 0, np.array([0]))[0]) / 2**64
    return blocks(split, sizes.val, place)


def counts_of(split: Split) -> Counts:
    """The counts that `class_sizes` needs."""
    num_classes = int(split.labels.max(initial=-1)) + 1
    images = np.bincount(split.labels, minlength=num_classes)
    val = () if split.val is None else np.bincount(split.labels[split.val], minlength=num_classes).tolist()
    return Counts(tuple(images.tolist()), group_sizes(split.labels, split.groups), tuple(val))


@functools.lru_cache(maxsize=1024)  # A plan asks for each of its trials, and most have the same data.
def partition_sizes(counts: Counts, spec: DataSpec) -> tuple[int, int]:
    """How many images `partition` trains on and holds out, whatever the seed; raises what it raises."""
    sizes = class_sizes(counts, spec)
    return sum(sizes.train.values()), sum(sizes.val.values())


def labelled_part(spec: DataSpec, share: float) -> DataSpec:
    """The data of which a trial reads labels, if it reads those of a `share` of the training images."""
    return spec.model_copy(update={"train_fraction": share})


def pool_size(counts: Counts, spec: DataSpec, labelled_share: float | None) -> int:
    """How many images a trial trains on without reading their labels; raises what `partition_sizes` raises."""
    if labelled_share is None:
        return 0
    return partition_sizes(counts, spec)[0] - partition_sizes(counts, labelled_part(spec, labelled_share))[0]


def class_sizes(counts: Counts, spec: DataSpec) -> Sizes:
    """The sizes of a partition; a share is rounded half up, and no class is held out in whole."""
    present = {c: count for c, count in enumerate(counts.images) if count}
    kept = present if spec.labels is None else {c: present[c] for c in _checked(spec.labels, present)}
    groups = {c: _groups_of(c, count, counts) for c, count in kept.items()}
    held = {} if counts.val else {c: _held_out_groups(spec.val_fraction, kept[c], groups[c]) for c in kept}
    val = {c: counts.val[c] if counts.val else sum(size * n for size, n in held[c].items()) for c in kept}
    rest = {c: count - val[c] for c, count in kept.items()}
    train = {c: _share(spec.train_fraction, count) for c, count in rest.items()}
    fewest = min(rest, key=lambda c: rest[c])
    if rest[fewest] == 0:
        raise InputError(f"data: class {fewest} has validation images and no training images")
    if train[fewest] == 0:
        raise InputError(
            f"data.train_fraction: {spec.train_fraction:g} of the {rest[fewest]} training images of class {fewest} "
            f"rounds to 0; at least {ceil(0.5e5 / rest[fewest]) / 1e5:g} is needed"
        )
    return Sizes(train, val, held)


def held_out(split: Split, fraction: float, seed: int, stream: str) -> Ints:
    """About `fraction` of each class, ascending; of a class of two or more images at least one and never all.

    Equal images are on one side, so a class whose images are all equal gives none. Of a split with ranks, the last
    images of each class are taken.
    """
    counts = counts_of(split)
    sizes = {
        c: _held_out_groups(fraction, count, _groups_of(c, count, counts)) for c, count in enumerate(counts.images)
    }
    if split.rank is not None:
        return blocks(split, {c: held.get(1, 0) for c, held in sizes.items()}, place=1.0)
    return _first_groups(split, sizes, seed, stream)


def blocks(split: Split, sizes: Mapping[int, int], place: float) -> Ints:
    """`sizes[c]` neighbours in file order of each class c, ascending by position; `place` from 0 (first) to 1 (last).

    All classes take theirs at the same place, so what neighbours share, such as a writer, is on one side as a rule.
    """
    assert split.rank is not None
    in_file_order = np.argsort(split.rank)
    chosen = []
    for c, size in sizes.items():
        members = in_file_order[split.labels[in_file_order] == c]
        start = min(int(place * (len(members) - size + 1)), len(members) - size)
        chosen.append(members[start : start + size])
    return np.sort(np.concatenate(chosen)) if chosen else np.array([], dtype=np.int64)


def _groups_of(c: int, count: int, counts: Counts) -> GroupCounts:
    """The groups of class `c` that may be held out."""
    if not any(label == c for label, _, _ in counts.groups):
        return {1: count}
    return {size: number for label, size, number in counts.groups if label == c}


def _held_out_groups(fraction: float, count: int, groups: GroupCounts) -> GroupCounts:
    """How many groups of each size are held out: the share of each size, as far as it fits, filled with the small ones.

    A function of the group sizes alone, so that the number of training images does not depend on the seed.
    """
    target = min(max(_share(fraction, count), 1), count - 1) if fraction > 0 and count else 0
    held, left = {}, target
    for size in sorted(groups, reverse=True):
        number = groups[size] if size == 1 else _share(fraction, groups[size])
        held[size] = min(number, left // size)
        left -= held[size] * size
    smallest = min(groups, default=count)
    if target and left == target and smallest < count:
        held[smallest] = 1
    return held


def _share(fraction: float, size: int) -> int:
    return int(fraction * size + 0.5)


def _first_groups(split: Split, numbers: Mapping[int, GroupCounts], seed: int, stream: str) -> Ints:
    """Of each class, the first so many groups of each size in the order of their first member's hash; ascending."""
    labels = split.labels
    if split.groups is None:
        return _first(labels, np.arange(len(labels)), {c: held.get(1, 0) for c, held in numbers.items()}, seed, stream)
    members: dict[int, list[int]] = {}
    for i in permutation(seed, stream, 0, np.arange(len(labels))).tolist():
        members.setdefault(int(split.groups[i]), []).append(i)
    left = {c: dict(held) for c, held in numbers.items()}
    chosen: list[int] = []
    for images in members.values():
        classes, size = {int(labels[i]) for i in images}, len(images)
        remaining = left.get(classes.pop(), {}) if len(classes) == 1 else {}
        if remaining.get(size, 0) > 0:
            remaining[size] -= 1
            chosen += images
    return np.array(sorted(chosen), dtype=np.int64)


def _first(labels: Ints, members: Ints, sizes: Mapping[int, int], seed: int, stream: str) -> Ints:
    """The first `sizes[c]` members of each class c in the order of their hashes, then ascending by position.

    So a smaller size takes a subset of what a larger one takes, and no class's draw depends on another class.
    """
    order = permutation(seed, stream, 0, members)
    grouped = order[np.argsort(labels[order], kind="stable")]
    grouped_labels = labels[grouped]
    rank = np.arange(len(grouped)) - np.searchsorted(grouped_labels, grouped_labels)
    limits = np.array([sizes.get(c, 0) for c in range(grouped_labels.max(initial=0) + 1)])
    return np.sort(grouped[rank < limits[grouped_labels]])


def _checked(classes: Sequence[int], present: Mapping[int, int]) -> list[int]:
    missing = sorted(set(classes) - set(present))
    if missing:
        raise InputError(f"data.classes: no images of class {missing[0]}; classes are {min(present)} to {max(present)}")
    if len(set(classes)) < 2:
        raise InputError(f"data.classes: {list(classes)} is one class, and at least two are needed")
    return sorted(set(classes))
