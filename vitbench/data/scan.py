"""One pass over the files of a split: the digest and the header of every image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vitbench.data.copies import jpeg_key
from vitbench.data.decode import Header, read_header
from vitbench.data.fingerprint import Digests, digest, digest_array, digests_of_pixels
from vitbench.data.types import Encoded, Split

PROBED_HEADERS = 256


@dataclass(frozen=True)
class Scan:
    """What the files of a split show.

    `headers` has one entry per image, but one for all images of an array, and the first few of a set that is told
    apart by names and sizes. `jpeg_keys`: per image, None if it is not a JPEG file. `pixels`: a digest of every
    image's pixels, empty if they were not decoded.
    """

    digests: Digests
    headers: tuple[Header, ...] = ()
    jpeg_keys: tuple[str | None, ...] = ()
    pixels: tuple[str, ...] = ()


def scan(split: Split, *, by_name: bool = False, headers: bool = True) -> Scan:
    """Read every image of the split once. Raises InputError, unless `headers` is off, where a file is not an image."""
    if split.images is not None:
        height, width, in_chans = split.images.shape[1:]
        return Scan(digests_of_pixels(split.images), (Header(height, width, in_chans),) if headers else ())
    assert split.encoded is not None
    if by_name:
        return _scan_by_name(split.encoded, headers)
    content_digests, image_headers, keys = [], [], []
    for row, content in _contents(split.encoded):
        content_digests.append(digest(content))
        if headers:
            image_headers.append(read_header(content, split.encoded.store.name(row), split.encoded.scale))
            keys.append(jpeg_key(content))
    return Scan(digest_array(content_digests, len(content_digests)), tuple(image_headers), tuple(keys))


def _contents(encoded: Encoded) -> Iterator[tuple[int, bytes]]:
    for row in map(int, encoded.rows):
        yield row, encoded.store.load(row)


def _scan_by_name(encoded: Encoded, headers: bool) -> Scan:
    """Digests of names and sizes; channels and treatments from the first few headers."""
    store, rows = encoded.store, [int(row) for row in encoded.rows]
    image_digests = digest_array((digest(store.identity(row).encode()) for row in rows), len(rows))
    few = rows[:PROBED_HEADERS] if headers else []
    probed = [read_header(store.load(row), store.name(row), encoded.scale) for row in few]
    return Scan(image_digests, tuple(probed))
