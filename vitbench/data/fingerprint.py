"""The fingerprint of a data set: a function of what the images are, not of where they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt

from vitbench.data.types import Ints

HASHED_BYTES = 4 * 2**30
"""Larger sets are told apart by the names and sizes of their files."""
BY_NAME = "by names and sizes, as the files are above 4 GiB"

TURNED, ON_WHITE, GROUPED = "turned upright by EXIF", "transparency laid on white", "equal images on one side"
SCALED, BLOCKS = "scaled to 8 bits by", "split by blocks of the images in the order"
COLUMNS = "with columns"
"""What was done to some of the images, how they were split, and their columns; part of the fingerprint of the sets that
it concerns, and of no other."""

Digests = npt.NDArray[np.bytes_]
"""Hexadecimal digests, `S64 [n]`: a quarter of the memory of text."""


def digest(content: bytes) -> str:
    """The sha256 of one image's file."""
    return hashlib.sha256(content).hexdigest()


def digests_of_pixels(images: npt.NDArray[np.uint8]) -> Digests:
    """One sha256 per image `uint8 [n, H, W, C]`, of its shape and pixels."""
    prefix = repr(images.shape[1:]).encode()
    return digest_array((digest(prefix + image.tobytes()) for image in images), len(images))


def digest_array(digests: Iterable[str], count: int) -> Digests:
    """`count` digests as an array."""
    return np.fromiter((text.encode() for text in digests), dtype="S64", count=count)


def texts(digests: Digests) -> list[str]:
    """The digests as text."""
    return [value.decode() for value in digests.tolist()]


def fingerprint(splits: dict[str, tuple[Ints, Digests]], treatments: Collection[str] = ()) -> str:
    """sha256 over the sorted lines (split, label, digest), and over what was done to the images."""
    lines = [
        f"{split} {label} {image_digest}\n"
        for split, (labels, image_digests) in splits.items()
        for label, image_digest in zip(labels.tolist(), texts(image_digests), strict=True)
    ]
    marks = [f"treatment {treatment}\n" for treatment in sorted(treatments)]
    return hashlib.sha256("".join([*sorted(lines), *marks]).encode()).hexdigest()
