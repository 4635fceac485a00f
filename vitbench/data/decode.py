"""Bytes of an image file to pixels, with one clear line where they are no image."""

from __future__ import annotations

import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image

from vitbench.base.errors import InputError
from vitbench.spec.trial import sides

MAX_PIXELS = 50_000_000
"""Above this a file is taken for a decompression bomb (Pillow only warns up to 179 million)."""

GREY_MODES = ("1", "L", "LA")
DEEP_MODES = ("I", "F")


def _open(data: bytes, name: str) -> Image.Image:
    """The image, its pixels not yet decoded."""
    if not data:
        raise InputError(f"{name}: the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # Pillow's plug-ins raise what they like on bad bytes
        raise InputError(f"{name}: not an image that can be read (starts with {data[:12]!r})") from error
    if image.width * image.height > MAX_PIXELS:
        raise InputError(f"{name}: {image.width} x {image.height} is more than {MAX_PIXELS:,} pixels")
    if image.mode.startswith(DEEP_MODES):
        raise InputError(f"{name}: pixels of mode {image.mode} would be clipped; 8 bits a channel are needed")
    return image


def header(data: bytes, name: str) -> tuple[int, int, int]:
    """Height, width and channels (1 grey, 3 otherwise), without decoding the pixels."""
    image = _open(data, name)
    return image.height, image.width, 1 if image.mode in GREY_MODES else 3


def decode(data: bytes, name: str, in_chans: int) -> npt.NDArray[np.uint8]:
    """Pixels `uint8 [H, W, in_chans]`; transparency is dropped. InputError names the file that cannot be decoded."""
    image = _open(data, name)
    try:
        pixels = np.asarray(image.convert("L" if in_chans == 1 else "RGB"))
    except Exception as error:  # a truncated or damaged body, in any of the plug-ins' words
        raise InputError(f"{name}: the image is damaged ({error})") from error
    return pixels[:, :, None] if in_chans == 1 else pixels


def centre_crop(pixels: npt.NDArray[np.uint8], img_size: int | tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The largest central box of the target's shape, resized to `[H, W, C]` by antialiased bilinear interpolation.

    Same as resizing until the image covers the target and cropping the centre, in one interpolation instead of two
    roundings. `img_size` is one side of a square, or (height, width).
    """
    height, width = pixels.shape[:2]
    target_height, target_width = sides(img_size)
    if (height, width) == (target_height, target_width):
        return pixels
    box_height = min(height, width * target_height / target_width)
    box_width = min(width, height * target_width / target_height)
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return cut(pixels, (left, top, left + box_width, top + box_height), img_size)


def cut(
    pixels: npt.NDArray[np.uint8], box: tuple[float, float, float, float], img_size: int | tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """The box (left, top, right, bottom, in pixels, whole or not), resized as `centre_crop` does."""
    in_chans, (height, width) = pixels.shape[2], sides(img_size)
    image = Image.fromarray(pixels[:, :, 0] if in_chans == 1 else pixels)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box))
    return resized.reshape(height, width, in_chans)
