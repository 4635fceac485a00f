"""CIFAR-10 and CIFAR-100: their Python archives in torchvision's layout, else parquet files in a folder of the name."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vitbench.base.errors import InputError
from vitbench.data.readers.parquet import PARQUET
from vitbench.data.source import Download, Files, Raw, Source, locate_files, present
from vitbench.data.types import DataOptions, Split, resident

CIFAR10_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
CIFAR100_FILES = ("train", "test", "meta")
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
}  # fmt: skip
MULTIARRAY = "numpy._core.multiarray" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "numpy.core.multiarray"
"""Where this numpy has `_reconstruct`; a file names the place of the numpy that wrote it."""


class _ArrayUnpickler(pickle.Unpickler):
    """Reads plain values and numpy arrays, and refuses a file with anything else, so that no file can run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it needs {module}.{name}")
        return super().find_class(MULTIARRAY if name == "_reconstruct" else module, name)


def _read(path: Path) -> dict[str, Any]:
    """The dictionary in one batch file."""
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
    except Exception as error:  # Damaged pickles raise many kinds of errors, even MemoryError.
        raise InputError(f"{path}: not a batch file of CIFAR ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a batch file of CIFAR (holds a {type(content).__name__})")
    return content


def _split(paths: tuple[Path, ...], label_key: str) -> Split:
    batches = [_read(path) for path in paths]
    for path, batch in zip(paths, batches, strict=True):
        data, labels = batch.get("data"), batch.get(label_key)
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
            raise InputError(f"{path}: needs `data`, bytes of shape [n, 3072]")
        if not isinstance(labels, list) or len(labels) != len(data) or any(type(label) is not int for label in labels):
            raise InputError(f"{path}: needs `{label_key}`, a list of {len(data)} whole numbers")
    planes = np.concatenate([batch["data"] for batch in batches])
    targets = np.concatenate([np.asarray(batch[label_key], dtype=np.int64) for batch in batches])
    return Split(targets, np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)))


def _locate(name: str, options: DataOptions, folder: str, names: tuple[str, ...], dataset: str) -> Files:
    tables = tuple(sorted((options.folder / name).glob("*.parquet")))
    if tables and present(options.folder / folder, names) is None:
        return tables
    return locate_files(name, (options.folder / folder, options.folder / name), names, options, Download(dataset))


def _load(name: str, files: Files, label_key: str, names_key: str) -> Raw:
    if files[0].suffix == ".parquet":
        raw = PARQUET.load(str(files[0].parent), files)
        return Raw(_decoded(raw.train), _decoded(raw.test) if raw.test else None, raw.class_names)
    *train, test, meta = files
    names = _read(meta).get(names_key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{meta}: needs `{names_key}`, a list of class names")
    return Raw(_split(tuple(train), label_key), _split((test,), label_key), tuple(names))


def _decoded(split: Split) -> Split:
    """The images as pixels, so that parquet files and archives of the same images have one fingerprint."""
    return Split(split.labels, resident(split, 32))


CIFAR10 = Source(
    partial(_locate, folder="cifar-10-batches-py", names=CIFAR10_FILES, dataset="CIFAR10"),
    partial(_load, label_key="labels", names_key="label_names"),
)
CIFAR100 = Source(
    partial(_locate, folder="cifar-100-python", names=CIFAR100_FILES, dataset="CIFAR100"),
    partial(_load, label_key="fine_labels", names_key="fine_label_names"),
)
