"""The order, the splits and the fingerprint of a data set: functions of what the images are, not of where they lie.

Images are kept in the order of their hashes. So one fingerprint means the same arrays in the same order, whatever the
files are called, and every draw that goes by image index is a function of the content too.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vitbench.base.errors import InputError
from vitbench.data.decode import header
from vitbench.data.source import Raw, Source
from vitbench.data.splits import held_out
from vitbench.data.types import Facts, ImageData, Ints, Split, aspects

HASHED_BYTES = 4 * 2**30
"""Sets above this are told apart by the names and sizes of their files."""
BY_NAME = "by names and sizes, as the files are above 4 GiB"
PROBED_HEADERS = 256
TEST_FRACTION = 0.2

Digests = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Geometry:
    """The size that all images share (None: none, or not square) and the channels that hold them all."""

    img_size: int | None
    in_chans: int
    aspects: tuple[tuple[float, int], ...] = ()


def assemble(name: str, source: Source, raw: Raw, total_bytes: int, known: Facts | None = None) -> ImageData:
    """The data set in its canonical order, with its facts; `known` facts of the same images save reading headers."""
    by_name = total_bytes > HASHED_BYTES and raw.train.images is None
    num_classes = _num_classes(name, raw)
    check_labels(raw.train, num_classes, f"{name}, train")
    train, train_digests = _ordered(raw.train, digests(raw.train, by_name))
    if raw.test is None:
        drawn = held_out(train.labels, TEST_FRACTION, 0, "test")
        kept = np.setdiff1d(np.arange(len(train)), drawn)
        (test, test_digests), (train, train_digests) = [(train.take(r), train_digests[r]) for r in (drawn, kept)]
    else:
        check_labels(raw.test, num_classes, f"{name}, test")
        test, test_digests = _ordered(raw.test, digests(raw.test, by_name))
    identity = fingerprint({"train": (train.labels, train_digests), "test": (test.labels, test_digests)})
    fresh = known if known is not None and known.fingerprint == identity else None
    shape = (
        Geometry(fresh.img_size, fresh.in_chans, fresh.aspects) if fresh else geometry((train, test), partial=by_name)
    )
    facts = Facts(
        name=name,
        img_size=shape.img_size,
        in_chans=shape.in_chans,
        num_classes=num_classes,
        class_names=raw.class_names or tuple(map(str, range(num_classes))),
        class_counts=tuple(np.bincount(train.labels, minlength=num_classes).tolist()),
        num_train=len(train),
        num_test=len(test),
        flip=source.flip,
        fingerprint=identity,
        fingerprint_note=BY_NAME if by_name else "",
        pixels_publishable=source.pixels_publishable,
        num_test_in_train=None if by_name else int(np.isin(test_digests, train_digests).sum()),
        aspects=shape.aspects,
    )
    return ImageData(facts, train.with_channels(shape.in_chans), test.with_channels(shape.in_chans))


def digests(split: Split, by_name: bool = False) -> Digests:
    """One sha256 an image, `[n]`: of its file, of shape and pixels where it is decoded, or `by_name`."""
    if split.images is not None:
        prefix = repr(split.images.shape[1:]).encode()
        parts: Iterable[bytes] = (prefix + image.tobytes() for image in split.images)
    else:
        assert split.encoded is not None
        store, rows = split.encoded.store, map(int, split.encoded.rows)
        parts = (store.identity(row).encode() if by_name else store.load(row) for row in rows)
    return np.array([hashlib.sha256(part).hexdigest() for part in parts], dtype="U64")


def fingerprint(splits: dict[str, tuple[Ints, Digests]]) -> str:
    """sha256 over the sorted lines (split, label, digest)."""
    lines = [
        f"{split} {label} {digest}\n"
        for split, (labels, own) in splits.items()
        for label, digest in zip(labels.tolist(), own.tolist(), strict=True)
    ]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _ordered(split: Split, own: Digests) -> tuple[Split, Digests]:
    """The split in the order of its digests, then labels (which differ for equal images only by mistake)."""
    order = np.lexsort((split.labels, own))
    return split.take(order), own[order]


def geometry(splits: tuple[Split, ...], partial: bool) -> Geometry:
    """Size and channels from the headers of all images; of a set too large to read, channels from the first few."""
    arrays = [split.images for split in splits if split.images is not None]
    shapes = Counter({array.shape[1:]: len(array) for array in arrays}) if arrays else _header_shapes(splits, partial)
    sizes: Counter[tuple[int, int]] = Counter()
    for (height, width, _), count in shapes.items():
        sizes[height, width] += count
    height, width = next(iter(sizes))
    equal = len(sizes) == 1 and height == width and not partial
    return Geometry(height if equal else None, max(in_chans for *_, in_chans in shapes), aspects(sizes))


def _header_shapes(splits: tuple[Split, ...], partial: bool) -> Counter[tuple[int, ...]]:
    shapes: Counter[tuple[int, ...]] = Counter()
    for split in splits:
        assert split.encoded is not None
        rows = split.encoded.rows[: PROBED_HEADERS if partial else None]
        store = split.encoded.store
        shapes.update(header(store.load(row), store.name(row)) for row in map(int, rows))
    return shapes


def _num_classes(name: str, raw: Raw) -> int:
    """How many classes; InputError where there are no images, no labels, or one class only."""
    labels = raw.train.labels
    if not len(labels):
        raise InputError(f"{name}: the training split has no images")
    if (labels == -1).all():
        raise InputError(f"{name}: the training images have no labels (all are -1)")
    present = np.unique(labels[labels >= 0])
    if len(present) < 2:
        raise InputError(f"{name}: all training images are of one class, and at least two are needed")
    if raw.class_names:
        return len(raw.class_names)
    missing = np.setdiff1d(np.arange(len(present)), present)
    if missing.size:
        raise InputError(
            f"{name}: labels must count from 0 without a gap; {missing[0]} is missing, {present[-1]} is there"
        )
    return len(present)


def check_labels(split: Split, num_classes: int, where: str) -> None:
    """Nothing; InputError with the count and the first image where labels are out of range (-100 too)."""
    if not len(split):
        raise InputError(f"{where}: no images")
    bad = np.flatnonzero((split.labels < 0) | (split.labels >= num_classes))
    if bad.size:
        raise InputError(
            f"{where}: {bad.size} of {len(split)} labels are not in 0..{num_classes - 1} "
            f"(they reach from {split.labels.min()} to {split.labels.max()}), "
            f"the first is {split.labels[bad[0]]}, of {split.name(int(bad[0]))}"
        )
