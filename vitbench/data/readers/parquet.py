"""Parquet files, as Hugging Face, pandas and others write them: `parquet:PATH`.

The images are a struct with `bytes` or `path`, raw bytes, paths, or nested lists, in a column `image` or `img`; the
labels are whole numbers, text, dictionaries, or true and false, in a column `label`. `?image=NAME&label=NAME` names
other columns. A column `split` states the split of each row, else the file names do. Encoded images stay in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from vitbench.base.errors import InputError
from vitbench.data.file_tree import FileTree, LeftOut, files_below
from vitbench.data.readers.columns import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    ColumnChoice,
    choose_column,
    parse_columns,
    split_column,
    splits_of_rows,
)
from vitbench.data.readers.labels import LabelledSplit, Labels, from_numbers, from_texts, join, to_raw
from vitbench.data.readers.table_images import image_columns, is_list, rows_without_bytes, table_images
from vitbench.data.source import Files, Raw, Source, optional
from vitbench.data.split_names import group_by_split, split_of_name, splits_in
from vitbench.data.types import DataOptions, Encoded

SUFFIXES = (".parquet", ".pq", ".parq")
GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class ImageTable:
    """One file: its images as Arrow arrays by role, its labels, and each row's value in the split column."""

    path: Path
    images: dict[str, Any]
    labels: Labels
    split_column: str | None = None
    split_values: tuple[object, ...] = ()

    def __len__(self) -> int:
        return len(self.labels.codes)


def _files(choice: ColumnChoice) -> FileTree:
    """The parquet files that PATH means, and what else is in its folder. Raises InputError."""
    path = Path(choice.path).expanduser()
    if choice.path and path.is_file():
        return FileTree((path,), LeftOut())
    tree = files_below(path, SUFFIXES) if choice.path and path.is_dir() else FileTree((), LeftOut())
    if not tree.files:
        packed = any(tree.left_out.suffixes[suffix] for suffix in (".gz", ".zst", ".zip"))
        hint = "; a packed file is there: unpack it" if packed else ""
        raise InputError(f"parquet:{choice.path}: no parquet files there{hint}")
    return tree


def _locate(argument: str, options: DataOptions) -> Files:
    """The tables, and the image files to which they have only paths."""
    choice = parse_columns(argument, f"parquet:{argument}")
    tables = _files(choice).files
    return (*tables, *dict.fromkeys(image for table in tables for image in _image_files(table, choice)))


