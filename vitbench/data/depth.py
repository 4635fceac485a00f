"""Images of more than 8 bits per channel to 8 bits, by a rule that the user states in `data.scale`.

`bits`: whole numbers of 16 bits keep their upper 8 bits, fractions count from 0 to 1. `minmax`: the smallest value of
each image becomes 0 and its largest 255, so brightness does not compare between images. `none`: the values are taken
as they are, and must lie in 0..255.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vitbench.base.errors import InputError
from vitbench.spec.trial import Scale

NUMPY_MAGIC = b"\x93NUMPY"
ADVICE = "state how they become 8 bits with data.scale: bits, minmax or none"

Array = npt.NDArray[Any]


def stored_bits(image: Image.Image, data: bytes) -> int:
    """Bits per grey value as the file stores it: 8, 16, 32; 0 for fractions."""
    if image.mode == "F":
        return 0
    if image.mode == "I":
        return 16 if image.format in ("PPM", "PNG") else 32
    return 16 if image.mode.startswith("I;16") or loses_bits(image, data) else 8


def loses_bits(image: Image.Image, data: bytes) -> bool:
    """Whether Pillow opens deeper values as 8 bits and does not say so: colour, and grey with alpha, of 16 bits."""
    if image.mode.startswith(("I", "F")):
        return False
    if image.format == "JPEG2000":
        return _jpeg_2000_bits(data) > 8
    tiles = getattr(image, "tile", None)  # Only opened files have tiles.
    arguments = tiles[0].args if tiles else ()
    if image.format == "PPM":
        return isinstance(arguments, tuple) and any(isinstance(value, int) and value > 255 for value in arguments)
    raw_mode = arguments if isinstance(arguments, str) else next(iter(arguments or ()), "")
    return ";16" in str(raw_mode)


def is_deep_grey_with_alpha(data: bytes) -> bool:
    """Whether this is a PNG file of 16-bit grey with alpha, which Pillow opens as 8-bit colour with alpha."""
    return data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and tuple(data[24:26]) == (16, 4)


def _jpeg_2000_bits(data: bytes) -> int:
    """Bits of the first channel, from the size segment (ISO/IEC 15444-1, A.5.1); 8 where there is none."""
    start = data.find(b"\xff\x4f\xff\x51")
    return (data[start + 42] & 0x7F) + 1 if 0 <= start < len(data) - 42 else 8


def to_eight_bits(values: Array, scale: Scale | None, num_bits: int, name: str) -> npt.NDArray[np.uint8]:
    """`uint8` of the same shape. Raises InputError without a scale, and for values outside the scale's range."""
    if scale is None:
        raise InputError(f"{name}: values of {_kind(num_bits)} would be clipped; {ADVICE}")
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(low) or not math.isfinite(high):
        raise InputError(f"{name}: the image has values that are no numbers, or are infinite")
    if scale == "minmax":
        span = high - low
        return np.rint((values - low) * (255 / span)).astype(np.uint8) if span else np.zeros(values.shape, np.uint8)
    if scale == "bits" and num_bits == 32:
        raise InputError(f"{name}: whole numbers of 32 bits have no known range; use data.scale: minmax or none")
    limit = 255 if scale == "none" else 1 if num_bits == 0 else 65535
    if low < 0 or high > limit:
        raise InputError(f"{name}: values from {low:g} to {high:g}; data.scale: {scale} needs 0..{limit}")
    if scale == "bits" and num_bits == 16:
        return (values.astype(np.uint16) >> 8).astype(np.uint8)
    return np.rint(values * (255 / limit)).astype(np.uint8)


def bits_of_type(dtype: np.dtype[Any]) -> int:
    """What `stored_bits` says, for an array."""
    return 0 if dtype.kind == "f" else 8 * min(dtype.itemsize, 4)


def _kind(num_bits: int) -> str:
    return f"{num_bits}-bit whole numbers" if num_bits else "fractions"


def array_file(values: Array) -> bytes:
    """The array as the bytes of an .npy file; a function of its values, type and shape alone."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(values), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def read_array_file(data: bytes, name: str) -> Array:
    """The image `[H, W]` or `[H, W, 3]` of numbers that `array_file` wrote. Raises InputError on other bytes."""
    try:
        values: Array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{name}: not an array of pixels ({' '.join(str(error).split())})") from error
    if values.dtype.kind not in "uif" or values.ndim not in (2, 3) or not values.size:
        raise InputError(f"{name}: an array of {values.dtype} and shape {values.shape} is not an image")
    return values
