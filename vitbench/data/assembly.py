"""Put a data set together: labels checked, images in canonical order, splits drawn, facts stated.

Images are kept in the order of their digests. So one fingerprint means the same arrays in the same order, whatever the
names of the files, and every draw that goes by image index is a function of the content too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from vitbench.base.errors import InputError
from vitbench.data.copies import Candidate, SamePixels, canonical, group_numbers, group_sizes, same_pixels, two_labels
from vitbench.data.decode import decode
from vitbench.data.fingerprint import (
    BLOCKS,
    BY_NAME,
    COLUMNS,
    GROUPED,
    HASHED_BYTES,
    ON_WHITE,
    SCALED,
    TURNED,
    Digests,
    digest,
    fingerprint,
    texts,
)
from vitbench.data.image_columns import check_columns, columns_digest
from vitbench.data.scan import Scan, scan
from vitbench.data.source import Raw, Source
from vitbench.data.splits import held_out
from vitbench.data.types import Facts, ImageData, Split, aspects, join_splits
from vitbench.spec.trial import Scale

TEST_FRACTION = 0.2


@dataclass(frozen=True)
class Look:
    """What the images show beside their content's digests; cached with the facts.

    `img_size` is None if sizes differ or are not square; `in_chans` holds all images.
    """

    img_size: int | None
    in_chans: int
    num_turned: int = 0
    num_transparent: int = 0
    num_scaled: int = 0
    same_pixels: SamePixels = ()
    aspects: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True)
class OpenedSource:
    """The data set at hand: its name, its source, and what the source gave."""

    name: str
    source: Source
    raw: Raw
    by_name: bool
    num_classes: int

    def splits(self) -> dict[str, Split]:
        """The splits that the source has."""
        parts = {"train": self.raw.train, "val": self.raw.val, "test": self.raw.test}
        return {name: split for name, split in parts.items() if split is not None}


def assemble(name: str, source: Source, raw: Raw, total_bytes: int, cached: Facts | None = None) -> ImageData:
    """The data set in its canonical order, with its facts.

    `cached` facts of the same images save reading headers. Raises InputError for bad labels and unreadable images.
    """
    by_name = total_bytes > HASHED_BYTES and raw.train.images is None
    opened = OpenedSource(name, source, raw, by_name, num_classes(name, raw))
    for split_name, split in opened.splits().items():
        check_labels(split, opened.num_classes, f"{name}, {split_name}")
    check_columns(name, opened.splits(), raw.vocabulary, opened.num_classes)
    if cached is not None:
        scans = {key: scan(split, by_name=by_name, headers=False) for key, split in opened.splits().items()}
        look = Look(
            cached.img_size,
            cached.in_chans,
            cached.num_turned,
            cached.num_transparent,
            cached.num_scaled,
            cached.same_pixels,
            cached.aspects,
        )
        data = _in_order(opened, scans, look)
        if data.facts.fingerprint == cached.fingerprint:
            return data
    scans = {key: scan(split, by_name=by_name) for key, split in opened.splits().items()}
    return assemble_scanned(opened, scans)


def assemble_scanned(opened: OpenedSource, scans: dict[str, Scan]) -> ImageData:
    """The same, from scans with headers."""
    return _in_order(opened, scans, _look(opened, scans))


def _look(opened: OpenedSource, scans: dict[str, Scan]) -> Look:
    headers = [header for part in scans.values() for header in part.headers]
    sizes = Counter((header.height, header.width) for header in headers)
    height, width = next(iter(sizes))
    equal = len(sizes) == 1 and height == width and not opened.by_name
    return Look(
        height if equal else None,
        max(header.in_chans for header in headers),
        sum(header.turned for header in headers),
        sum(header.transparent for header in headers),
        sum(header.scaled for header in headers),
        () if opened.by_name else same_pixels(_candidates(opened, scans), decode=opened.raw.test is None),
        aspects(sizes),
    )


def _candidates(opened: OpenedSource, scans: dict[str, Scan]) -> Iterator[Candidate]:
    """The image files of all splits; images that are stored as pixels have equal digests if they are equal."""
    for key, split in opened.splits().items():
        if split.encoded is None:
            continue
        columns = zip(texts(scans[key].digests), scans[key].headers, scans[key].jpeg_keys, strict=True)
        for i, (content_digest, header, key_without_metadata) in enumerate(columns):
            pixels = _PixelDigest(split, i, scans[key].pixels)
            yield Candidate(content_digest, header, key_without_metadata, pixels)


@dataclass(frozen=True)
class _PixelDigest:
    """The digest of one image's pixels in colour, computed when it is needed and not at hand."""

    split: Split
    i: int
    at_hand: tuple[str, ...]

    def __call__(self) -> str:
        if self.at_hand:
            return self.at_hand[self.i]
        assert self.split.encoded is not None
        store, row = self.split.encoded.store, int(self.split.encoded.rows[self.i])
        return digest(decode(store.load(row), store.name(row), 3, self.split.encoded.scale).tobytes())


