"""Street View House Numbers, the cropped digits: `train_32x32.mat` and `test_32x32.mat`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vitbench.base.errors import InputError
from vitbench.data.readers.matlab import read_arrays
from vitbench.data.source import Download, Files, Raw, Source, locate_files
from vitbench.data.types import DataOptions, Split

NAMES = ("train_32x32.mat", "test_32x32.mat")


def _locate(name: str, options: DataOptions) -> Files:
    download = Download("SVHN", ({"split": "train"}, {"split": "test"}))
    return locate_files(name, (options.folder,), NAMES, options, download)


def _split(path: Path) -> Split:
    """One split. The digit 0 is class 10 in the files and class 0 here."""
    try:
        content = read_arrays(path.read_bytes())
        images, labels = content["X"].transpose(3, 0, 1, 2), content["y"].ravel()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a MATLAB file with X and y ({error})") from error
    if labels.dtype.kind not in "iu":
        raise InputError(f"{path}: y is {labels.dtype}; whole numbers are needed")
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or len(images) != len(labels):
        raise InputError(
            f"{path}: X is {images.dtype} {images.shape} with {len(labels)} labels; bytes [n, 32, 32, 3] are needed"
        )
    return Split(np.where(labels == 10, 0, labels).astype(np.int64), np.ascontiguousarray(images))


def _load(name: str, files: Files) -> Raw:
    return Raw(_split(files[0]), _split(files[1]), tuple("0123456789"))


SVHN = Source(_locate, _load, flip=False)