def _open(path: Path) -> Any:
    """The open parquet file. Raises InputError, which says so if the file is packed with gzip."""
    parquet = optional("pyarrow.parquet", "parquet", f"parquet:{path}")
    with path.open("rb") as file:
        if file.read(2) == GZIP_MAGIC:
            raise InputError(f"{path}: packed with gzip; unpack it (gunzip)")
    return parquet.ParquetFile(path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the errors of damaged files into one InputError."""
    arrow = optional("pyarrow", "parquet", f"parquet:{path}")
    try:
        yield
    except (arrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a parquet file that can be read ({str(error).splitlines()[0]})") from error


def _image_files(path: Path, choice: ColumnChoice) -> Files:
    """The image files that the table names without holding their bytes; the bytes themselves are not read."""
    with _readable(path):
        file = _open(path)
        column = _image_column(file.schema_arrow, choice, str(path))
        if not _may_lack_bytes(file, column):
            return ()
        images = image_columns(file.read(columns=[column])[column], f"{path}: column {column}")
    store = table_images([path], [images], [file.metadata.num_rows])
    return tuple(store.path(row) for row in rows_without_bytes(store))


def _may_lack_bytes(file: Any, column: str) -> bool:
    """Whether a row may have no bytes, as far as the file's statistics tell; False for nested lists."""
    leaves = [file.schema.column(i).path for i in range(len(file.schema))]
    arrow_type = file.schema_arrow.field(column).type
    if is_list(arrow_type):
        return False
    leaf = next((i for i, path in enumerate(leaves) if path in (column, f"{column}.bytes")), None)
    if leaf is None or str(arrow_type) in ("string", "large_string"):
        return True
    groups = (file.metadata.row_group(i).column(leaf) for i in range(file.metadata.num_row_groups))
    return any(group.statistics is None or group.statistics.null_count != 0 for group in groups)


def _image_column(schema: Any, choice: ColumnChoice, where: str) -> str:
    """The image column; the only struct with `bytes` if no column has a usual name."""
    types = optional("pyarrow", "parquet", where).types
    names = list(schema.names)
    usual = any(name.lower() in IMAGE_COLUMNS for name in names)
    structs = [f.name for f in schema if types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    requested = structs[0] if choice.image is None and not usual and len(structs) == 1 else choice.image
    return choose_column("image", requested, IMAGE_COLUMNS, names, where)


def _read(path: Path, choice: ColumnChoice) -> ImageTable:
    where = str(path)
    with _readable(path):
        file = _open(path)
        names = list(file.schema_arrow.names)
        image = _image_column(file.schema_arrow, choice, where)
        label = choose_column("label", choice.label, LABEL_COLUMNS, names, where)
        by_split = split_column(choice, [name for name in names if name not in (image, label)], where)
        table = file.read(columns=[image, label, *([by_split] if by_split else [])])
    images = image_columns(table[image], f"{where}: column {image}")
    labels = _labels(table[label], _class_names(table.schema.metadata, label), f"{where}: column {label}")
    return ImageTable(path, images, labels, by_split, tuple(table[by_split].to_pylist()) if by_split else ())


def _labels(column: Any, names: Sequence[str], where: str) -> Labels:
    """The labels of one table; dictionaries are read as what they stand for."""
    types = optional("pyarrow", "parquet", where).types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if is_list(kind):
        raise InputError(f"{where} is {kind}: a multi-label set; vitbench needs one class per image")
    if column.null_count:
        first = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise InputError(f"{where}: {column.null_count} of {len(column)} labels are missing, the first in row {first}")
    if types.is_string(kind) or types.is_large_string(kind):
        return from_texts(column.to_pylist(), where)
    if types.is_boolean(kind):
        return from_texts([str(value).lower() for value in column.to_pylist()], where)
    if types.is_integer(kind):
        return from_numbers(column.to_numpy(), where, names)
    raise InputError(f"{where} is {kind}; whole numbers, text, or true and false are needed")


def _class_names(metadata: dict[bytes, bytes] | None, label: str) -> tuple[str, ...]:
    """The class names in the metadata that the package datasets writes; empty if there are none."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
        return tuple(map(str, names or ()))
    except (KeyError, ValueError, TypeError):
        return ()


def _part(tables: Sequence[ImageTable], where: str) -> LabelledSplit:
    lengths = [len(table) for table in tables]
    store = table_images([table.path for table in tables], [table.images for table in tables], lengths)
    labels = join([table.labels for table in tables], where)
    return LabelledSplit(labels, Encoded(store, np.arange(sum(lengths))))


def _splits(tables: Sequence[ImageTable], root: Path, where: str, left_out: str | None) -> Raw:
    """The splits: by the split column if all tables have it, else by the tables' names, else one training split."""
    columns = {table.split_column for table in tables}
    by_rows = None
    if None not in columns:
        values = [value for table in tables for value in table.split_values]
        by_rows = splits_of_rows(values, str(tables[0].split_column), where)
    if by_rows is not None:
        _check_names_agree(tables, root, where)
        whole = _part(tables, where)
        assert isinstance(whole.images, Encoded)
        parts = {
            split: LabelledSplit(whole.labels.take(rows), replace(whole.images, rows=rows))
            for split, rows in by_rows.items()
        }
        column = tables[0].split_column
        taken_from = {split: [f"{len(rows)} rows by column {column}"] for split, rows in by_rows.items()}
        return to_raw(parts, where, taken_from, left_out)
    relative = [PurePath(table.path.relative_to(root)) for table in tables]
    groups = group_by_split(relative, where) if len(tables) > 1 else None
    if groups is None:
        return to_raw({"train": _part(tables, where)}, where, None, left_out)
    parts = {split: _part([tables[row] for row in rows], where) for split, rows in groups.items()}
    return to_raw(parts, where, {s: [str(relative[row]) for row in rows] for s, rows in groups.items()}, left_out)


def _check_names_agree(tables: Sequence[ImageTable], root: Path, where: str) -> None:
    """Nothing; InputError if tables are named after several splits and a row's split is not its table's."""
    stated = [splits_in(table.path.relative_to(root).name) for table in tables]
    if len({split for splits in stated for split in splits}) < 2:
        return
    for table, splits in zip(tables, stated, strict=True):
        for value in dict.fromkeys(table.split_values):
            if splits and split_of_name(str(value)) not in splits:
                raise InputError(
                    f"{where}: {table.path.name} has rows whose column {table.split_column} says {value!r}"
                )


def _load(argument: str, files: Files) -> Raw:
    where = f"parquet:{argument}"
    choice = parse_columns(argument, where)
    path = Path(choice.path).expanduser()
    tree = _files(choice)
    tables = [_read(table, choice) for table in tree.files]
    return _splits(tables, path if path.is_dir() else path.parent, where, tree.left_out.note())


PARQUET = Source(_locate, _load)
