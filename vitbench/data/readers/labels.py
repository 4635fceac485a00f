"""Class labels as tables and archives hold them; the splits of one data set agree on class numbers by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from vitbench.base.errors import InputError
from vitbench.data.class_names import sort_class_names
from vitbench.data.source import Raw
from vitbench.data.split_names import SplitName, describe_splits
from vitbench.data.types import Encoded, Ints, Pixels, Split

LISTED_NAMES = 10


@dataclass(frozen=True)
class Labels:
    """Labels `codes int64 [n]`: positions in `names`, or, without names, class numbers.

    `declared`: the names come from the file's metadata, and a name may have no image.
    """

    codes: Ints
    names: tuple[str, ...] = ()
    declared: bool = False

    def take(self, rows: Ints) -> Labels:
        """The labels at `rows`; names without a row are dropped unless they are declared."""
        codes = self.codes[rows]
        return replace(self, codes=codes) if self.declared or not self.names else _compact(codes, self.names)


@dataclass(frozen=True)
class LabelledSplit:
    """One split before class numbers are final: its labels, and its images as files or as pixels."""

    labels: Labels
    images: Encoded | Pixels

    def split(self, codes: Ints) -> Split:
        """The split with these final class numbers."""
        return Split(codes, encoded=self.images) if isinstance(self.images, Encoded) else Split(codes, self.images)


def from_texts(values: Sequence[str | None], where: str) -> Labels:
    """Labels from class names; InputError with the count and the first row if a name is missing or empty."""
    missing = [row for row, value in enumerate(values) if value is None or not value.strip()]
    if missing:
        raise InputError(f"{where}: {len(missing)} of {len(values)} labels are missing, the first in row {missing[0]}")
    texts = [value.strip() for value in values if value is not None]
    names = sort_class_names(texts)
    number = {name: code for code, name in enumerate(names)}
    return Labels(np.array([number[text] for text in texts], dtype=np.int64), names)


def from_numbers(values: npt.NDArray[Any], where: str, names: Sequence[str] = ()) -> Labels:
    """Labels from whole numbers of any integer type, which index `names` if there are any.

    Raises InputError if a number is too large for int64 and would wrap to a negative one.
    """
    largest = np.iinfo(np.int64).max
    too_large = np.flatnonzero(values > largest) if values.dtype == np.uint64 else np.array([], dtype=np.int64)
    if too_large.size:
        raise InputError(
            f"{where}: {too_large.size} of {len(values)} labels are above {largest} (row {too_large[0]} holds "
            f"{values[too_large[0]]}, as a negative number does in an unsigned column)"
        )
    return Labels(values.astype(np.int64), tuple(names), declared=bool(names))


def from_values(values: Sequence[Any], where: str, names: Sequence[str] = ()) -> Labels:
    """Labels from Python values: all text, all true or false, or all whole numbers."""
    missing = [row for row, value in enumerate(values) if value is None]
    if missing:
        raise InputError(f"{where}: {len(missing)} of {len(values)} labels are missing, the first in row {missing[0]}")
    kinds = {type(value) for value in values}
    if kinds == {str} or not kinds:
        return from_texts(values, where)
    if kinds == {bool}:
        return from_texts([str(value).lower() for value in values], where)
    if kinds == {int}:
        fits = all(abs(value) < 2**63 for value in values)
        return from_numbers(np.array(values, dtype=np.int64 if fits else np.uint64), where, names)
    types = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise InputError(f"{where}: labels of type {types}; whole numbers, text, or true and false are needed")


def join(parts: Sequence[Labels], where: str) -> Labels:
    """The labels of several files of one split, in order, mapped to one list of names."""
    _check_kinds(parts, where)
    first = parts[0]
    if not first.names:
        return Labels(np.concatenate([part.codes for part in parts]))
    if first.declared:
        names: tuple[str, ...] = first.names
        for part in parts[1:]:
            if set(part.names) != set(names):
                raise InputError(
                    f"{where}: the files disagree on their class names: {_listed(names)} and {_listed(part.names)}"
                )
    else:
        names = sort_class_names(name for part in parts for name in part.names)
    return Labels(np.concatenate([_renumbered(part, names) for part in parts]), names, first.declared)


def to_raw(
    parts: Mapping[SplitName, LabelledSplit],
    where: str,
    taken_from: Mapping[SplitName, Sequence[str]] | None = None,
    left_out: str | None = None,
) -> Raw:
    """The data set of these splits, every split numbered by the training split's names.

    A validation split is the test split if there is no other. `taken_from` names the files or values that were taken
    for each split, and `left_out` says what was not read. Raises InputError if a class name of another split is no
    training name, or if splits that are stored as pixels differ in size.
    """
    train = parts["train"]
    _check_sizes(parts, where)
    splits: dict[SplitName, Split] = {"train": train.split(train.labels.codes)}
    for name, part in parts.items():
        if name != "train":
            _check_kinds((train.labels, part.labels), f"{where}: the training and {name} splits")
            splits[name] = part.split(_by_name(part.labels, train.labels.names, name, where))
    notes = [describe_splits(taken_from)] if taken_from else []
    notes += [left_out] if left_out else []
    test = splits.get("test", splits.get("val"))
    val = splits.get("val") if "test" in splits else None
    return Raw(splits["train"], test, train.labels.names, val, tuple(notes))


def _check_sizes(parts: Mapping[SplitName, LabelledSplit], where: str) -> None:
    shapes = {name: part.images.shape[1:] for name, part in parts.items() if not isinstance(part.images, Encoded)}
    deep = [name for name in parts if name not in shapes]
    if shapes and deep:
        raise InputError(
            f"{where}: the splits hold numbers of different kinds: 8 bits in {', '.join(shapes)}, "
            f"more in {', '.join(deep)}"
        )
    if len(set(shapes.values())) > 1:
        sizes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
        raise InputError(f"{where}: the splits hold images of different sizes: {sizes}")


def _check_kinds(parts: Iterable[Labels], where: str) -> None:
    kinds = {"names" if part.names else "numbers without names" for part in parts if len(part.codes) or part.names}
    if len(kinds) > 1:
        raise InputError(f"{where} disagree on their labels: {' and '.join(sorted(kinds))}")


def _by_name(labels: Labels, names: tuple[str, ...], split: str, where: str) -> Ints:
    unknown = [name for name in labels.names if name not in set(names)]
    if unknown:
        raise InputError(
            f"{where}: class {unknown[0]!r} of the {split} split is no class of the training split; "
            f"training: {_listed(names)}; {split}: {_listed(labels.names)}"
        )
    return _renumbered(labels, names)


def _renumbered(labels: Labels, names: tuple[str, ...]) -> Ints:
    """The codes as positions in `names`; a code that is no position of its own names stays, for a later check."""
    if labels.names == names or not labels.names:
        return labels.codes
    table = np.array([names.index(name) for name in labels.names], dtype=np.int64)
    valid = (labels.codes >= 0) & (labels.codes < len(table))
    out_of_range = np.where(labels.codes < 0, labels.codes, np.maximum(labels.codes, len(names)))
    return np.where(valid, table[np.where(valid, labels.codes, 0)], out_of_range)


def _compact(codes: Ints, names: tuple[str, ...]) -> Labels:
    present, positions = np.unique(codes, return_inverse=True)
    return Labels(positions.astype(np.int64), tuple(names[code] for code in present))


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} names)" if len(names) > LISTED_NAMES else ""
    return f"[{', '.join(names[:LISTED_NAMES])}{more}]"
