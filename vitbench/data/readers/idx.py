"""MNIST and Fashion-MNIST: IDX files, plain or gzipped, in the layout of torchvision or of Debian's package."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vitbench.base.errors import InputError
from vitbench.data.source import Download, Files, Raw, Source, locate_files
from vitbench.data.types import DataOptions, Split

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
MAX_BYTES = 200_000_000
"""Four times the largest file of MNIST. A gzip file that unpacks to more is refused as a decompression bomb."""
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """The array of one IDX file of unsigned bytes. Raises InputError if the file is cut short or is not an IDX file."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{path}: more than {MAX_BYTES:,} bytes once unpacked")
    if len(data) < 4 or data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise InputError(f"{path}: not an IDX file of bytes (starts with {data[:8]!r})")
    shape = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    body = np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * len(shape))
    if body.size != math.prod(shape):
        raise InputError(f"{path}: {body.size} bytes of data, but its header states {math.prod(shape)}")
    return body.reshape(shape)


def _split(images: Path, labels: Path) -> Split:
    pixels, targets = read_idx(images), read_idx(labels)
    if pixels.ndim != 3 or targets.ndim != 1 or len(pixels) != len(targets):
        raise InputError(f"{images}: shape {pixels.shape} does not fit {len(targets)} labels in {labels.name}")
    return Split(targets.astype(np.int64), pixels[:, :, :, None])


def _locate(name: str, options: DataOptions, dataset: str, elsewhere: tuple[Path, ...]) -> Files:
    folders = (options.folder / dataset / "raw", *elsewhere)
    return locate_files(name, folders, NAMES, options, Download(dataset))


def _load(name: str, files: Files, class_names: tuple[str, ...]) -> Raw:
    return Raw(_split(files[0], files[1]), _split(files[2], files[3]), class_names)


MNIST = Source(
    partial(_locate, dataset="MNIST", elsewhere=()), partial(_load, class_names=tuple("0123456789")), flip=False
)
FASHION_MNIST = Source(
    partial(_locate, dataset="FashionMNIST", elsewhere=(DEBIAN_FASHION,)),
    partial(_load, class_names=FASHION_CLASSES),
    flip=False,
    pixels_publishable=True,
)
