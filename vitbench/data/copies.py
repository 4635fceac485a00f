"""Equal images: the same file twice, and different files with the same pixels.

Different files are compared only where they can be equal: the same upright size. JPEG files are compared by what
remains of them without metadata, which needs no decoding; other formats are decoded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from vitbench.data.decode import Header
from vitbench.data.fingerprint import Digests, digest, digest_array, texts
from vitbench.data.types import Ints

SamePixels = tuple[tuple[str, ...], ...]
"""Groups of two or more file digests whose images have equal pixels, sorted."""

_START_OF_SCAN, _FILL = 0xDA, 0xFF
_METADATA = {*range(0xE0, 0xEE), 0xEF, 0xFE}
"""JPEG segments that change no pixel: APP0 to APP13, APP15 and comments; APP14 states the colour transform."""


@dataclass(frozen=True)
class Candidate:
    """One distinct file: its digest, header, key without metadata (None if no JPEG), and how to hash its pixels."""

    digest: str
    header: Header
    jpeg_key: str | None
    pixel_digest: Callable[[], str]


def jpeg_key(content: bytes) -> str | None:
    """The sha256 of a JPEG file without its metadata segments; None if this is no well-formed JPEG file."""
    if content[:2] != b"\xff\xd8":
        return None
    kept: list[bytes] = []
    place = 2
    while place + 4 <= len(content) and content[place] == _FILL:
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker == _START_OF_SCAN:
            return digest(b"".join([*kept, content[place:]]))
        if marker not in _METADATA:
            kept.append(content[place : place + 2 + length])
        place += 2 + length
    return None


def same_pixels(candidates: Iterable[Candidate], *, decode: bool) -> SamePixels:
    """The groups of different files with equal pixels; without `decode`, only those among JPEG files."""
    by_size: dict[tuple[int, int], dict[str, Candidate]] = defaultdict(dict)
    for candidate in candidates:
        by_size[candidate.header.height, candidate.header.width][candidate.digest] = candidate
    groups: dict[object, list[str]] = defaultdict(list)
    for size, files in by_size.items():
        if len(files) < 2:
            continue
        all_jpeg = all(file.jpeg_key for file in files.values())
        for file in files.values():
            if not decode or all_jpeg:
                key = (file.jpeg_key or file.digest, file.header.orientation if file.header.turned else 1)
            else:
                key = (file.pixel_digest(), 0)
            groups[size, key].append(file.digest)
    return tuple(sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1))


def canonical(digests: Digests, groups: SamePixels) -> Digests:
    """The digests, with one digest standing for every group of different files with equal pixels."""
    if not groups:
        return digests
    first: Mapping[str, str] = {member: group[0] for group in groups for member in group}
    return digest_array((first.get(value, value) for value in texts(digests)), len(digests))


def group_numbers(digests: Digests) -> Ints | None:
    """Equal numbers for equal digests, `int64 [n]`; None if all differ."""
    distinct, numbers = np.unique(digests, return_inverse=True)
    return None if len(distinct) == len(digests) else numbers.astype(np.int64)


def group_sizes(labels: Ints, groups: Ints | None) -> tuple[tuple[int, int, int], ...]:
    """(class, size, number of groups) of every class that has equal images; groups of two labels are left out."""
    if groups is None:
        return ()
    classes: dict[int, set[int]] = defaultdict(set)
    for label, group in zip(labels.tolist(), groups.tolist(), strict=True):
        classes[group].add(label)
    members = Counter(groups.tolist())
    sizes = Counter((next(iter(kinds)), members[group]) for group, kinds in classes.items() if len(kinds) == 1)
    with_copies = {label for group, kinds in classes.items() if members[group] > 1 for label in kinds}
    return tuple(sorted((label, size, number) for (label, size), number in sizes.items() if label in with_copies))


def two_labels(labels: Ints, groups: Ints | None) -> list[Ints]:
    """Positions of the images of every group that stands under more than one label, a list of `int64 [m]`."""
    if groups is None:
        return []
    order = np.lexsort((labels, groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    return [members for members in np.split(order, starts[1:]) if len(set(labels[members].tolist())) > 1]
