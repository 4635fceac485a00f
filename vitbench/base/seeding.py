"""Randomness as pure functions of (seed, stream, epoch, image index); the arm never enters.

Two arms with one seed therefore see the same split, order, crops, flips and masks, on every device and for
every number of image-loading processes, and differences can be taken seed by seed.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

UInt64 = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def derive_seed(seed: int, stream: str) -> int:
    """A 63-bit seed for one named stream (`split`, `order`, `init/blocks.0.mlp.fc1.weight`, ...) of one trial seed."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def hash_indices(seed: int, stream: str, epoch: int, indices: npt.ArrayLike, lane: int = 0) -> UInt64:
    """One 64-bit hash per image index (any shape), by SplitMix64 over (seed, stream, epoch, lane, index)."""
    key = np.uint64(derive_seed(seed, f"{stream}/{epoch}/{lane}"))
    with np.errstate(over="ignore"):
        x = np.asarray(indices, dtype=np.uint64) * _GOLDEN + key
        for _ in range(2):
            x = (x ^ (x >> np.uint64(30))) * _MIX_1
            x = (x ^ (x >> np.uint64(27))) * _MIX_2
            x = x ^ (x >> np.uint64(31)) ^ key
    return x


def uniforms(seed: int, stream: str, epoch: int, indices: npt.ArrayLike, lanes: int = 1) -> npt.NDArray[np.float64]:
    """Draws in [0, 1), shape `indices.shape + (lanes,)`: one independent column per lane."""
    columns = [hash_indices(seed, stream, epoch, indices, lane) >> np.uint64(11) for lane in range(lanes)]
    return np.stack(columns, axis=-1).astype(np.float64) * 2.0**-53


def permutation(seed: int, stream: str, epoch: int, indices: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """`indices` in the order of their hashes: a subset is visited in the order of the whole, without the others."""
    members = np.asarray(indices, dtype=np.int64)
    return members[np.argsort(hash_indices(seed, stream, epoch, members), kind="stable")]
