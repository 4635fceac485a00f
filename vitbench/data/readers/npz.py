"""Arrays in one file: `npz:PATH`, in MedMNIST's layout or Keras'.

MedMNIST: `train_images`, `train_labels`, `val_images`, ... Keras: `x_train`, `y_train`, `x_test`, ... Images are
`uint8 [n, H, W]` or `[n, H, W, C]` with C of 1 or 3; labels are whole numbers or text, `[n]` or `[n, 1]`.
Source of the layout: Yang et al. 2023, "MedMNIST v2". Any number of images is allowed.
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from vitbench.base.errors import InputError
from vitbench.data.depth import array_file
from vitbench.data.readers.labels import LabelledSplit, Labels, from_numbers, from_texts, to_raw
from vitbench.data.source import Files, Raw, Source
from vitbench.data.split_names import SplitName
from vitbench.data.types import DataOptions, Encoded, Pixels

SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
LAYOUTS = (("{}_images", "{}_labels"), ("x_{}", "y_{}"))
ARRAY_KEYS = {key.format(split) for split in SPLITS for layout in LAYOUTS for key in layout}
MEMORY_SHARE = 0.5
"""Arrays that take a larger share of this machine's memory are refused before they are unpacked."""

Array = npt.NDArray[Any]


def _locate(argument: str, options: DataOptions) -> Files:
    path = Path(argument).expanduser()
    if not argument or not path.is_file():
        raise InputError(f"npz:{argument}: there is no such file")
    return (path,)


def _load(argument: str, files: Files) -> Raw:
    path = files[0]
    arrays, other_keys = _read(path)
    parts: dict[SplitName, LabelledSplit] = {}
    taken_from: dict[SplitName, list[str]] = {}
    for split in SPLITS:
        for layout in LAYOUTS:
            images, labels = (key.format(split) for key in layout)
            if images in arrays and labels in arrays:
                taken_from[split] = [images]
                parts[split] = _part(arrays[images], arrays[labels], f"{path}, {images}", f"{path}, {labels}")
            elif images in arrays or labels in arrays:
                present, missing = (images, labels) if images in arrays else (labels, images)
                raise InputError(f"{path}: has {present} and no {missing}")
    if "train" not in parts:
        keys = ", ".join(sorted({*arrays, *other_keys})) or "nothing"
        raise InputError(f"{path}: no train_images and train_labels (or x_train and y_train); the file has {keys}")
    left_out = f"left out: the arrays {', '.join(other_keys[:5])}" if other_keys else None
    return to_raw(parts, str(path), taken_from, left_out)


def _read(path: Path) -> tuple[dict[str, Array], list[str]]:
    """The arrays of the splits, and the names of all others; a pickled array is refused, so nothing can run code."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            used = {key: entry for key, entry in entries.items() if key in ARRAY_KEYS}
            _check_memory(sum(entry.file_size for entry in used.values()), path)
            arrays = {key: _array(archive.open(entry), entry.file_size) for key, entry in used.items()}
            return arrays, sorted(set(entries) - set(used))
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: not an .npz file that can be read ({reason})") from error


def _array(file: IO[bytes], num_bytes: int) -> Array:
    """The array of one entry of `num_bytes`; ValueError if its header promises another size."""
    with file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read_header(file)
        if dtype.hasobject:
            raise ValueError("an array of Python objects")
        count = math.prod(shape)
        if count * dtype.itemsize > num_bytes:
            raise ValueError(f"{num_bytes} bytes where the header says shape {shape} of {dtype}")
        values = np.frombuffer(file.read(count * dtype.itemsize), dtype=dtype, count=count)
        return values.reshape(shape, order="F" if fortran_order else "C")


def _check_memory(num_bytes: int, path: Path) -> None:
    limit = int(MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    if num_bytes > limit:
        raise InputError(
            f"{path}: its arrays take {num_bytes / 2**30:.1f} GiB once unpacked, more than half of this machine's "
            f"memory ({limit / 2**30:.1f} GiB); use a smaller image size, or files in folders"
        )


def _part(images: Array, labels: Array, images_at: str, labels_at: str) -> LabelledSplit:
    pixels, classes = _pixels(images, images_at), _labels(labels, labels_at)
    if len(images) != len(classes.codes):
        raise InputError(f"{images_at}: {len(images)} images do not go with {len(classes.codes)} labels")
    return LabelledSplit(classes, pixels)


def _pixels(images: Array, where: str) -> Pixels | Encoded:
    """`uint8 [n, H, W, C]` from grey images, with or without a channel axis, or colour images; deep ones as files."""
    if images.ndim == 4 and images.shape[-1] not in (1, 3):
        raise InputError(
            f"{where}: shape {images.shape} is neither [n, H, W], [n, H, W, 1] nor [n, H, W, 3]; "
            "volumes and channels first are not read"
        )
    if images.ndim not in (3, 4) or 0 in images.shape[1:]:
        raise InputError(f"{where}: shape {images.shape}; [n, H, W], [n, H, W, 1] or [n, H, W, 3] is needed")
    if images.dtype.kind not in "uif":
        raise InputError(f"{where}: the images are {images.dtype}; numbers are needed")
    if images.dtype != np.uint8 and not (images.dtype.kind != "f" and images.min() >= 0 and images.max() <= 255):
        values = images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images
        return Encoded(ArrayImages(where, values), np.arange(len(values)))
    return (images[..., None] if images.ndim == 3 else images).astype(np.uint8)


@dataclass(frozen=True)
class ArrayImages:
    """Images `[n, H, W]` or `[n, H, W, 3]` of more than 8 bits per value."""

    where: str
    values: Array

    def name(self, row: int) -> str:
        """Array and row."""
        return f"{self.where}, image {row}"

    def identity(self, row: int) -> str:
        """The row."""
        return str(row)

    def load(self, row: int) -> bytes:
        """The values as the bytes of an .npy file."""
        return array_file(self.values[row])


def _labels(labels: Array, where: str) -> Labels:
    """One label an image; several columns are the labels of a multi-label set, which has no single class."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        raise InputError(
            f"{where}: a multi-label set with {labels.shape[1]} labels per image; vitbench needs one class per image"
        )
    if labels.ndim != 1:
        raise InputError(f"{where}: shape {labels.shape}; [n] or [n, 1] is needed")
    if labels.dtype.kind == "b":
        return from_texts([str(value).lower() for value in labels.tolist()], where)
    if labels.dtype.kind == "U":
        return from_texts(labels.tolist(), where)
    if labels.dtype.kind not in "iu":
        raise InputError(f"{where}: the labels are {labels.dtype}; whole numbers or text are needed")
    return from_numbers(labels, where)


NPZ = Source(_locate, _load)
