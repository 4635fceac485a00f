"""Whatever bytes lie where images should: pixels, or one InputError that names the file. 920 cases in about 3 s."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_profile import cases
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save

from vitbench.base.errors import InputError
from vitbench.data.decode import decode, read_header
from vitbench.data.readers import cifar, idx, stl10, svhn
from vitbench.model.weights.start import read_shapes

PIXELS = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
BIG = np.arange(32 * 32 * 3, dtype=np.uint64).astype(np.uint8).reshape(32, 32, 3)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind)
    return buffer.getvalue()


def mat(do_compression: bool = False) -> bytes:
    from scipy.io import savemat

    buffer = io.BytesIO()
    arrays = {"X": BIG[:, :, :, None], "y": np.array([[10]])}
    savemat(buffer, arrays, do_compression=do_compression)
    return buffer.getvalue()


IDX = struct.pack(">4BI", 0, 0, 8, 1, 40) + bytes(range(40))
BATCH = pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]})

edits = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 3), st.binary(max_size=4)), min_size=1, max_size=4)


def mutated(content: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for where, length, new in changes:
        start = where % (len(content) + 1)
        content = content[:start] + new + content[start + length :]
    return content


def refused_or_read(read: Callable[[], Any], name: str) -> Any:
    """What `read` gives, or None where it raises an InputError of one line that names the file."""
    try:
        return read()
    except InputError as error:
        said = str(error)
    assert name in said
    assert "\n" not in said
    return None


def test_the_check_can_fail() -> None:
    with pytest.raises(ZeroDivisionError):
        refused_or_read(lambda: 1 / 0, "x")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.slow
@cases(300)
@given(
    content=st.sampled_from([encoded(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")]),
    changes=edits,
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_images(content: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    damaged = mutated(content, changes)
    refused_or_read(lambda: read_header(damaged, "a.png"), "a.png")
    pixels = refused_or_read(lambda: decode(damaged, "a.png", 3), "a.png")
    assert pixels is None or (pixels.dtype == np.uint8 and pixels.shape[2] == 3)


READERS: dict[str, tuple[str, bytes, Callable[[Path], Any]]] = {
    "idx": ("a", IDX, idx.read_idx),
    "idx.gz": ("a.gz", gzip.compress(IDX, mtime=0), idx.read_idx),
    "cifar": ("batch", BATCH, lambda path: cifar._split((path,), "labels")),
    "svhn": ("a.mat", mat(), svhn._split),
    "svhn, packed": ("b.mat", mat(do_compression=True), svhn._split),
    "safetensors": ("w.safetensors", save({"head.weight": np.zeros((2, 3), np.float32)}), read_shapes),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
@cases(100)
@given(changes=edits)
def test_files(kind: str, folder: Path, changes: list[tuple[int, int, bytes]]) -> None:
    name, content, read = READERS[kind]
    path = folder / name
    path.write_bytes(content)
    assert read(path) is not None
    path.write_bytes(mutated(content, changes))
    refused_or_read(lambda: read(path), str(path))


@cases(20)
@given(pixels=st.binary(max_size=50), labels=st.binary(max_size=3))
def test_stl10(folder: Path, pixels: bytes, labels: bytes) -> None:
    (folder / "x.bin").write_bytes(pixels)
    (folder / "y.bin").write_bytes(labels)
    refused_or_read(lambda: stl10._split(folder / "x.bin", folder / "y.bin"), "x.bin")