@dataclass(frozen=True)
class _Ordered:
    """Training and test images in the order of their digests; `grouped`: equal images decided the draw."""

    train: Split
    test: Split
    train_digests: Digests
    test_digests: Digests
    grouped: bool


def _in_order(opened: OpenedSource, scans: dict[str, Scan], look: Look) -> ImageData:
    """The splits in the order of their digests, drawn if the source has none, with their facts."""
    ordered = _ordered(opened, scans, look.same_pixels)
    train, test = ordered.train, ordered.test
    by_class = np.bincount(train.labels, minlength=opened.num_classes)
    held = None if train.val is None else np.bincount(train.labels[train.val], minlength=opened.num_classes)
    same = [canonical(values, look.same_pixels) for values in (ordered.train_digests, ordered.test_digests)]
    facts = Facts(
        name=opened.name,
        img_size=look.img_size,
        in_chans=look.in_chans,
        num_classes=opened.num_classes,
        class_names=opened.raw.class_names or tuple(map(str, range(opened.num_classes))),
        class_counts=tuple(by_class.tolist()),
        num_train=len(train),
        num_test=len(test),
        flip=opened.source.flip,
        fingerprint=_fingerprint(ordered, look),
        fingerprint_note=BY_NAME if opened.by_name else "",
        pixels_publishable=opened.source.pixels_publishable,
        num_test_in_train=None if opened.by_name else int(np.isin(same[1], same[0]).sum()),
        val_counts=() if held is None else tuple(held.tolist()),
        group_sizes=group_sizes(train.labels, train.groups),
        num_turned=look.num_turned,
        num_transparent=look.num_transparent,
        num_scaled=look.num_scaled,
        same_pixels=look.same_pixels,
        aspects=look.aspects,
        columns=tuple(sorted(train.columns)),
        vocabulary=opened.raw.vocabulary,
        num_words=train.columns["captions"].shape[1] if "captions" in train.columns else 0,
    )
    facts = replace(facts, notes=(*opened.raw.notes, *_notes(opened, ordered, look)))
    return ImageData(facts, train.with_channels(look.in_chans), test.with_channels(look.in_chans))


def _ordered(opened: OpenedSource, scans: dict[str, Scan], same: SamePixels) -> _Ordered:
    pool, pool_digests = _sorted(*_with_val(opened.raw, scans))
    if pool.rank is None:
        pool = replace(pool, groups=group_numbers(canonical(pool_digests, same)))
    grouped = pool.groups is not None
    if opened.raw.test is not None:
        test, test_digests = _sorted(opened.raw.test, scans["test"].digests)
        return _Ordered(pool, test, pool_digests, test_digests, grouped)
    drawn = held_out(pool, TEST_FRACTION, 0, "test")
    if not drawn.size:
        raise InputError(f"{opened.name}: no test split can be drawn: the images of every class are all equal")
    kept = np.setdiff1d(np.arange(len(pool)), drawn)
    train, test = pool.take(kept), replace(pool.take(drawn), groups=None, rank=None)
    if pool.rank is None:
        train = replace(train, groups=group_numbers(canonical(pool_digests[kept], same)))
    return _Ordered(train, test, pool_digests[kept], pool_digests[drawn], grouped)


def _with_val(raw: Raw, scans: dict[str, Scan]) -> tuple[Split, Digests]:
    """The training images, and behind them the validation images that the user set apart."""
    if raw.val is None:
        rank = np.arange(len(raw.train)) if raw.blocks else None
        return replace(raw.train, rank=rank), scans["train"].digests
    val = np.arange(len(raw.train) + len(raw.val)) >= len(raw.train)
    joined = replace(join_splits(raw.train, raw.val), val=val)
    return joined, np.concatenate([scans["train"].digests, scans["val"].digests])


