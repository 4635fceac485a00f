"""Faults of a data set that training would not show: damaged images, bad labels, constant images, equal images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vitbench.base.errors import InputError
from vitbench.data.assembly import OpenedSource, assemble, assemble_scanned, check_labels, num_classes
from vitbench.data.catalog import DataFiles, keep_facts, locate
from vitbench.data.copies import jpeg_key
from vitbench.data.decode import decode_with_header
from vitbench.data.fingerprint import HASHED_BYTES, digest, digest_array, texts
from vitbench.data.scan import Scan, scan
from vitbench.data.source import Raw
from vitbench.data.types import DataOptions, Facts, Split

LISTED = 3


@dataclass(frozen=True)
class Report:
    """What `check` finds. `problems` forbid training; `facts` is None if there are problems; `warnings` do not."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    facts: Facts | None = None


@dataclass(frozen=True)
class Decoded:
    """One split after decoding: what its files show, which images are bad, and how many are of one colour."""

    scan: Scan
    problems: tuple[str, ...]
    num_constant: int


def check(name: str, options: DataOptions) -> Report:
    """Read and decode every image once, and look at every label. Raises InputError if the set cannot be opened."""
    data_files = locate(name, options)
    raw = data_files.load()
    parts = {"train": raw.train, "val": raw.val, "test": raw.test}
    splits = {key: split for key, split in parts.items() if split is not None}
    classes = len(raw.class_names) or int(raw.train.labels.max(initial=0)) + 1
    problems = [line for key, split in splits.items() for line in _label_problems(split, classes, key)]
    decoded = {key: _decode_all(split) for key, split in splits.items()}
    for key, part in decoded.items():
        problems += _shortened(part.problems, key, len(splits[key]))
    if problems:
        return Report(tuple(problems))
    facts = _facts(data_files, raw, decoded)
    return Report((), tuple(_warnings(decoded, facts)), facts)


def _facts(data_files: DataFiles, raw: Raw, decoded: dict[str, Decoded]) -> Facts:
    """The facts, from the images just decoded; a set too large to be hashed is read as for training."""
    if data_files.num_bytes > HASHED_BYTES and raw.train.images is None:
        return assemble(data_files.name, data_files.source, raw, data_files.num_bytes).facts
    opened = OpenedSource(data_files.name, data_files.source, raw, False, num_classes(data_files.name, raw))
    facts = assemble_scanned(opened, {key: part.scan for key, part in decoded.items()}).facts
    keep_facts(data_files, facts)
    return facts


def _label_problems(split: Split, classes: int, where: str) -> list[str]:
    try:
        check_labels(split, classes, where)
    except InputError as error:
        return [str(error)]
    return []


def _shortened(problems: tuple[str, ...], where: str, total: int) -> list[str]:
    """Every problem on a line of its own if there are few, else one line with the count and the first few."""
    if len(problems) <= LISTED:
        return list(problems)
    first = "; ".join(problems[:LISTED])
    return [f"{where}: {len(problems)} of {total} images cannot be read, the first {LISTED}: {first}"]


def _decode_all(split: Split) -> Decoded:
    if split.images is not None:
        low, high = (function(split.images, axis=(1, 2)) for function in (np.min, np.max))
        return Decoded(scan(split), (), int((low == high).all(axis=1).sum()))
    assert split.encoded is not None
    store, num_constant = split.encoded.store, 0
    digests, headers, keys, pixel_digests, problems = [], [], [], [], []
    for row in map(int, split.encoded.rows):
        try:
            content = store.load(row)
            header, pixels = decode_with_header(content, store.name(row), 3, split.encoded.scale)
        except InputError as error:
            problems.append(str(error))
            continue
        digests.append(digest(content))
        headers.append(header)
        keys.append(jpeg_key(content))
        pixel_digests.append(digest(repr(pixels.shape).encode() + pixels.tobytes()))
        first = pixels[0, 0]
        num_constant += bool((pixels[0] == first).all() and (pixels == first).all())  # The first row settles most.
    contents = digest_array(digests, len(digests))
    return Decoded(Scan(contents, tuple(headers), tuple(keys), tuple(pixel_digests)), tuple(problems), num_constant)


def _warnings(decoded: dict[str, Decoded], facts: Facts) -> Iterator[str]:
    """What the user should know about images that can all be read."""
    for key, part in decoded.items():
        if part.num_constant:
            yield f"{key}: {part.num_constant} of {len(part.scan.digests)} images are of one colour, without variance"
    if "test" not in decoded:
        return
    trained = {value for key in ("train", "val") if key in decoded for value in _content(decoded[key])}
    num_equal = sum(value in trained for value in _content(decoded["test"]))
    if num_equal > (facts.num_test_in_train or 0):
        yield f"{num_equal} of {facts.num_test} test images have the same pixels as a training image"


def _content(part: Decoded) -> Sequence[str]:
    """What equal images share: the digest of their pixels."""
    return part.scan.pixels or texts(part.scan.digests)
