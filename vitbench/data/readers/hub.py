"""A data set of the Hugging Face Hub: `hf:ORG/NAME`, through their `datasets` package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitbench.base.errors import InputError
from vitbench.data.readers.parquet import choose_columns
from vitbench.data.source import Files, Raw, Source, optional
from vitbench.data.types import DataOptions, Encoded, Split


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
        """The bytes of the cell, or of the file that it names."""
        cell = self.split[row][self.column]
        content: bytes = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
        return content


def _open(name: str, download: bool) -> Any:
    """The `datasets.DatasetDict`, from the local cache unless a download is allowed."""
    datasets = optional("datasets", "hf", f"hf:{name}")
    datasets.config.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE or not download
    try:
        return datasets.load_dataset(name)
    except (OSError, ValueError, RuntimeError) as error:
        advice = "" if download else "; --download would fetch it"
        raise InputError(f"hf:{name} could not be opened: {str(error).splitlines()[0]}{advice}") from error


def _locate(name: str, options: DataOptions) -> Files:
    splits = _open(name, options.download)
    return tuple(Path(file["filename"]) for key in sorted(splits) for file in splits[key].cache_files)


def _split(splits: Any, key: str, where: str) -> tuple[Split, tuple[str, ...]]:
    datasets = optional("datasets", "hf", where)
    image, label = choose_columns(splits[key].column_names, where)
    class_names = tuple(getattr(splits[key].features[label], "names", ()))
    labels = np.asarray(splits[key][label], dtype=np.int64)
    undecoded = splits[key].cast_column(image, datasets.Image(decode=False))
    store = HubImages(undecoded, image, f"{where} {key}")
    return Split(labels, encoded=Encoded(store, np.arange(len(labels)))), class_names


def _load(name: str, files: Files) -> Raw:
    splits, where = _open(name, download=False), f"hf:{name}"
    if "train" not in splits:
        raise InputError(f"{where}: no split named train among {', '.join(sorted(splits))}")
    train, class_names = _split(splits, "train", where)
    test = next((key for key in ("test", "validation") if key in splits), None)
    return Raw(train, None if test is None else _split(splits, test, where)[0], class_names)


HUB = Source(_locate, _load)
