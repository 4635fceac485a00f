"""Which columns of a table hold the images, the labels and the splits: by their usual names, or as the user says.

`parquet:PATH?image=img&label=species` names columns; so do `csv:PATH?...` and `hf:ORG/NAME?...`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np

from vitbench.base.errors import InputError, nearest
from vitbench.data.split_names import SPLIT_WORDS_TEXT, SplitName, split_of_name
from vitbench.data.types import Ints

IMAGE_COLUMNS = ("image", "img", "picture", "photo")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image_path", *IMAGE_COLUMNS)
SPLIT_COLUMNS = ("split", "subset", "partition")
KEYS = ("image", "label", "split_column")


@dataclass(frozen=True)
class ColumnChoice:
    """The part of `data.name` before the `?`, and the columns named behind it."""

    path: str
    image: str | None = None
    label: str | None = None
    split_column: str | None = None


def parse_columns(argument: str, where: str) -> ColumnChoice:
    """The choice in `PATH?image=img&label=species`; a path that exists is taken whole, with its `?`."""
    path, mark, query = argument.partition("?")
    if not mark or Path(argument).expanduser().exists():
        return ColumnChoice(argument)
    chosen: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in KEYS or not value or key in chosen:
            problem = "is given twice" if key in chosen else "needs a column's name" if key in KEYS else "is unknown"
            hint = nearest(key, KEYS) if key not in KEYS else ""
            raise InputError(f"{where}: option {key!r} {problem}; allowed: {', '.join(KEYS)}.{hint}")
        chosen[key] = value
    return ColumnChoice(path, **chosen)


def choose_column(role: str, requested: str | None, usual: Sequence[str], names: Sequence[str], where: str) -> str:
    """The column of a role: the requested one, else the first of the `usual` names, in any case.

    Raises InputError with all columns if there is no such column, or two of that name.
    """
    matches = [name for name in names if name == requested]
    if requested is None:
        matches = next((same for word in usual if (same := [n for n in names if n.lower() == word])), [])
    if len(matches) > 1:
        raise InputError(f"{where}: two columns named {' and '.join(matches)}")
    if not matches:
        sought = f"named {requested!r}" if requested is not None else f"({' or '.join(usual[:2])})"
        advice = "" if requested is not None else f"; name it with ?{role}=COLUMN"
        kind = {"image": "image column", "label": "label column"}[role]
        raise InputError(f"{where}: no {kind} {sought} among {', '.join(names)}{advice}")
    return matches[0]


def split_column(choice: ColumnChoice, names: Sequence[str], where: str) -> str | None:
    """The column that states each row's split; None if there is none."""
    if choice.split_column is not None and choice.split_column not in names:
        raise InputError(f"{where}: no column named {choice.split_column!r} among {', '.join(names)}")
    usual = next((name for word in SPLIT_COLUMNS for name in names if name.lower() == word), None)
    return choice.split_column or usual


def splits_of_rows(values: Sequence[object], column: str, where: str) -> dict[SplitName, Ints] | None:
    """Rows by split, from the values of a split column; None if no value is a split word and the name is not `split`.

    Raises InputError with the first row whose value is no split word.
    """
    texts = ["" if value is None else str(value) for value in values]
    stated = {text: split_of_name(text) for text in dict.fromkeys(texts)}
    if not any(stated.values()) and column.lower() not in KEYS and column.lower() != "split":
        return None
    unknown = next((row for row, text in enumerate(texts) if stated[text] is None), None)
    if unknown is not None:
        raise InputError(
            f"{where}: column {column}, row {unknown} holds {texts[unknown]!r}, which names no split "
            f"({SPLIT_WORDS_TEXT})"
        )
    splits = np.array([stated[text] for text in texts])
    groups: dict[SplitName, Ints] = {
        name: np.flatnonzero(splits == name) for name in ("train", "val", "test") if (splits == name).any()
    }
    if "train" not in groups:
        raise InputError(f"{where}: column {column} names no training rows, only {' and '.join(groups)}")
    return groups
