"""Read arrays of numbers from MATLAB 5 files, which is enough for SVHN, with a bounds check of every slice.

scipy's reader crashes the process (segmentation fault) on some damaged files. This one reads only numbers.
Source: MathWorks, "MAT-File Format", level 5.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

HEADER_BYTES = 128
MATRIX, COMPRESSED = 14, 15
TYPES = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
MAX_BYTES = 1_000_000_000
"""Four times the training images. An element that unpacks to more is refused as a decompression bomb."""

Array = npt.NDArray[Any]


def read_arrays(content: bytes) -> dict[str, Array]:
    """The arrays of a little-endian MATLAB 5 file by name. Raises ValueError on anything else."""
    if content[124:HEADER_BYTES] != b"\0\1IM":
        raise ValueError("not a little-endian MATLAB 5 file")
    out: dict[str, Array] = {}
    for kind, body in _elements(content[HEADER_BYTES:]):
        if kind == COMPRESSED:
            unpacker = zlib.decompressobj()
            try:
                ((kind, body),) = _elements(unpacker.decompress(body, MAX_BYTES))
            except zlib.error as error:
                raise ValueError(f"a damaged element ({error})") from error
            if unpacker.unconsumed_tail:
                raise ValueError(f"more than {MAX_BYTES:,} bytes once unpacked")
        if kind != MATRIX:
            raise ValueError(f"an element of type {kind}, which is not an array")
        name, array = _matrix(body)
        out[name] = array
    return out


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, bytes) of consecutive elements, each padded to eight bytes."""
    place = 0
    while place < len(content):
        if place + 8 > len(content):
            raise ValueError("cut short")
        kind, length = struct.unpack_from("<II", content, place)
        start = place + 8
        if kind >> 16:  # A small element: both numbers are in one word, with up to four bytes after it.
            kind, length, start = kind & 0xFFFF, kind >> 16, place + 4
        if start + length > len(content) or (start == place + 4 and length > 4):
            raise ValueError("cut short")
        yield kind, content[start : start + length]
        place = start + length if kind == COMPRESSED else (start + length + 7) // 8 * 8


def _matrix(body: bytes) -> tuple[str, Array]:
    """Name and array of one matrix element, which holds flags, sizes, name, and values by column."""
    parts = list(_elements(body))
    if len(parts) != 4 or parts[1][0] != 5 or parts[3][0] not in TYPES:
        raise ValueError("an element that is not an array of real numbers")
    shape = np.frombuffer(parts[1][1], "<i4").tolist()
    values = np.frombuffer(parts[3][1], TYPES[parts[3][0]])
    if min(shape, default=-1) < 0 or prod(shape) != len(values):
        raise ValueError(f"{len(values)} values for an array of shape {shape}")
    return parts[2][1].decode("latin1"), values.reshape(shape, order="F")
