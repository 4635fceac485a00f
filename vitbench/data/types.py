"""The output of a data source: labelled images, decoded or as files, and the facts that a plan needs.

n images, H height, W width, C channels (1 or 3).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vitbench.data.decode import centre_crop, decode
from vitbench.data.shards import Shards
from vitbench.spec.trial import Scale, sides

Pixels = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

STATS_BLOCK = 1024


@dataclass(frozen=True)
class DataOptions:
    """The folders of images, and how images are read; no option here changes a result.

    `data_dir` None is ./data; `cache_dir` None is $VITBENCH_CACHE_DIR or ~/.cache/vitbench. `stream`: read images on
    demand even if they fit in memory. `num_workers`: image-loading processes that then read ahead (0: none).
    """

    data_dir: Path | None = None
    download: bool = False
    cache_dir: Path | None = None
    stream: bool = False
    num_workers: int = 0

    @property
    def folder(self) -> Path:
        """The folder of named data sets, also for downloads."""
        return self.data_dir or Path("data")


@dataclass(frozen=True)
class Counts:
    """Training images per class, from which the number of validation images follows.

    `groups` has (class, size, number) for every class with equal images: `number` groups of `size` equal images. Images
    with two labels are in no group and are never held out. `val` counts the images of the user's validation split, and
    is empty without one.
    """

    images: tuple[int, ...]
    groups: tuple[tuple[int, int, int], ...] = ()
    val: tuple[int, ...] = ()


@dataclass(frozen=True)
class Facts:
    """Facts about a data set that a plan needs.

    `img_size` is None if sizes differ or are not square. `class_counts` counts the training images, including those of
    a validation split. `num_test_in_train`: test images whose content is also in the training images; None if they were
    not compared. `same_pixels`: groups of digests of different files with equal pixels. `notes`: lines for the user
    about splits and files.
    """

    name: str
    img_size: int | None
    in_chans: int
    num_classes: int
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    num_train: int
    num_test: int
    flip: bool
    fingerprint: str
    fingerprint_note: str
    pixels_publishable: bool
    num_test_in_train: int | None = None
    aspects: tuple[tuple[float, int], ...] = ()
    """How many images have each ratio of width to height, to the nearest 5%; empty: unknown."""
    val_counts: tuple[int, ...] = ()
    group_sizes: tuple[tuple[int, int, int], ...] = ()
    num_turned: int = 0
    num_transparent: int = 0
    num_scaled: int = 0
    same_pixels: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    """What the images have beside their labels; see `vitbench.data.image_columns`."""
    vocabulary: tuple[str, ...] = ()
    num_words: int = 0
    """The words of all captions, and how many a caption has."""

    @property
    def counts(self) -> Counts:
        """The training images per class, from which validation images are drawn."""
        return Counts(self.class_counts, self.group_sizes, self.val_counts)


class FileStore(Protocol):
    """Image files (PNG, JPEG, ...) by row: on disk, in a table, in a library. Picklable, for loader processes."""

    def name(self, row: int) -> str:
        """The place of the image, for messages."""

    def identity(self, row: int) -> str:
        """Name and size, which represent the content if there is too much of it to read."""

    def load(self, row: int) -> bytes:
        """The bytes of the file."""


@dataclass(frozen=True)
class JoinedFiles:
    """The files of two stores with consecutive rows; those of `second` begin at row `start`."""

    first: FileStore
    second: FileStore
    start: int

    def _place(self, row: int) -> tuple[FileStore, int]:
        return (self.first, row) if row < self.start else (self.second, row - self.start)

    def name(self, row: int) -> str:
        """The place of the image, for messages."""
        store, place = self._place(row)
        return store.name(place)

    def identity(self, row: int) -> str:
        """Name and size."""
        store, place = self._place(row)
        return store.identity(place)

    def load(self, row: int) -> bytes:
        """The bytes of the file."""
        store, place = self._place(row)
        return store.load(place)


@dataclass(frozen=True)
class Encoded:
    """Rows of a file store, decoded on reading."""

    store: FileStore
    rows: Ints
    in_chans: int = 3
    scale: Scale | None = None

    def read(self, i: int) -> Pixels:
        """Image i, `uint8 [H, W, C]`."""
        row = int(self.rows[i])
        return decode(self.store.load(row), self.store.name(row), self.in_chans, self.scale)


@dataclass(frozen=True)
class Split:
    """Images and labels `int64 [n]`. Images are decoded (`images`, all of one size), files (`encoded`), or prepared
    for one size (`shards`).

    `boxes` (`int64 [n, 4]`: left, top, right, bottom, right and bottom excluded) are the places of the objects.
    `columns` are arrays `[n, ...]` by name, as in `vitbench.data.image_columns`.
    `groups` (`int64 [n]`) is equal for equal images, `val` (`bool [n]`) marks the user's validation images, and `rank`
    (`int64 [n]`) is the place in file order if splits are drawn as blocks. Each may be None.
    """

    labels: Ints
    images: Pixels | None = None
    encoded: Encoded | None = None
    boxes: Ints | None = None
    groups: Ints | None = None
    val: npt.NDArray[np.bool_] | None = None
    rank: Ints | None = None
    shards: Shards | None = None
    columns: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_chans(self) -> int:
        """Channels of every image, 1 or 3."""
        if self.images is not None:
            return int(self.images.shape[-1])
        if self.shards is not None:
            return self.shards.shape[-1]
        assert self.encoded is not None
        return self.encoded.in_chans

    def name(self, i: int) -> str:
        """The place of image i, for messages."""
        return f"image {i}" if self.encoded is None else self.encoded.store.name(int(self.encoded.rows[i]))

    def read(self, i: int) -> Pixels:
        """Image i, `uint8 [H, W, C]`. Raises InputError with the file that cannot be decoded."""
        if self.images is not None:
            image: Pixels = self.images[i]
            return image
        if self.shards is not None:
            return self.shards.read(i)
        assert self.encoded is not None
        return self.encoded.read(i)

    def take(self, rows: Ints) -> Split:
        """The images at `rows`, in that order."""
        return Split(
            self.labels[rows],
            None if self.images is None else self.images[rows],
            None if self.encoded is None else replace(self.encoded, rows=self.encoded.rows[rows]),
            None if self.boxes is None else self.boxes[rows],
            None if self.groups is None else self.groups[rows],
            None if self.val is None else self.val[rows],
            None if self.rank is None else self.rank[rows],
            None if self.shards is None else self.shards.take(rows),
            {name: values[rows] for name, values in self.columns.items()},
        )

    def with_channels(self, in_chans: int) -> Split:
        """The same images with 1 or 3 channels; colour becomes grey. Images are prepared for one number of channels."""
        assert self.shards is None or self.in_chans == in_chans
        if self.encoded is not None:
            return replace(self, encoded=replace(self.encoded, in_chans=in_chans))
        if self.images is None:
            return self
        return replace(self, images=grey(self.images)) if (in_chans, self.in_chans) == (1, 3) else self


def join_splits(first: Split, second: Split) -> Split:
    """The images of both, in order; both are pixels of one size, or both are files."""
    labels = np.concatenate([first.labels, second.labels])
    if first.images is not None and second.images is not None:
        return Split(labels, np.concatenate([first.images, second.images]))
    assert first.encoded is not None
    assert second.encoded is not None
    start = int(first.encoded.rows.max(initial=-1)) + 1
    store = JoinedFiles(first.encoded.store, second.encoded.store, start)
    rows = np.concatenate([first.encoded.rows, second.encoded.rows + start])
    return Split(labels, encoded=replace(first.encoded, store=store, rows=rows))


@dataclass(frozen=True)
class ImageData:
    """A data set: its facts and its two splits. `stamp` stands for the sizes and times of its files."""

    facts: Facts
    train: Split
    test: Split
    stamp: str = ""

    def with_channels(self, in_chans: int) -> ImageData:
        """The same images with 1 or 3 channels."""
        facts = replace(self.facts, in_chans=in_chans)
        return replace(
            self, facts=facts, train=self.train.with_channels(in_chans), test=self.test.with_channels(in_chans)
        )


def grey(colour: Pixels) -> Pixels:
    """Luma `uint8 [..., 1]` of colours `uint8 [..., 3]`: 0.299 red + 0.587 green + 0.114 blue, rounded as in Pillow.

    Source: ITU-R BT.601. The sum is in 16-bit fixed point, so that decoded files and arrays agree.
    """
    weights = np.array([19595, 38470, 7471], dtype=np.uint32)
    luma: Pixels = ((colour.astype(np.uint32) @ weights + 0x8000) >> 16).astype(np.uint8)
    return luma[..., None]


def resident(split: Split, img_size: int | tuple[int, int]) -> Pixels:
    """All images as `uint8 [n, H, W, C]`; images of other sizes pass `centre_crop`."""
    if split.images is not None and split.images.shape[1:3] == sides(img_size):
        return split.images
    images = np.empty((len(split), *sides(img_size), split.in_chans), dtype=np.uint8)
    for i in range(len(split)):
        images[i] = centre_crop(split.read(i), img_size)
    return images


def aspects(sizes: Mapping[tuple[int, int], int]) -> tuple[tuple[float, int], ...]:
    """Counts per (height, width) as counts per aspect, which is width / height to the nearest 5%."""
    counts: dict[float, int] = {}
    for (height, width), count in sorted(sizes.items()):
        aspect = round(1.05 ** round(math.log(width / height, 1.05)), 4)
        counts[aspect] = counts.get(aspect, 0) + count
    return tuple(sorted(counts.items()))


def cropped_share(facts: Facts, img_size: int | tuple[int, int]) -> float:
    """The share of the images' area, on average, that `centre_crop` removes; 0 if aspects are unknown."""
    height, width = sides(img_size)
    target, total = width / height, sum(count for _, count in facts.aspects)
    kept = sum(count * min(aspect / target, target / aspect) for aspect, count in facts.aspects)
    return 1 - kept / total if total else 0.0


