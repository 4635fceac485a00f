"""Turn the bytes of an image file into upright, opaque pixels; one clear line if they are not an image.

An EXIF orientation is applied, transparent pixels are laid on white, and deep pixels become 8 bits by a stated scale.
Each changes what a trial computes, so `read_header` reports it and the data set's fingerprint says that it was applied.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from vitbench.base.errors import InputError
from vitbench.data.depth import (
    ADVICE,
    NUMPY_MAGIC,
    bits_of_type,
    is_deep_grey_with_alpha,
    loses_bits,
    read_array_file,
    stored_bits,
    to_eight_bits,
)
from vitbench.spec.trial import Scale, sides

MAX_PIXELS = 50_000_000
"""A larger file is refused as a decompression bomb (Pillow only warns up to 179 million)."""

GREY_MODES = ("1", "L", "LA")
GREY_SPREAD = {"GIF": 0, "WEBP": 1}
"""Largest difference of an image's channels up to which it is grey, in formats that may store grey as colour.

A palette is compared exactly. Lossy WebP returns grey pixels with channels that differ by 1.
"""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation; 1 and unknown values change nothing."""
SWAPS_SIDES = (5, 6, 7, 8)

PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"Orientation")
"""One of these stands in a PNG file with EXIF data; to look for the tag in one without would decode the whole file."""


class Header(NamedTuple):
    """What is known of an image before it is used: its size upright, and 1 channel if it is grey, else 3."""

    height: int
    width: int
    in_chans: int
    orientation: int = 1
    transparent: bool = False
    scaled: bool = False

    @property
    def turned(self) -> bool:
        """Whether an EXIF orientation changes the pixels."""
        return self.orientation in TURNS


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
    except Exception as error:  # Pillow's plug-ins raise many kinds of error on bad bytes
        raise InputError(f"{name}: not an image that can be read (starts with {data[:12]!r})") from error
    if image.width * image.height > MAX_PIXELS:
        raise InputError(f"{name}: {image.width} x {image.height} is more than {MAX_PIXELS:,} pixels")
    return image


@dataclass(frozen=True)
class _Opened:
    """An image as Pillow opened it, its opaque pixels of 8 bits, and what was done to get them."""

    image: Image.Image
    opaque: Image.Image
    grey: bool
    transparent: bool = False
    scaled: bool = False

    def header(self, data: bytes) -> Header:
        """What `read_header` returns."""
        orientation = _orientation(self.image, data)
        width, height = self.image.size
        if orientation in SWAPS_SIDES:
            width, height = height, width
        return Header(height, width, 1 if self.grey else 3, orientation, self.transparent, self.scaled)


def read_header(data: bytes, name: str, scale: Scale | None = None) -> Header:
    """Size, channels, and what has to be done; only formats with transparency, palettes and deep pixels are decoded."""
    return _decoded(data, name, scale).header(data)


def decode(data: bytes, name: str, in_chans: int, scale: Scale | None = None) -> npt.NDArray[np.uint8]:
    """Pixels `uint8 [H, W, in_chans]`, upright and opaque. InputError names the file that cannot be decoded."""
    return decode_with_header(data, name, in_chans, scale)[1]


def decode_with_header(
    data: bytes, name: str, in_chans: int, scale: Scale | None = None
) -> tuple[Header, npt.NDArray[np.uint8]]:
    """The header as well, for no more than the price of `decode`."""
    opened = _decoded(data, name, scale)
    try:
        header = opened.header(data)
        upright = opened.opaque.convert("L" if in_chans == 1 else "RGB")
        if header.turned:
            upright = upright.transpose(TURNS[header.orientation])
        pixels = np.asarray(upright)
    except Exception as error:  # a truncated or damaged body, in the words of any plug-in
        raise InputError(f"{name}: the image is damaged ({error})") from error
    return header, pixels[:, :, None] if in_chans == 1 else pixels


def _decoded(data: bytes, name: str, scale: Scale | None) -> _Opened:
    """The image with opaque 8-bit pixels, decoded as far as that needs it."""
    if data.startswith(NUMPY_MAGIC):
        values = read_array_file(data, name)
        image = Image.fromarray(to_eight_bits(values, scale, bits_of_type(values.dtype), name))
        return _Opened(image, image, grey=values.ndim == 2, scaled=True)
    image = _open(data, name)
    try:
        num_bits = stored_bits(image, data)
        if num_bits != 8:
            return _deep(image, data, name, scale, num_bits)
        opaque = _on_white(image)
        return _Opened(image, opaque, _is_grey(image, opaque), transparent=opaque is not image)
    except InputError:
        raise
    except Exception as error:  # a truncated or damaged body, in the words of any plug-in
        raise InputError(f"{name}: the image is damaged ({error})") from error


def _deep(image: Image.Image, data: bytes, name: str, scale: Scale | None, num_bits: int) -> _Opened:
    """An image of more than 8 bits, scaled. Of 16-bit colour and alpha, Pillow keeps the upper 8 bits only."""
    if not loses_bits(image, data):
        eight_bits = to_eight_bits(np.asarray(image), scale, num_bits, name)
        return _Opened(image, Image.fromarray(eight_bits), grey=True, scaled=True)
    if scale is None:
        raise InputError(f"{name}: values of 16-bit whole numbers would be clipped; {ADVICE}")
    if scale != "bits":
        raise InputError(f"{name}: of 16-bit colour or alpha only the upper 8 bits are read; use data.scale: bits")
    opaque = _on_white(image)
    grey = is_deep_grey_with_alpha(data) or _is_grey(image, opaque)
    return _Opened(image, opaque, grey, transparent=opaque is not image, scaled=True)


def _is_grey(image: Image.Image, opaque: Image.Image) -> bool:
    """Whether the image has no colour: by its mode, or, where the format may store grey as colour, by its pixels."""
    if image.mode in GREY_MODES:
        return True
    if image.mode not in ("P", "PA") and image.format not in GREY_SPREAD:
        return False
    pixels = np.asarray(opaque.convert("RGB")).astype(np.int16)
    return int(np.ptp(pixels, axis=2).max()) <= GREY_SPREAD.get(image.format or "", 0)


def _orientation(image: Image.Image, data: bytes) -> int:
    """The EXIF orientation, 1 if there is none. Pillow turns TIFF files itself."""
    if image.format == "TIFF" or (image.format == "PNG" and not any(mark in data for mark in PNG_EXIF)):
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged tag; the pixels may still be sound
        return 1
    return orientation if isinstance(orientation, int) else 1


def _on_white(image: Image.Image) -> Image.Image:
    """The image laid on white; the image itself if it is opaque everywhere."""
    if not image.has_transparency_data:
        return image
    layered = image.convert("RGBA")
    lowest, _ = layered.getchannel("A").getextrema()
    if lowest == 255:
        return image
    white = Image.new("RGBA", layered.size, "white")
    white.alpha_composite(layered)
    return white.convert("RGB")


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
