"""Crops, mirrors, RandAugment and MixUp on images made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitbench.train.augment import (
    COLOUR_OPS,
    NUM_OPS,
    OPS,
    Augment,
    _unpadded,
    pad,
    padding,
    randaugment_op,
    resized_box,
)

LIGHT, MEDIUM, NONE = Augment("light", True, 0.0), Augment("medium", True, 0.2), Augment("none", False, 0.0)
IMAGE = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8)


def light(row: float, col: float, flip: float, mirrored: bool = True) -> torch.Tensor:
    augment = Augment("light", mirrored, 0.0)
    return (augment(pad(IMAGE, "light"), torch.tensor([[row, col, flip]])) * 255).round()[0, 0]


def test_none_is_the_image_itself() -> None:
    out = NONE(pad(IMAGE, "none"), torch.zeros(1, 0))
    assert torch.equal(out, IMAGE.float() / 255)
    assert NONE.lanes == 0


@pytest.mark.parametrize(
    ("row", "col", "down", "right"),
    [(0.0, 0.0, 1, 1), (0.5, 0.5, 0, 0), (0.99, 0.99, -1, -1), (0.34, 0.99, 0, -1), (0.0, 0.4, 1, 0)],
)
def test_crop_shifts_by_whole_pixels_over_zeros(row: float, col: float, down: int, right: int) -> None:
    """8 pixels are padded by 1: an offset of 0 shows one row of zeros above, an offset of 2 one below."""
    expected = torch.zeros(10, 10)
    expected[1 + down : 9 + down, 1 + right : 9 + right] = IMAGE[0, 0]
    assert torch.equal(light(row, col, 0.9), expected[1:9, 1:9])


def test_flip_mirrors_left_and_right_under_a_half_and_where_allowed() -> None:
    assert torch.equal(light(0.5, 0.5, 0.49), IMAGE[0, 0].float().flip(1))
    assert torch.equal(light(0.5, 0.5, 0.5), IMAGE[0, 0].float())
    assert torch.equal(light(0.5, 0.5, 0.0, mirrored=False), IMAGE[0, 0].float())


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 15, 16, 28, 32, 224])
def test_padded_side_gives_the_side_back(size: int) -> None:
    assert _unpadded(size + 2 * padding(size)) == size


def smooth_images() -> torch.Tensor:
    """Eleven equal images in [0, 1], one for each operation."""
    ramp = torch.linspace(0.05, 0.9, 16)
    image = torch.stack([ramp[:, None] * ramp, ramp.flip(0)[:, None].expand(16, 16), ramp.expand(16, 16)])
    return image.expand(len(OPS), 3, 16, 16).clone()


@pytest.mark.parametrize("sign", [0.25, 0.75])
def test_every_operation_but_identity_changes_the_image_and_stays_in_range(sign: float) -> None:
    images = smooth_images()
    which = (torch.arange(len(OPS)) + 0.5) / len(OPS)
    out = randaugment_op(images, which, torch.full((len(OPS),), sign))
    changed = {op for op, before, after in zip(OPS, images, out, strict=True) if (before - after).abs().max() > 1e-3}
    assert changed == set(OPS) - {"identity"}
    assert out.min() >= 0
    assert out.max() <= 1


def test_operations_by_hand() -> None:
    images = smooth_images()
    which = (torch.arange(len(OPS)) + 0.5) / len(OPS)
    out = dict(zip(OPS, randaugment_op(images, which, torch.full((len(OPS),), 0.75)), strict=True))
    torch.testing.assert_close(out["brightness"], (images[0] * 1.3).clamp(max=1))
    bright = images[0] >= 1 - 1 / 3
    torch.testing.assert_close(out["solarize"], torch.where(bright, 1 - images[0], images[0]))
    low, high = images[0].amin((1, 2), keepdim=True), images[0].amax((1, 2), keepdim=True)
    torch.testing.assert_close(out["autocontrast"], (images[0] - low) / (high - low))
    assert len(set((out["posterize"] * 255).round().flatten().tolist())) <= 2**7
    assert not set(COLOUR_OPS) & {"rotate", "shear_x"}


def test_translation_direction_is_opposite_for_opposite_signs() -> None:
    images = smooth_images()[:2, :1]
    which = torch.full((2,), (OPS.index("translate_x") + 0.5) / len(OPS))
    left, right = randaugment_op(images, which, torch.tensor([0.25, 0.75]))
    columns = torch.arange(16.0)
    centre = [(image.sum((0, 1)) * columns).sum() / image.sum() for image in (left, right)]
    assert centre[0] > centre[1]


def test_medium_runs_and_is_not_light() -> None:
    images = (smooth_images() * 255).to(torch.uint8)
    draws = torch.rand(len(images), MEDIUM.lanes, generator=torch.Generator().manual_seed(0))
    medium, plain = (a(pad(images, a.level), draws) for a in (MEDIUM, LIGHT))
    assert medium.shape == plain.shape == images.shape
    assert MEDIUM.lanes == 3 + 2 * NUM_OPS + 1
    assert (medium - plain).abs().amax((1, 2, 3)).gt(1e-3).sum() > len(images) // 2


def test_mixup_shares_are_those_of_its_beta_distribution() -> None:
    lanes = np.linspace(0.0005, 0.9995, 1000)[:, None]
    mixture = MEDIUM.mixture(np.tile(lanes, MEDIUM.lanes))
    assert mixture is not None
    shares = mixture.share
    assert shares.min() >= 0.5
    drawn = np.random.default_rng(0).beta(0.2, 0.2, 200_000)
    assert shares.mean() == pytest.approx(np.maximum(drawn, 1 - drawn).mean(), abs=0.005)
    assert LIGHT.mixture(lanes) is None


def test_sides_that_differ_are_padded_and_cropped_each_by_its_own_length() -> None:
    """8 x 16 pixels are padded by 1 and 2: the draws 0 show one row and two columns of zeros."""
    image = torch.arange(1, 129, dtype=torch.uint8).view(1, 1, 8, 16)
    out = (LIGHT(pad(image, "light"), torch.tensor([[0.0, 0.0, 0.9]])) * 255).round()[0, 0]
    expected = torch.zeros(8, 16)
    expected[1:, 2:] = image[0, 0, :7, :14]
    assert torch.equal(out, expected)


def test_a_crop_of_random_size_has_the_shape_of_the_target() -> None:
    draws = np.array([0.5, 0.5, 0.5, 0.2, 0.5])  # The middle of the aspects: the target's own.
    left, top, right, bottom = resized_box(300, 400, draws, 2.0)
    assert (right - left) / (bottom - top) == pytest.approx(2.0)
    assert resized_box(300, 400, draws) == resized_box(300, 400, draws, 1.0)