def fits_in_memory(facts: Facts, img_size: int | tuple[int, int], memory_bytes: int | None = None) -> bool:
    """True if both splits, decoded at `img_size`, take at most a quarter of the memory (None: this machine's)."""
    if memory_bytes is None:
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = (facts.num_train + facts.num_test) * math.prod(sides(img_size)) * facts.in_chans
    return needed <= memory_bytes // 4


def channel_stats(images: Pixels) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each channel, `[C]` each, of images `uint8 [n, H, W, C]` as values in [0, 1]."""
    return moments(histogram(images))


def histogram(images: Pixels) -> Ints:
    """The count of each level per channel, `[C, 256]`; `images` is `uint8 [n, H, W, C]`."""
    counts = np.zeros((images.shape[-1], 256), dtype=np.int64)
    for start in range(0, len(images), STATS_BLOCK):  # In blocks: bincount needs eight bytes per pixel.
        for channel, count in enumerate(counts):
            count += np.bincount(images[start : start + STATS_BLOCK, ..., channel].ravel(), minlength=256)
    return counts


def moments(counts: Ints) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each channel, `[C]` each, of pixels in [0, 1], from their histogram `[C, 256]`.

    Counts are exact, so that order and blocks change no bit. A constant channel has std 1.
    """
    levels = np.arange(256) / 255.0
    mean = counts @ levels / counts.sum(axis=1)
    variance = (counts * (levels - mean[:, None]) ** 2).sum(axis=1) / counts.sum(axis=1)
    return mean, np.where(variance > 0, np.sqrt(variance), 1.0)
