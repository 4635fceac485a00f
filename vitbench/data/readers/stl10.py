"""STL-10: 5000 + 8000 labelled colour images, 96 x 96, from its binary files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vitbench.base.errors import InputError
from vitbench.data.source import Download, Files, Raw, Source, locate_files
from vitbench.data.types import DataOptions, Split

NAMES = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "class_names.txt")


def _locate(name: str, options: DataOptions) -> Files:
    return locate_files(name, (options.folder / "stl10_binary",), NAMES, options, Download("STL10"))


def _split(images: Path, labels: Path) -> Split:
    """One split. Its file stores pixels by channel and then by column; labels count from 1."""
    planes, targets = np.fromfile(images, dtype=np.uint8), np.fromfile(labels, dtype=np.uint8)
    if planes.size != targets.size * 3 * 96 * 96:
        raise InputError(f"{images}: {planes.size} bytes do not fit {targets.size} colour images of 96 x 96")
    pixels = planes.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)
    return Split(targets.astype(np.int64) - 1, np.ascontiguousarray(pixels))


def _load(name: str, files: Files) -> Raw:
    class_names = tuple(files[4].read_text().split())
    return Raw(_split(files[0], files[1]), _split(files[2], files[3]), class_names)


STL10 = Source(_locate, _load)
