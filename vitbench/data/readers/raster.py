"""Numbers from a table's nested lists as the bytes of an image file, so that all images share one way to be decoded.

PGM and PPM hold 8-bit grey and colour images, .npy arrays all other numbers, which `data.scale` turns into 8 bits. The
bytes are a function of the numbers alone, so the data set's fingerprint is one, too.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from vitbench.base.errors import InputError
from vitbench.data.depth import array_file

Array = npt.NDArray[Any]


def to_image_shape(values: Array, where: str) -> Array:
    """`[H, W]` or `[H, W, 3]` from `[H, W]`, `[H, W, C]`, `[C, H, W]` (C of 1 or 3) or a flat square grey image."""
    shape = values.shape
    if values.ndim == 1 and isqrt(values.size) ** 2 == values.size:
        values = values.reshape(isqrt(values.size), -1)
    elif values.ndim == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3):
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != 3) or 0 in values.shape:
        raise InputError(
            f"{where}: lists of shape {shape}; [H, W], [H, W, 1], [H, W, 3], [1, H, W], [3, H, W] or a flat square "
            "image is needed"
        )
    return values


def image_file(values: Array, eight_bits: bool) -> bytes:
    """The bytes of an image file of these pixels `[H, W]` or `[H, W, 3]`; `eight_bits`: they are all in 0..255."""
    if not eight_bits:
        return array_file(values)
    kind = "P6" if values.ndim == 3 else "P5"
    return f"{kind} {values.shape[1]} {values.shape[0]} 255\n".encode() + values.astype(np.uint8).tobytes()
