"""Tiny data sets made on the spot: folders, parquet files, and the binary layouts of the named sets."""

from __future__ import annotations

import gzip
import io
import json
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def picture(key: int, height: int = 8, width: int = 8, in_chans: int = 3) -> Pixels:
    """Noise `[height, width, in_chans]` that depends on the key alone."""
    return np.random.default_rng(key).integers(0, 256, (height, width, in_chans), dtype=np.uint8)


def png(pixels: Pixels) -> bytes:
    """The picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze() if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(root: Path, classes: dict[str, int], start: int = 0, **size: int) -> Path:
    """A folder with so many pictures a class; keys of pictures count up from `start`."""
    for name, num in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(num):
            (root / name / f"{i:03d}.png").write_bytes(png(picture(start, **size)))
            start += 1
    return root


def write_parquet(path: Path, images: list[bytes], labels: list[int], names: list[str] | None = None) -> None:
    """A parquet file in Hugging Face's layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    cells = pa.array([{"bytes": image, "path": None} for image in images], kind)
    table = pa.table({"img": cells, "label": pa.array(labels, pa.int64())})
    if names is not None:
        features = {"features": {"label": {"names": names, "_type": "ClassLabel"}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": features})})
    pq.write_table(table, path)


def idx_bytes(array: Pixels) -> bytes:
    """The array as an IDX file."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder: Path, images: Pixels, labels: Pixels, compress: bool) -> None:
    """Four IDX files; the test files hold the first two images of the training files, brightness reversed."""
    folder.mkdir(parents=True)
    for part, (x, y) in {"train": (images, labels), "t10k": (255 - images[:2], labels[:2])}.items():
        for kind, array in {"images-idx3": x, "labels-idx1": y}.items():
            content = idx_bytes(array)
            path = folder / f"{part}-{kind}-ubyte{'.gz' if compress else ''}"
            path.write_bytes(gzip.compress(content) if compress else content)
