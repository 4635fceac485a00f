"""The images of a table's column: encoded files, paths of files, or nested lists of pixel values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitbench.base.errors import InputError
from vitbench.data.readers.raster import Array, image_file, to_image_shape
from vitbench.data.source import optional
from vitbench.data.types import Ints

NEEDED = "a struct with `bytes`, raw bytes, paths, or nested lists of pixel values"


@dataclass(frozen=True)
class TableImages:
    """The images of tables by row; `starts` has each table's first row. The columns are Arrow arrays, or None.

    A row's image is its `content`, else the file at its `path`, else its `nested` lists, whose values are all whole
    numbers in 0..255 if `eight_bits`.
    """

    tables: tuple[str, ...]
    starts: Ints
    content: Any = None
    paths: Any = None
    nested: Any = None
    eight_bits: bool = True

    def _place(self, row: int) -> tuple[str, int]:
        table = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.tables[table], row - int(self.starts[table])

    def name(self, row: int) -> str:
        """Table and row."""
        table, place = self._place(row)
        return f"{table}, row {place}"

    def identity(self, row: int) -> str:
        """Table name, row, and the size of the image's file."""
        table, place = self._place(row)
        return f"{Path(table).name} {place} {len(self.load(row))}"

    def load(self, row: int) -> bytes:
        """The bytes of the image's file."""
        if self.nested is not None:
            values = to_image_shape(_nested_values(self.nested[row], self.name(row)), self.name(row))
            return image_file(values, self.eight_bits)
        content: bytes | None = None if self.content is None else self.content[row].as_py()
        return _read_file(self.path(row), self.name(row)) if content is None else content

    def path(self, row: int) -> Path:
        """Where the image's file is; InputError if the row has neither bytes nor a path."""
        written = None if self.paths is None else self.paths[row].as_py()
        if not written:
            raise InputError(f"{self.name(row)}: the image has no bytes and no path")
        return Path(self._place(row)[0]).parent / Path(written).expanduser()


def _read_file(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{where}: {path} cannot be read ({error.strerror})") from error


def image_columns(column: Any, where: str) -> dict[str, Any]:
    """The Arrow arrays of one table for `TableImages`: `content` and `paths`, or `nested`. Raises InputError."""
    arrow = optional("pyarrow", "parquet", where)
    types = arrow.types
    if isinstance(column.type, arrow.BaseExtensionType):
        column = column.cast(column.type.storage_type)
    kind = column.type
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        compute = optional("pyarrow.compute", "parquet", where)
        fields = {"content": "bytes", "paths": "path"}
        present = {role: name for role, name in fields.items() if kind.get_field_index(name) >= 0}
        columns = {role: compute.struct_field(column, name) for role, name in present.items()}
    elif types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        columns = {"content": column}
    elif types.is_string(kind) or types.is_large_string(kind):
        columns = {"paths": column}
    elif is_list(kind):
        return {"nested": column}
    else:
        raise InputError(f"{where} is {kind}; {NEEDED} is needed")
    wide = {"content": arrow.large_binary(), "paths": arrow.large_string()}
    return {role: values.cast(wide[role]) for role, values in columns.items()}


def is_list(kind: Any) -> bool:
    """Whether an Arrow type is a list of any kind."""
    types = optional("pyarrow", "parquet", "parquet").types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def table_images(tables: Sequence[Path], columns: Sequence[dict[str, Any]], lengths: Sequence[int]) -> TableImages:
    """The images of several tables in one row. Raises InputError if tables disagree, or if image files are absent."""
    arrow = optional("pyarrow", "parquet", str(tables[0]))
    roles = [tuple(column) for column in columns]
    differing = next((i for i, role in enumerate(roles) if ("nested" in role) != ("nested" in roles[0])), None)
    if differing is not None:
        raise InputError(f"{tables[differing]}: holds images in another form than {tables[0]}")
    joined: dict[str, Any] = {}
    for role in dict.fromkeys(role for column in roles for role in column):
        kind = next(column[role].type for column in columns if role in column)
        chunks = [
            chunk
            for column, length in zip(columns, lengths, strict=True)
            for chunk in (column[role].chunks if role in column else [arrow.nulls(length, kind)])
        ]
        joined[role] = arrow.chunked_array(chunks, type=kind)
    starts = np.cumsum([0, *lengths[:-1]])
    eight_bits = "nested" not in joined or _has_eight_bits(joined["nested"])
    images = TableImages(tuple(map(str, tables)), starts, **joined, eight_bits=eight_bits)
    _check_files(images)
    return images


def rows_without_bytes(images: TableImages) -> list[int]:
    """The rows whose image is a file at a path."""
    if images.nested is not None:
        return []
    if images.content is None:
        return list(range(len(images.paths)))
    if not images.content.null_count:
        return []
    return np.flatnonzero(images.content.is_null().to_numpy()).tolist()


def _check_files(images: TableImages) -> None:
    """Nothing; InputError with the count and the first row if the table has only paths, and files are absent."""
    rows = rows_without_bytes(images)
    absent = [(row, path) for row in rows for path in [images.path(row)] if not path.is_file()]
    if absent:
        row, path = absent[0]
        raise InputError(
            f"{images.name(row)}: no bytes, only the path {path}, where there is no file (so for {len(absent)} rows); "
            "to_parquet of the package datasets writes paths without bytes, so keep the files, or embed them"
        )


def _nested_values(cell: Any, where: str) -> Array:
    """The numbers of nested lists as an array; InputError if the lists are ragged or a value is missing."""
    compute = optional("pyarrow.compute", "parquet", where)
    if not cell.is_valid:
        raise InputError(f"{where}: the image is missing")
    values, shape = cell.values, [len(cell.values)]
    while is_list(values.type):
        lengths = compute.unique(compute.list_value_length(values)).to_pylist()
        if len(lengths) != 1 or lengths[0] is None:
            raise InputError(f"{where}: the lists of the image differ in length")
        shape.append(lengths[0])
        values = values.flatten()
    if values.null_count or values.type not in _number_types():
        raise InputError(f"{where}: the lists hold {values.type} and {values.null_count} missing values, not numbers")
    return np.asarray(values.to_numpy(zero_copy_only=False).reshape(shape))


def _number_types() -> tuple[Any, ...]:
    arrow = optional("pyarrow", "parquet", "parquet")
    whole = (arrow.uint8(), arrow.int8(), arrow.uint16(), arrow.int16(), arrow.uint32(), arrow.int32(), arrow.uint64())
    return (*whole, arrow.int64(), arrow.float16(), arrow.float32(), arrow.float64())


def _has_eight_bits(column: Any) -> bool:
    """Whether all values of all images are whole numbers in 0..255; decided for the column, not image by image."""
    arrow = optional("pyarrow", "parquet", "parquet")
    compute = optional("pyarrow.compute", "parquet", "parquet")
    values = column
    while is_list(values.type):
        values = compute.list_flatten(values)
    if not arrow.types.is_integer(values.type):
        return False
    extremes = compute.min_max(values).as_py()
    return extremes["min"] is not None and extremes["min"] >= 0 and extremes["max"] <= 255