def _sorted(split: Split, digests: Digests) -> tuple[Split, Digests]:
    """The split in the order of its digests, then labels (which differ for equal images only by mistake)."""
    order = np.lexsort((split.labels, digests))
    return split.take(order), digests[order]


def _fingerprint(ordered: _Ordered, look: Look) -> str:
    labels, val = ordered.train.labels, ordered.train.val
    held = np.zeros(len(labels), dtype=bool) if val is None else val
    splits = {
        "train": (labels[~held], ordered.train_digests[~held]),
        "val": (labels[held], ordered.train_digests[held]),
        "test": (ordered.test.labels, ordered.test_digests),
    }
    applied = {TURNED: look.num_turned, ON_WHITE: look.num_transparent, GROUPED: ordered.grouped}
    marks = [treatment for treatment, number in applied.items() if number]
    if look.num_scaled:
        marks.append(f"{SCALED} {_scale(ordered.train)}")
    if ordered.train.rank is not None:
        in_file_order = texts(ordered.train_digests[np.argsort(ordered.train.rank)])
        marks.append(f"{BLOCKS} {digest(' '.join(in_file_order).encode())}")
    if columns := columns_digest({"train": ordered.train, "test": ordered.test}):
        marks.append(f"{COLUMNS} {columns}")
    return fingerprint(splits, marks)


def _scale(split: Split) -> Scale | None:
    return None if split.encoded is None else split.encoded.scale


def _notes(opened: OpenedSource, ordered: _Ordered, look: Look) -> Iterator[str]:
    """What was done to the images, one line each."""
    if opened.raw.test is None and opened.raw.blocks:
        yield f"no test split: the last {TEST_FRACTION:.0%} of each class in file order are the test split"
    elif opened.raw.test is None:
        yield f"no test split: {TEST_FRACTION:.0%} of the images of each class, drawn once, are the test split"
    if look.num_scaled:
        yield f"{_counted(look.num_scaled, 'image')} of more than 8 bits scaled by {_scale(ordered.train)}"
    if look.num_turned:
        yield f"{_counted(look.num_turned, 'image')} turned upright as the EXIF orientation says"
    if look.num_transparent:
        yield f"{_counted(look.num_transparent, 'transparent image')} laid on white"
    pool = canonical(np.concatenate([ordered.train_digests, ordered.test_digests]), look.same_pixels)
    copies = len(pool) - len(np.unique(pool))
    if copies:
        drawn = "" if opened.raw.test is not None else "; equal images are on one side of the split"
        yield f"{_counted(copies, 'image')} equal to an earlier image of the set{drawn}"
    conflicts = two_labels(np.concatenate([ordered.train.labels, ordered.test.labels]), group_numbers(pool))
    if conflicts:
        first, second = (_name(ordered, int(i)) for i in conflicts[0][[0, -1]])
        yield f"{_counted(len(conflicts), 'image')} under two labels, e.g. {first} and {second}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _name(ordered: _Ordered, i: int) -> str:
    """Where image `i` of training and test images in one row comes from."""
    return ordered.train.name(i) if i < len(ordered.train) else ordered.test.name(i - len(ordered.train))


def num_classes(name: str, raw: Raw) -> int:
    """How many classes there are. Raises InputError without images, without labels, and with one class only."""
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
            f"{name}: labels must count from 0 without a gap; {missing[0]} is missing, {present[-1]} is present"
        )
    return len(present)


def check_labels(split: Split, num_classes: int, where: str) -> None:
    """Nothing; InputError with the count and the first image if labels are out of range (-100 too)."""
    if not len(split):
        raise InputError(f"{where}: no images")
    bad = np.flatnonzero((split.labels < 0) | (split.labels >= num_classes))
    if bad.size:
        raise InputError(
            f"{where}: {bad.size} of {len(split)} labels are not in 0..{num_classes - 1} "
            f"(they reach from {split.labels.min()} to {split.labels.max()}), "
            f"the first is {split.labels[bad[0]]}, of {split.name(int(bad[0]))}"
        )
