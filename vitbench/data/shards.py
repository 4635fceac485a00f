"""Decoded images in shards: files of raw pixels that all processes of a host map into memory and so share.

n images, H height, W width, C channels.
"""

from __future__ import annotations

import functools
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vitbench.base.errors import InputError

MAX_MAPPED = 256
"""Shards that a process keeps mapped. Python keeps a file open for each map, and 1,024 open files are a usual limit."""


@dataclass(frozen=True)
class Shards:
    """Images of `shape` (H, W, C): `per_shard` in each file, fewer in the last; `rows` (`int64 [n]`) are those at hand.

    A file holds `uint8 [m, C, H, W]`, the order in which networks take pixels. Whole images have H = W = 0: a file then
    holds m and m pairs (height, width) as `uint32`, and the pixels `uint8 [height, width, C]` of each, the order in
    which crops are cut. Picklable, for loader processes: it holds names, and each process maps the files when it reads.
    """

    paths: tuple[Path, ...]
    per_shard: int
    shape: tuple[int, int, int]
    rows: npt.NDArray[np.int64]

    def read(self, i: int) -> npt.NDArray[np.uint8]:
        """Image i, `uint8 [H, W, C]`, read-only. Raises InputError if the file is gone or has another size."""
        shard, place = divmod(int(self.rows[i]), self.per_shard)
        if self.is_whole:
            return _mapped_whole(self.paths[shard], self.shape[-1]).read(place)
        pixels: npt.NDArray[np.uint8] = _mapped(self.paths[shard], self.shape)[place]
        return pixels.transpose(1, 2, 0)

    @property
    def is_whole(self) -> bool:
        """Whether images have their original sizes."""
        return self.shape[0] == 0

    def take(self, rows: npt.NDArray[np.int64]) -> Shards:
        """The images at `rows`, in that order."""
        return replace(self, rows=self.rows[rows])


@dataclass(frozen=True)
class _WholeImages:
    """One file of whole images: their sizes `[m, 2]`, the first byte of each, and all pixels."""

    sizes: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8]

    def read(self, place: int) -> npt.NDArray[np.uint8]:
        height, width = self.sizes[place]
        return self.pixels[self.starts[place] : self.starts[place + 1]].reshape(height, width, -1)


def whole_header(shapes: Sequence[tuple[int, ...]]) -> bytes:
    """How a file of whole images with these shapes begins."""
    return np.array([len(shapes), *(side for shape in shapes for side in shape[:2])], "<u4").tobytes()


def _bytes_of(path: Path) -> npt.NDArray[np.uint8]:
    """The bytes of a file, mapped read-only. Cheaper than `np.memmap`: a large set maps a file for every other read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return np.frombuffer(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ), np.uint8)
    finally:
        os.close(descriptor)


@functools.lru_cache(maxsize=MAX_MAPPED)
def _mapped_whole(path: Path, in_chans: int) -> _WholeImages:
    try:
        content = _bytes_of(path)
        count = int(content[:4].view("<u4")[0])
        sizes = content[4 : 4 + 8 * count].view("<u4").reshape(count, 2).astype(np.int64)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: the prepared images cannot be read ({error})") from error
    starts = 4 + 8 * count + np.concatenate([[0], np.cumsum(sizes.prod(axis=1) * in_chans)])
    return _WholeImages(sizes, starts, content)


@functools.lru_cache(maxsize=MAX_MAPPED)
def _mapped(path: Path, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    height, width, in_chans = shape
    try:
        return _bytes_of(path).reshape(-1, in_chans, height, width)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: the prepared images cannot be read ({error})") from error
