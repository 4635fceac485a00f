"""Images of one size in shards: files of raw pixels that all processes of a host map into memory and so share.

n images, H height, W width, C channels.
"""

from __future__ import annotations

import functools
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

    A file holds `uint8 [m, C, H, W]`, the order in which networks take pixels. Picklable, for loader processes: it
    holds names, and each process maps the files when it reads them.
    """

    paths: tuple[Path, ...]
    per_shard: int
    shape: tuple[int, int, int]
    rows: npt.NDArray[np.int64]

    def read(self, i: int) -> npt.NDArray[np.uint8]:
        """Image i, `uint8 [H, W, C]`, read-only. Raises InputError if the file is gone or has another size."""
        shard, place = divmod(int(self.rows[i]), self.per_shard)
        pixels: npt.NDArray[np.uint8] = _mapped(self.paths[shard], self.shape)[place]
        return pixels.transpose(1, 2, 0)

    def take(self, rows: npt.NDArray[np.int64]) -> Shards:
        """The images at `rows`, in that order."""
        return replace(self, rows=self.rows[rows])


@functools.lru_cache(maxsize=MAX_MAPPED)
def _mapped(path: Path, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    height, width, in_chans = shape
    try:
        return np.asarray(np.memmap(path, np.uint8, "r")).reshape(-1, in_chans, height, width)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: the prepared images cannot be read ({error})") from error
