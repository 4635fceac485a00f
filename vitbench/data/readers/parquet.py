"""Parquet files as Hugging Face writes them: `parquet:PATH`.

A struct column `image` or `img` with `bytes`, an integer column `label`; class names from the schema's metadata.
Train and test by file name. The encoded images are held in memory.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitbench.base.errors import InputError
from vitbench.data.source import Files, Raw, Source, optional
from vitbench.data.types import DataOptions, Encoded, Ints, Split

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label")
TRAIN = {"train", "training"}
TEST = {"test", "testing"}
VALIDATION = {"val", "valid", "validation", "eval"}


@dataclass(frozen=True)
class TableImages:
    """The images of parquet files by row; `starts` has each file's first row, `column` is an Arrow array of bytes."""

    names: tuple[str, ...]
    starts: Ints
    column: Any

    def _place(self, row: int) -> tuple[str, int]:
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.names[part], row - int(self.starts[part])

    def name(self, row: int) -> str:
        """File and row."""
        name, place = self._place(row)
        return f"{name}, row {place}"

    def identity(self, row: int) -> str:
        """File name, row, and the size of the image's file."""
        name, place = self._place(row)
        return f"{Path(name).name} {place} {len(self.load(row))}"

    def load(self, row: int) -> bytes:
        """The bytes of the cell."""
        content: bytes | None = self.column[row].as_py()
        if content is None:
            raise InputError(f"{self.name(row)}: the image has no bytes")
        return content


def choose_columns(names: list[str], where: str) -> tuple[str, str]:
    """The image column and the label column; InputError where one is missing."""
    found = [next((c for c in allowed if c in names), None) for allowed in (IMAGE_COLUMNS, LABEL_COLUMNS)]
    if found[0] is None:
        raise InputError(f"{where}: no image column ({' or '.join(IMAGE_COLUMNS)}) among {', '.join(names)}")
    if found[1] is None:
        raise InputError(f"{where}: no labels ({' or '.join(LABEL_COLUMNS)}) among {', '.join(names)}")
    return found[0], found[1]


def _locate(argument: str, options: DataOptions) -> Files:
    path = Path(argument).expanduser()
    files = (path,) if path.is_file() else tuple(sorted(path.rglob("*.parquet"))) if path.is_dir() else ()
    if not argument or not files:
        raise InputError(f"parquet:{argument}: no parquet files there")
    return files


def _splits(root: Path, files: Files) -> tuple[Files, Files]:
    """Training and test files by the words of their names; validation files are the test files where no others are.

    Files of which none says anything are all training files.
    """
    words = {file: set(re.split(r"[^a-z]+", file.relative_to(root).as_posix().lower())) for file in files}
    kinds = [tuple(file for file in files if words[file] & kind) for kind in (TRAIN, TEST, VALIDATION)]
    if not any(kinds):
        return files, ()
    silent = [file for file in files if not words[file] & (TRAIN | TEST | VALIDATION)]
    if silent or not kinds[0]:
        problem = f"{silent[0].name} is named after neither train nor test" if silent else "no file is named train"
        raise InputError(f"parquet:{root}: {problem}")
    return kinds[0], kinds[1] or kinds[2]


def _read(path: Path) -> tuple[Any, Any, tuple[str, ...]]:
    """Arrow columns of bytes and of labels, and the class names, of one file."""
    arrow, parquet = (optional(module, "parquet", f"parquet:{path}") for module in ("pyarrow", "pyarrow.parquet"))
    try:
        file = parquet.ParquetFile(path)
        image, label = choose_columns(file.schema_arrow.names, str(path))
        table = file.read(columns=[image, label])
    except (arrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a parquet file that can be read ({str(error).splitlines()[0]})") from error
    kind = table.schema.field(image).type
    if not arrow.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise InputError(f"{path}: column {image} is {kind}; a struct with `bytes` is needed")
    labels = table[label]
    if not arrow.types.is_integer(labels.type) or labels.null_count:
        raise InputError(f"{path}: column {label} ({labels.type}, {labels.null_count} nulls) must hold integers")
    cells = [chunk.field("bytes").cast(arrow.large_binary()) for chunk in table[image].chunks]
    return cells, labels.to_numpy(), _class_names(table.schema.metadata, label)


def _class_names(metadata: dict[bytes, bytes] | None, label: str) -> tuple[str, ...]:
    """The names in the schema's metadata, or none."""
    try:
        return tuple(json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]["names"])
    except (KeyError, ValueError, TypeError):
        return ()


def _split(files: Files) -> tuple[Split, tuple[str, ...]]:
    arrow = optional("pyarrow", "parquet", "parquet")
    cells, labels, class_names = zip(*(_read(path) for path in files), strict=True)
    if len(set(class_names)) > 1:
        raise InputError(f"{files[0].parent}: the parquet files disagree on their class names")
    lengths = [len(part) for part in labels]
    column = arrow.chunked_array([chunk for part in cells for chunk in part], type=arrow.large_binary())
    store = TableImages(tuple(map(str, files)), np.cumsum([0, *lengths[:-1]]), column)
    split = Split(np.concatenate(labels).astype(np.int64), encoded=Encoded(store, np.arange(sum(lengths))))
    return split, class_names[0]


def _load(argument: str, files: Files) -> Raw:
    root = Path(argument).expanduser()
    train_files, test_files = _splits(root if root.is_dir() else root.parent, files) if len(files) > 1 else (files, ())
    train, class_names = _split(train_files)
    return Raw(train, _split(test_files)[0] if test_files else None, class_names)


PARQUET = Source(_locate, _load)
