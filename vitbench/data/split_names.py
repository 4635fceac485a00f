"""Decide from names which split an image belongs to: training, validation or test.

One rule for folders, files, archive entries and values of a split column:

- A split word counts wherever it stands as a word: `train`, `seg_train`, `trainset`, `TestImages`, `val2017`, `x-dev`.
  `latest`, `constraint` and `valley` hold no split word.
- The file's own name decides; if it has no split word, the nearest folder that has one decides.
- A name with words of two splits (`train_test_split`) decides nothing and is refused where it would have to decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Literal

from vitbench.base.errors import InputError

SplitName = Literal["train", "val", "test"]

SPLIT_WORDS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "validate": "val",
    "dev": "val",
    "eval": "val",
    "evaluation": "val",
    "test": "test",
    "testing": "test",
}
SPLIT_WORDS_TEXT = "train, training, val, valid, validation, dev, eval, test, testing"
"""The split words as messages list them."""

_SUFFIXES = "set|sets|split|data|dataset|image|images|img|imgs|pic|pics|photos|file|files|folder|dir|batch|samples|ing"
_WORD = "|".join(sorted(SPLIT_WORDS, key=len, reverse=True))
_COMPOUND = re.compile(rf"(?P<words>(?:{_WORD})+)(?:{_SUFFIXES})?")
_LETTERS = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def splits_in(name: str) -> frozenset[SplitName]:
    """All splits whose words stand in `name`; empty if it has none."""
    splits: set[SplitName] = set()
    for letters in _LETTERS.findall(name):
        for word in {letters.lower(), *(part.lower() for part in _CAMEL.findall(letters))}:
            if compound := _COMPOUND.fullmatch(word):
                splits |= {SPLIT_WORDS[part] for part in re.findall(_WORD, compound["words"])}
    return frozenset(splits)


def split_of_name(name: str) -> SplitName | None:
    """The split that one name states, or None; InputError if it has words of two splits."""
    splits = splits_in(name)
    if len(splits) > 1:
        raise InputError(f"{name}: the name has words of two splits ({' and '.join(sorted(splits))}); rename it")
    return next(iter(splits), None)


def split_of_path(relative: PurePath) -> SplitName | None:
    """The split of a file, from its path below the data set's folder: its own name, then the nearest folder."""
    for name in reversed(relative.parts):
        if splits_in(name):
            return split_of_name(name)
    return None


def group_by_split(paths: Iterable[PurePath], where: str) -> dict[SplitName, list[int]] | None:
    """Indices into `paths` by split, in order; None if no name has a split word, so that the set is not split.

    Raises InputError, starting with `where`, if some names have a split word and others have none, or if there are
    validation or test files and no training file.
    """
    groups: dict[SplitName, list[int]] = {}
    without: list[PurePath] = []
    for i, path in enumerate(paths):
        try:
            split = split_of_path(path)
        except InputError as error:
            raise InputError(f"{where}: {path}: {error}") from error
        if split is None:
            without.append(path)
        else:
            groups.setdefault(split, []).append(i)
    if not groups:
        return None
    if without:
        raise InputError(
            f"{where}: {without[0]} has no split word ({SPLIT_WORDS_TEXT}) in its name or in a folder's, "
            f"and other files have; {len(without)} such files"
        )
    if "train" not in groups:
        raise InputError(f"{where}: no file is named after train, only after {' and '.join(sorted(groups))}")
    return groups


def describe_splits(names: Mapping[SplitName, Sequence[str]]) -> str:
    """One line for the user: which folders or files were taken for which split; the test split may be the val one."""
    labels: dict[SplitName, str] = {"train": "training", "val": "validation", "test": "test"}
    parts = []
    for split, label in labels.items():
        if split in names:
            role = "test" if split == "val" and "test" not in names else label
            more = f", ... ({len(names[split])})" if len(names[split]) > 3 else ""
            parts.append(f"{role} from {', '.join(names[split][:3])}{more}")
    return f"splits by name: {'; '.join(parts)}"
