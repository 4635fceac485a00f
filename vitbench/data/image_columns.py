"""Columns beside image and label: what they hold, and the checks before anything trains on them.

n images, H height, W width, M most objects, L words of a caption.

| column | array | what |
|---|---|---|
| boxes | `int64 [n, M, 5]` | left, top, right, bottom (the last two excluded) and class of each object; -1: none |
| masks | `uint8 [n, H, W]` | 0 background, else 1 + the class of the pixel |
| captions | `int64 [n, L]` | numbers of words in the vocabulary |
| held_out | `bool [n]` | the caption's combination of classes is in no training caption |
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from vitbench.base.errors import InputError
from vitbench.data.types import Ints, Split

ALWAYS = frozenset({"image", "label"})
"""The columns that every data set has."""


def check_columns(name: str, splits: Mapping[str, Split], vocabulary: tuple[str, ...], num_classes: int) -> None:
    """Raise InputError, one line each, for columns that do not fit their images, their classes or their vocabulary."""
    problems = [line for part, split in splits.items() for line in _problems(split, num_classes, f"{name}, {part}")]
    parts = {part: set(split.columns) for part, split in splits.items()}
    if any(columns != parts["train"] for columns in parts.values()):
        shown = "; ".join(f"{part}: {', '.join(sorted(columns)) or 'none'}" for part, columns in parts.items())
        problems.append(f"{name}: every split needs the same columns ({shown})")
    elif "captions" in parts["train"]:
        problems += _caption_problems(name, splits, vocabulary)
    if problems:
        raise InputError("\n".join(problems))


def _problems(split: Split, num_classes: int, where: str) -> Iterator[str]:
    lengths = {column: len(values) for column, values in split.columns.items() if len(values) != len(split)}
    if lengths:
        column, length = next(iter(lengths.items()))
        yield f"{where}: {column} has {length} rows for {len(split)} images"
        return
    size = None if split.images is None else split.images.shape[1:3]
    masks, boxes = split.columns.get("masks"), split.columns.get("boxes")
    if masks is not None and masks.shape[1:] != size:
        yield f"{where}: masks are {_size(masks.shape[1:])} pixels and images are {_size(size)}; they must be equal"
    elif masks is not None and masks.max(initial=0) > num_classes:
        yield f"{where}: masks have class {masks.max() - 1}, and the last class is {num_classes - 1}"
    if boxes is not None and size is not None:
        yield from _box_problems(boxes, size, num_classes, where)


def _size(sides: tuple[int, ...] | None) -> str:
    return "of several sizes" if sides is None else " x ".join(map(str, sides))


def _box_problems(boxes: Ints, size: tuple[int, int], num_classes: int, where: str) -> Iterator[str]:
    height, width = size
    left, top, right, bottom, classes = np.moveaxis(boxes, -1, 0)
    is_object = classes >= 0
    outside = is_object & ((left < 0) | (top < 0) | (right > width) | (bottom > height))
    empty = is_object & ((left >= right) | (top >= bottom))
    for problem, bad in (("is outside the image", outside), ("has no pixel", empty & ~outside)):
        if bad.any():
            row, number = np.argwhere(bad)[0].tolist()
            shown = ", ".join(map(str, boxes[row, number, :4].tolist()))
            yield f"{where}: box {number} of image {row} ({shown}) {problem}, which is {width} x {height} pixels"
    if (classes >= num_classes).any():
        yield f"{where}: boxes have class {classes.max()}, and the last class is {num_classes - 1}"


def _caption_problems(name: str, splits: Mapping[str, Split], vocabulary: tuple[str, ...]) -> Iterator[str]:
    known = np.unique(splits["train"].columns["captions"])
    for part, split in splits.items():
        words = np.unique(split.columns["captions"])
        if words.size and not 0 <= words.min() <= words.max() < len(vocabulary):
            yield f"{name}, {part}: captions have word {words.max()}, and the vocabulary has {len(vocabulary)} words"
        elif (new := np.setdiff1d(words, known)).size:
            shown = ", ".join(vocabulary[word] for word in new[:5])
            yield f"{name}, {part}: {new.size} words are in no training caption ({shown}); the vocabulary cannot grow"


def columns_digest(splits: Mapping[str, Split]) -> str | None:
    """A sha256 over all columns in the order of the images; None without columns."""
    digest, count = hashlib.sha256(), 0
    for part, split in splits.items():
        for column, values in sorted(split.columns.items()):
            digest.update(f"{part} {column} {values.dtype.str} {values.shape}\n".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
            count += 1
    return digest.hexdigest() if count else None
