"""scikit-learn's handwritten digits: 1797 real grey images, 8 x 8, ten classes, inside its wheel."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from vitbench.base.errors import InputError
from vitbench.data.source import Files, Raw, Source
from vitbench.data.types import DataOptions, Split


def _locate(name: str, options: DataOptions) -> Files:
    package = find_spec("sklearn")  # the file is read without importing scikit-learn, which takes a second
    path = Path(package.origin).parent / "datasets/data/digits.csv.gz" if package and package.origin else None
    if path is None or not path.is_file():
        raise InputError(f"data set {name} not found: scikit-learn, whose wheel holds it, is not installed")
    return (path,)


def _load(name: str, files: Files) -> Raw:
    """Pixels 0..16 become 0..255; the set has no test split."""
    table = np.loadtxt(files[0], delimiter=",")
    images = np.round(table[:, :-1] * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    return Raw(Split(table[:, -1].astype(np.int64), images), None, tuple("0123456789"))


DIGITS = Source(_locate, _load, flip=False, pixels_publishable=True)
