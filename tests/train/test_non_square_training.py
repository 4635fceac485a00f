"""Images whose sides differ, from the file to the trained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_jobs import CPU, VIT

from vitbench.data import DataOptions, centre_crop, facts
from vitbench.plan.resolve import resolve
from vitbench.spec.trial import DataSpec, ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec
from vitbench.train.loop import train_stack
from vitbench.train.resident import load_images
from vitbench.train.trainer import Job, Trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`folder:PATH` of 20 x 40 images, dark in their left half or in their right half."""
    root, rng = tmp_path_factory.mktemp("wide"), np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 10)):
        for label in range(2):
            place = root / part / f"side_{label}"
            place.mkdir(parents=True)
            for i in range(count):
                image = rng.integers(100, 256, (20, 40, 3))
                image[:, 20 * label : 20 * label + 20] //= 3
                Image.fromarray(image.astype(np.uint8)).save(place / f"{i:02d}.png")
    return f"folder:{root}"


def spec(folder: str, img_size: Any = (8, 16), **train: Any) -> TrialSpec:
    written = TrialSpec(
        model=ModelSpec(**VIT),
        data=DataSpec(name=folder, img_size=img_size, flip=False),
        train=TrainSpec(**{"steps": 40, "batch_size": 16, "lr": 5e-3, **train}),
    )
    return resolve(written, facts(folder, DataOptions()))


def trained(spec: TrialSpec, options: DataOptions) -> Any:
    images = load_images(spec.data, options, CPU)
    trainer = Trainer([Job(spec, 0)], images, CPU)
    (member,) = train_stack(trainer, lambda *_: None)
    return trainer, member


def test_the_whole_image_is_trained_on_and_classified(folder: str) -> None:
    trainer, member = trained(spec(folder), DataOptions())
    assert member.state["pos_embed"].shape == (1, 1 + 2 * 4, 16)
    (answer,) = trainer.test()
    assert answer.top1_percent == 100.0


@pytest.mark.parametrize(
    "train",
    [{}, {"augment": "medium"}, {"objective": ObjectiveSpec(name="masked_patch", target="downsampled")}],
)
def test_streamed_is_resident(folder: str, train: dict[str, Any], tmp_path: Path) -> None:
    one = spec(folder, steps=6, **train)
    (_, resident), (_, streamed) = (
        trained(one, options) for options in (DataOptions(), DataOptions(stream=True, cache_dir=tmp_path))
    )
    assert all(torch.equal(tensor, streamed.state[name]) for name, tensor in resident.state.items())


def test_crops_of_random_size_have_the_targets_shape(folder: str) -> None:
    one = spec(folder, (40, 80), steps=2)
    images = load_images(one.data, DataOptions(), CPU, originals=True)
    trainer = Trainer([Job(one, 0)], images, CPU)
    ((_, unit),) = trainer.feed(0)
    trainer.feed.close()
    assert unit.shape == (1, 16, 3, 40, 80)


def test_the_centre_crop_is_the_largest_box_of_the_targets_shape() -> None:
    """Of 40 x 40 pixels to 10 x 20: rows 10 to 30. Pillow's filter reads a row beyond the box, so the edges differ."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 1)).astype(np.uint8)
    expected = Image.fromarray(pixels[10:30, :, 0]).resize((20, 10), Image.Resampling.BILINEAR)
    wide = centre_crop(pixels, (10, 20))
    assert wide.shape == (10, 20, 1)
    assert np.array_equal(wide[1:-1, :, 0], np.asarray(expected)[1:-1])
    tall = centre_crop(pixels, (20, 10))
    assert tall.shape == (20, 10, 1)
    turned = centre_crop(pixels.transpose(1, 0, 2), (10, 20)).transpose(1, 0, 2)
    np.testing.assert_allclose(tall.astype(int), turned, atol=1)  # Pillow rounds after each axis.
    assert centre_crop(pixels, (40, 40)) is pixels
