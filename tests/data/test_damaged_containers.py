"""Damaged tables and archives: the images, or one InputError that names the file. 150 cases."""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fuzz_profile import cases
from hypothesis import given
from hypothesis import strategies as st
from made_sets import picture, png, write_parquet

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, facts, open_images

FILES = [
    (f"{split}/{name}/{key}.png", key) for split in ("train", "test") for key, name in enumerate(("cat", "dog") * 3)
]


def npz() -> bytes:
    buffer, arrays = io.BytesIO(), {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = np.stack([picture(key) for key in range(6)])
        arrays[f"{split}_labels"] = np.arange(6)[:, None] % 2
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, key in FILES:
            archive.writestr(name, png(picture(key)))
    return buffer.getvalue()


def tarred(files: list[tuple[str, bytes]], mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def folders(mode: str) -> bytes:
    return tarred([(name, png(picture(key))) for name, key in FILES], mode)


def shard() -> bytes:
    pairs = [[(f"{key}.png", png(picture(key))), (f"{key}.cls", str(key % 2).encode())] for key in range(6)]
    return tarred([file for pair in pairs for file in pair], "w")


def parquet() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.parquet"
        write_parquet(path, [png(picture(key)) for key in range(8)], [0, 1] * 4, ["cat", "dog"])
        return path.read_bytes()


SOUND = {
    "npz": ("npz:{}/x.npz", npz()),
    "zip": ("zip:{}/x.zip", zipped()),
    "tar": ("tar:{}/x.tar", folders("w")),
    "tar.gz": ("tar:{}/x.tar.gz", folders("w:gz")),
    "webdataset": ("webdataset:{}/x.tar", shard()),
    "parquet": ("parquet:{}/x.parquet", parquet()),
}
edits = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 3), st.binary(max_size=4)), max_size=3)


def read(kind: str, content: bytes, folder: Path) -> str | None:
    """None where the images can be read, else the message of the InputError."""
    name = SOUND[kind][0].format(folder)
    Path(name.partition(":")[2]).write_bytes(content)
    options = DataOptions(data_dir=folder / "sets", cache_dir=folder / "cache")
    try:
        facts(name, options)
        images = open_images(name, options).train
        for i in range(len(images)):
            images.read(i)
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", SOUND)
def test_sound_files_are_read(kind: str, tmp_path: Path) -> None:
    assert read(kind, SOUND[kind][1], tmp_path) is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", SOUND)
@cases(25)
@given(changes=edits, share=st.floats(0.0, 1.0))
def test_damaged_files_are_one_line(
    kind: str, changes: list[tuple[int, int, bytes]], share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Bytes changed at up to three places, and the end cut off where nothing was changed."""
    folder, content = tmp_path_factory.mktemp("damaged"), SOUND[kind][1]
    for where, length, new in changes:
        start = where % (len(content) + 1)
        content = content[:start] + new + content[start + length :]
    said = read(kind, content if changes else content[: int(share * len(content))], folder)
    assert said is None or ("\n" not in said and "x." in said)
