"""A table of image paths and labels: `csv:PATH`, with the columns path, label and, if there is one, split.

PATH is a file, or a folder of files named after splits. The first line names the columns; commas, semicolons or tabs
separate them. Image paths are absolute or start at the table's folder. `csv:PATH?image=file&label=species` names other
columns.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path, PurePath

import numpy as np

from vitbench.base.errors import InputError
from vitbench.data.readers.columns import (
    LABEL_COLUMNS,
    PATH_COLUMNS,
    ColumnChoice,
    choose_column,
    parse_columns,
    split_column,
    splits_of_rows,
)
from vitbench.data.readers.folder import DiskImages
from vitbench.data.readers.labels import LabelledSplit, from_texts, to_raw
from vitbench.data.source import Files, Raw, Source
from vitbench.data.split_names import SplitName, group_by_split
from vitbench.data.types import DataOptions, Encoded

SEPARATORS = ",;\t"
Rows = list[dict[str, str]]


def _tables(choice: ColumnChoice) -> dict[SplitName, Path] | Path:
    """The one table, or the tables of a folder by split."""
    path = Path(choice.path).expanduser()
    if choice.path and path.is_file():
        return path
    tables = sorted(path.glob("*.csv")) if choice.path and path.is_dir() else []
    if not tables:
        raise InputError(f"csv:{choice.path}: there is no such file, and no folder with .csv files")
    if len(tables) == 1:
        return tables[0]
    groups = group_by_split([PurePath(table.name) for table in tables], str(path))
    if groups is None:
        raise InputError(f"{path}: {len(tables)} tables, and no name says which split a table is; give one file")
    twice = next((rows for rows in groups.values() if len(rows) > 1), None)
    if twice:
        raise InputError(f"{path}: {tables[twice[0]].name} and {tables[twice[1]].name} are tables of one split")
    return {split: tables[rows[0]] for split, rows in groups.items()}


def _read(path: Path) -> Rows:
    """The rows by column. Raises InputError with the line that does not fit the first line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            separator = max(SEPARATORS, key=first.count)
            header = [name.strip() for name in next(csv.reader([first], delimiter=separator, strict=True), [])]
            reader = csv.reader(file, delimiter=separator, strict=True)
            rows: Rows = []
            for fields in reader:
                if fields and len(fields) != len(header):
                    raise InputError(
                        f"{path}: line {reader.line_num + 1} has {len(fields)} fields, the first line {len(header)}"
                    )
                rows += [dict(zip(header, fields, strict=True))] if fields else []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a table that can be read ({error})") from error
    repeated = next((name for name in header if name and header.count(name) > 1), None)
    if repeated or not rows:
        raise InputError(f"{path}: {f'two columns named {repeated}' if repeated else 'no rows below the first line'}")
    return rows


def _image_paths(rows: Rows, choice: ColumnChoice, table: Path) -> Files:
    """The image of each row. Raises InputError with the count and the first three that are not there."""
    column = choose_column("image", choice.image, PATH_COLUMNS, list(rows[0]), str(table))
    paths = tuple(table.parent / Path(row[column].strip()).expanduser() for row in rows)
    absent = [path for path in paths if not path.is_file()]
    if absent:
        names = ", ".join(map(str, absent[:3]))
        raise InputError(f"{table}: {len(absent)} of {len(paths)} images do not exist: {names}")
    return paths


def _part(rows: Rows, choice: ColumnChoice, table: Path) -> LabelledSplit:
    column = choose_column("label", choice.label, LABEL_COLUMNS, list(rows[0]), str(table))
    labels = from_texts([row[column] for row in rows], f"{table}, column {column}")
    negative = next((name for name in labels.names if name.startswith("-") and name[1:].isdigit()), None)
    if negative is not None:
        raise InputError(
            f"{table}, column {column}: label {negative} is negative, the usual mark of an unlabelled image"
        )
    paths = _image_paths(rows, choice, table)
    below = all(path.is_relative_to(table.parent) for path in paths)
    root = table.parent if below else Path(os.path.commonpath([path.parent for path in paths]))
    store = DiskImages(root, paths)
    return LabelledSplit(labels, Encoded(store, np.arange(len(rows))))


def _splits(rows: Rows, choice: ColumnChoice, table: Path) -> Raw:
    """The splits of one table, by its split column; one training split if it has no such column."""
    column = split_column(choice, list(rows[0]), str(table))
    groups = splits_of_rows([row[column] for row in rows], column, str(table)) if column else None
    if groups is None:
        return to_raw({"train": _part(rows, choice, table)}, str(table))
    parts = {split: _part([rows[i] for i in index], choice, table) for split, index in groups.items()}
    taken_from = {split: [f"{len(index)} rows by column {column}"] for split, index in groups.items()}
    return to_raw(parts, str(table), taken_from)


def _locate(argument: str, options: DataOptions) -> Files:
    choice = parse_columns(argument, f"csv:{argument}")
    tables = _tables(choice)
    paths = [tables] if isinstance(tables, Path) else list(tables.values())
    images = [image for table in paths for image in _image_paths(_read(table), choice, table)]
    return (*paths, *dict.fromkeys(images))


def _load(argument: str, files: Files) -> Raw:
    choice = parse_columns(argument, f"csv:{argument}")
    tables = _tables(choice)
    if isinstance(tables, Path):
        return _splits(_read(tables), choice, tables)
    parts = {split: _part(_read(table), choice, table) for split, table in tables.items()}
    return to_raw(parts, choice.path, {split: [table.name] for split, table in tables.items()})


CSV = Source(_locate, _load)
