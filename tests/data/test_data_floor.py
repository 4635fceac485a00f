"""What logistic regression on raw pixels reaches, and CIFAR read from parquet files in a folder of its name."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitbench.data import DataOptions, facts, open_images
from vitbench.data.pixel_baseline import pixel_floor_percent


def test_pixels_say_something_but_not_all_and_are_fitted_once(tmp_path: Path) -> None:
    options = DataOptions(cache_dir=tmp_path)
    known = facts("digits", options)
    floor = pixel_floor_percent(known, "digits", options)
    assert 90 < floor < 99
    (kept,) = (tmp_path / "floors").iterdir()
    kept.write_text(json.dumps({"top1_percent": 12.5}))
    assert pixel_floor_percent(known, "digits", options) == 12.5


def _table(path: Path, images: list[np.ndarray], labels: list[int]) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def png(pixels: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    cells = [{"bytes": png(image), "path": None} for image in images]
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.table({"img": cells, "label": labels}), path)


def test_cifar10_is_found_as_parquet_and_counts_by_its_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(6)]
    for kind in ("train", "test"):
        _table(tmp_path / "cifar10" / f"{kind}-0.parquet", images, [0, 1, 0, 1, 0, 1])
    options = DataOptions(data_dir=tmp_path, cache_dir=tmp_path / "cache")
    data = open_images("torch/cifar10", options)
    assert data.train.images is not None
    assert {image.tobytes() for image in data.train.images} == {image.tobytes() for image in images}
    assert data.facts.fingerprint != open_images(f"parquet:{tmp_path / 'cifar10'}", options).facts.fingerprint
