"""Street View House Numbers, the cropped digits: `train_32x32.mat` and `test_32x32.mat`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vitbench.data.images import DataOptions, Split
from vitbench.data.source import Download, Files, Raw, Source, locate_files
from vitbench.errors import InputError

NAMES = ("train_32x32.mat", "test_32x32.mat")


def _locate(name: str, options: DataOptions) -> Files:
    download = Download("SVHN", ({"split": "train"}, {"split": "test"}))
    return locate_files(name, (options.folder,), NAMES, options, download)


def _split(path: Path) -> Split:
    """The files call the digit 0 class 10; here it is class 0."""
    from scipy.io import loadmat

    try:
        content = loadmat(path)
        images, labels = content["X"].transpose(3, 0, 1, 2), content["y"].astype(np.int64).ravel()
    except Exception as error:  # scipy raises what it likes on damaged files
        raise InputError(f"{path}: not a MATLAB file with X and y ({' '.join(str(error).split())})") from error
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or len(images) != len(labels):
        raise InputError(
            f"{path}: X is {images.dtype} {images.shape} with {len(labels)} labels; bytes [n, 32, 32, 3] are needed"
        )
    return Split(np.where(labels == 10, 0, labels), np.ascontiguousarray(images))


def _load(name: str, files: Files) -> Raw:
    return Raw(_split(files[0]), _split(files[1]), tuple("0123456789"))


SVHN = Source(_locate, _load, flip=False)
