"""The stored answers of networks to test images: `.npz` files, bounded before anything is unpacked.

An `.npz` is a zip of arrays, each with a small header. The sizes that the zip and the headers state are held against
each other and against a limit first, because reading an array allocates what its header states.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vitbench.base.contained import exists, read
from vitbench.base.errors import ResultsError

MAX_BYTES = 1 << 30
"""All arrays of a file together, unpacked; 20 trials of ImageNet's 50,000 test images need 4 MB."""
MAX_MEMBERS = 32

Array = npt.NDArray[Any]


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, Array]:
    """The named arrays of an `.npz`; numbers and text only.

    Raises FileNotFoundError, and ResultsError with one line where the file is damaged, too large or holds objects.
    """
    content = read(path, MAX_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_members(archive.infolist())
            return {name: _array(archive, f"{name}.npy") for name in names}
    except Exception as error:  # zipfile and numpy raise many kinds on damaged files
        raise ResultsError(f"{path}: cannot be read ({' '.join(str(error).split())[:300]})") from error


def _check_members(members: Sequence[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_MEMBERS or len({member.filename for member in members}) < len(members):
        raise ValueError(f"more than {MAX_MEMBERS} arrays, or two of one name")
    total = sum(member.file_size for member in members)
    if total > MAX_BYTES:
        raise ValueError(f"{total:,} bytes once unpacked, at most {MAX_BYTES:,} are read")


def _array(archive: zipfile.ZipFile, name: str) -> Array:
    """One array, once its header agrees with the size that the zip states."""
    with archive.open(name) as file:
        content = file.read(archive.getinfo(name).file_size + 1)
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"{name}: an array format that vitbench does not write")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject or dtype.kind not in "biufU":
        raise ValueError(f"{name}: holds {dtype}, not numbers or text")
    if math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise ValueError(f"{name}: its size is not what its header states")
    return np.load(io.BytesIO(content), allow_pickle=False)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Answers:
    """Answers to M test images with their `label` [M]; per trial id: the `predicted` class, `correct` (bool) and
    `confidence` (share) [M]."""

    label: Array
    predicted: Mapping[str, Array]
    correct: Mapping[str, npt.NDArray[np.bool_]]
    confidence: Mapping[str, Array]


def read_answers(folder: Path) -> Answers | None:
    """The answers in a run's `predictions.npz`; None without one. Raises ResultsError if it is damaged."""
    path = folder / "predictions.npz"
    if not exists(path):
        return None
    parts = read_arrays(path, ("trial_id", "label", "predicted", "confidence"))
    ids, label = [str(word) for word in parts["trial_id"].tolist()], parts["label"]
    table = (len(ids), label.size)
    if label.ndim != 1 or {parts[name].shape for name in ("predicted", "confidence")} != {table}:
        raise ResultsError(f"{path}: cannot be read (its arrays do not fit each other); `vitbench run` writes it again")
    return Answers(
        label,
        dict(zip(ids, parts["predicted"], strict=True)),
        dict(zip(ids, parts["predicted"] == label[None, :], strict=True)),
        dict(zip(ids, parts["confidence"].astype(np.float64) / 100.0, strict=True)),
    )


def read_trial_answers(path: Path, sha256: str | None) -> dict[str, Array]:
    """A trial's own answers, held against the hash in its record. Raises FileNotFoundError, ResultsError."""
    parts = read_arrays(path, ("index", "label", "predicted", "confidence"))
    if len({part.shape for part in parts.values()}) > 1 or parts["label"].ndim != 1:
        raise ResultsError(f"{path}: cannot be read (its arrays do not fit each other)")
    if sha256 not in (None, predictions_sha256(parts["predicted"])):
        raise ResultsError(f"{path}: not the answers of the trial's record")
    return parts


def predictions_sha256(predicted: Array) -> str:
    """The hash of predicted classes `[M]`, whatever their width in bytes."""
    return hashlib.sha256(predicted.astype("<i8").tobytes()).hexdigest()
