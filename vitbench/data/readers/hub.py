"""A data set of the Hugging Face Hub: `hf:ORG/NAME`, through their `datasets` package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitbench.base.errors import InputError
from vitbench.data.readers.columns import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    ColumnChoice,
    choose_column,
    parse_columns,
)
from vitbench.data.readers.labels import LabelledSplit, from_values, to_raw
from vitbench.data.source import Files, Raw, Source, optional
from vitbench.data.split_names import SplitName, splits_in
from vitbench.data.types import DataOptions, Encoded


@dataclass(frozen=True)
class HubImages:
    """The images of one split by row."""

    split: Any
    column: str
    label: str

    def name(self, row: int) -> str:
        """Data set and row."""
        return f"{self.label}, row {row}"

    def identity(self, row: int) -> str:
        """Row, and the size of the image's file."""
        return f"{row} {len(self.load(row))}"

    def load(self, row: int) -> bytes:
        """The bytes of the cell, or of the file that it names. Raises InputError."""
        cell = self.split[row][self.column]
        if isinstance(cell, bytes):
            return cell
        if not isinstance(cell, dict) or (cell.get("bytes") is None and not cell.get("path")):
            raise InputError(f"{self.name(row)}: the image has no bytes and no path")
        try:
            content: bytes = cell["bytes"] if cell.get("bytes") is not None else Path(cell["path"]).read_bytes()
        except OSError as error:
            raise InputError(f"{self.name(row)}: {cell['path']} cannot be read ({error.strerror})") from error
        return content


def _open(name: str, download: bool) -> Any:
    """The `datasets.DatasetDict`, from the local cache unless a download is allowed."""
    datasets = optional("datasets", "hf", f"hf:{name}")
    datasets.config.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE or not download
    try:
        return datasets.load_dataset(name)
    except (OSError, ValueError, RuntimeError) as error:
        advice = "" if download else "; --download downloads it"
        raise InputError(f"hf:{name} could not be opened: {str(error).splitlines()[0]}{advice}") from error


def _locate(argument: str, options: DataOptions) -> Files:
    splits = _open(parse_columns(argument, f"hf:{argument}").path, options.download)
    return tuple(Path(file["filename"]) for key in sorted(splits) for file in splits[key].cache_files)


def _part(rows: Any, choice: ColumnChoice, where: str) -> LabelledSplit:
    """One split of the `DatasetDict`: its labels by name where the feature has names, its images as stored."""
    datasets = optional("datasets", "hf", where)
    image = choose_column("image", choice.image, IMAGE_COLUMNS, rows.column_names, where)
    label = choose_column("label", choice.label, LABEL_COLUMNS, rows.column_names, where)
    names = getattr(rows.features[label], "names", None) or ()
    labels = from_values(list(rows[label]), f"{where}, column {label}", names)
    store = HubImages(rows.cast_column(image, datasets.Image(decode=False)), image, where)
    return LabelledSplit(labels, Encoded(store, np.arange(len(labels.codes))))


def _keys(splits: Any, where: str) -> dict[SplitName, str]:
    """The key of each split by its name. Raises InputError without a training split, or if two keys mean one."""
    keys: dict[SplitName, str] = {}
    for key in sorted(splits):
        for name in splits_in(key) if len(splits_in(key)) == 1 else ():
            if name in keys:
                raise InputError(f"{where}: {keys[name]} and {key} are both splits for {name}")
            keys[name] = key
    if "train" not in keys:
        raise InputError(f"{where}: no split named train among {', '.join(sorted(splits))}")
    return keys


def _load(argument: str, files: Files) -> Raw:
    where = f"hf:{argument}"
    choice = parse_columns(argument, where)
    splits = _open(choice.path, download=False)
    keys = _keys(splits, where)
    parts = {name: _part(splits[key], choice, f"{where} {key}") for name, key in keys.items()}
    others = sorted(set(splits) - set(keys.values()))
    left_out = f"left out: the splits {', '.join(others)}" if others else None
    return to_raw(parts, where, {name: [key] for name, key in keys.items()}, left_out)


HUB = Source(_locate, _load)
