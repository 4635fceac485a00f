"""What training minimises, against torch, against direct loops and counted on real batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vitbench.data import DataOptions, open_images
from vitbench.train import losses as o
from vitbench.train.objectives.masked_patch import MaskedPatch
from vitbench.train.sampling import Order

MASKED = MaskedPatch()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_cross_entropy_is_torchs(smoothing: float) -> None:
    logits, labels = 4 * random(3, 16, 7), torch.arange(48).view(3, 16) % 7
    expected = [F.cross_entropy(x, y, label_smoothing=smoothing) for x, y in zip(logits, labels, strict=True)]
    torch.testing.assert_close(o.cross_entropy(logits, labels, smoothing), torch.stack(expected))


def test_mixup_loss_is_cross_entropy_of_mixed_labels() -> None:
    logits, labels = random(2, 5, 4), torch.tensor([[0, 1, 2, 3, 0], [3, 3, 1, 0, 2]])
    mix = torch.rand(2, 5, generator=torch.Generator().manual_seed(1))
    for e in range(2):
        own, other = (F.one_hot(y, 4).float() for y in (labels[e], torch.roll(labels[e], 1)))
        target = mix[e, :, None] * own + (1 - mix[e, :, None]) * other
        expected = F.cross_entropy(logits[e], target, label_smoothing=0.1)
        torch.testing.assert_close(o.cross_entropy(logits, labels, 0.1, (mix, labels.roll(1, dims=1)))[e], expected)


def real_batches(num_steps: int, num_patches: int, ratio: float = 0.5) -> list[o.Corruption]:
    """The corruption of the first batches of 64 images, as training asks for it."""
    order = Order(0, np.arange(400), 64, {})
    spec = MASKED.model_copy(update={"mask_ratio": ratio})
    batches = [order.batch(step) for step in range(num_steps)]
    return [o.corrupt(spec, num_patches, 0, b.epoch, b.index) for b in batches]


@pytest.mark.parametrize("ratio", [0.15, 0.5, 0.9])
@pytest.mark.parametrize("num_patches", [4, 16, 49])
def test_corrupted_fraction_is_exact_in_every_image(num_patches: int, ratio: float) -> None:
    for drawn in real_batches(8, num_patches, ratio):
        counts = (drawn.action != o.INTACT).sum(1)
        assert (counts == max(1, round(ratio * num_patches))).all()


def test_eighty_ten_ten() -> None:
    actions = np.concatenate([d.action for d in real_batches(40, 16)])
    corrupted = actions[actions != o.INTACT]
    assert len(corrupted) == 40 * 64 * 8
    for action, share in ((o.MASKED, 0.8), (o.REPLACED, 0.1), (o.UNCHANGED, 0.1)):
        deviation = 4 * np.sqrt(share * (1 - share) / len(corrupted))
        assert abs((corrupted == action).mean() - share) < deviation


def test_every_patch_is_corrupted_and_replaced_alike() -> None:
    batches = real_batches(40, 16)
    actions, sources = (np.concatenate([getattr(d, what) for d in batches]) for what in ("action", "source"))
    share = (actions != o.INTACT).mean(0)
    assert np.abs(share - 0.5).max() < 4 * 0.5 / np.sqrt(len(actions))
    assert (sources != np.arange(16)).all(), "a patch is never replaced by itself"
    counts = np.stack([(sources == p).mean() for p in range(16)])
    assert np.abs(counts - 1 / 16).max() < 0.01


def test_corruption_belongs_to_seed_epoch_and_image() -> None:
    index, epoch = np.array([3, 9, 4]), np.array([0, 0, 1])
    whole = o.corrupt(MASKED, 16, 7, epoch, index)
    for row in range(3):
        alone = o.corrupt(MASKED, 16, 7, epoch[row : row + 1], index[row : row + 1])
        assert np.array_equal(alone.action[0], whole.action[row])
        assert np.array_equal(alone.source[0], whole.source[row])
    for other in (o.corrupt(MASKED, 16, 8, epoch, index), o.corrupt(MASKED, 16, 7, epoch + 1, index)):
        assert not np.array_equal(other.action, whole.action)


@pytest.mark.parametrize("in_chans", [1, 3])
def test_colour_bins_are_inverted(in_chans: int) -> None:
    """The centre of every bin's box falls into that bin, and each bin is reached once."""
    levels = np.stack(np.meshgrid(*[np.arange(8)] * in_chans, indexing="ij"), -1).reshape(-1, in_chans)
    bins = o.colour_bins(torch.from_numpy((levels + 0.5) / 8))
    assert bins.tolist() == list(range(8**in_chans))
    assert o.colour_bins(torch.tensor([[1.0] * in_chans, [0.0] * in_chans])).tolist() == [8**in_chans - 1, 0]


def direct_bins(patch: np.ndarray, side: int) -> list[int]:
    """3-bit mean colours of `side` x `side` cells of a patch of bytes `[P, P, C]`, by loops over whole numbers."""
    size = len(patch) // side
    out = []
    for row in range(side):
        for col in range(side):
            sums = patch[row * size : (row + 1) * size, col * size : (col + 1) * size].sum((0, 1), dtype=int).tolist()
            digits = [min(7, 8 * total // (255 * size * size)) for total in sums]
            out.append(sum(d * 8 ** (len(digits) - 1 - i) for i, d in enumerate(digits)))
    return out


@pytest.mark.parametrize(("name", "patch"), [("fake", 2), ("fake", 4), ("fake_colour", 4), ("fake_colour", 8)])
def test_targets_against_a_loop_on_real_images(name: str, patch: int) -> None:
    images = open_images(name, DataOptions()).train.images
    assert images is not None
    images = images[:40]
    unit = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    starts = range(0, images.shape[1], patch)
    patches = [[image[y : y + patch, x : x + patch] for y in starts for x in starts] for image in images]
    colour = o.patch_targets(MASKED, unit, patch)
    assert colour.tolist() == [[direct_bins(p, 1) for p in image] for image in patches]
    small = o.patch_targets(MASKED.model_copy(update={"target": "downsampled"}), unit, patch)
    assert small.tolist() == [[direct_bins(p, min(4, patch // 2)) for p in image] for image in patches]
    pixels = o.patch_targets(MASKED.model_copy(update={"target": "pixels"}), unit, patch)
    assert np.array_equal((255 * pixels).round().numpy(), [[p.reshape(-1) for p in image] for image in patches])


def test_a_mean_between_two_levels_is_in_the_upper_one() -> None:
    """On bytes 1 of 4 pixels at 255 is exactly level 2, which rounding may miss in either direction."""
    for ups in range(5):
        unit = torch.tensor([[255.0] * ups + [0.0] * (4 - ups)]).view(1, 1, 2, 2) / 255
        assert o.patch_targets(MASKED, unit, 2).item() == min(7, 2 * ups)


@pytest.mark.parametrize(("patch", "side"), [(1, 1), (2, 1), (3, 1), (4, 2), (7, 3), (8, 4), (16, 4), (32, 4)])
def test_cells_of_the_downsampled_target(patch: int, side: int) -> None:
    assert o.cells(patch) == side


@pytest.mark.parametrize("target", ["mean_colour", "downsampled", "pixels"])
def test_loss_is_on_corrupted_patches_only(target: Any) -> None:
    spec = MASKED.model_copy(update={"target": target})
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = o.patch_targets(spec, images, 4).view(2, 2, 4, -1)
    width = 16 if target == "pixels" else 8 * targets.shape[-1]
    drawn = o.corrupt(spec, 4, 0, np.zeros(4, int), np.arange(4))
    action = torch.from_numpy(drawn.action).view(2, 2, 4)
    predicted = random(2, 2, 4, width)
    loss = o.masked_patch_loss(spec, predicted, targets, action)
    intact = (action == o.INTACT).unsqueeze(-1)
    assert torch.equal(
        o.masked_patch_loss(spec, predicted + 5 * random(2, 2, 4, width, seed=1) * intact, targets, action), loss
    )
    for kind in (o.MASKED, o.REPLACED, o.UNCHANGED):
        one = torch.zeros(2, 2, 4, dtype=torch.long)
        one[:, 0, 1] = kind
        moved = o.masked_patch_loss(spec, predicted + random(2, 2, 4, width, seed=1), targets, one)
        assert not torch.isclose(moved, o.masked_patch_loss(spec, predicted, targets, one)).any()


def test_loss_of_classes_is_cross_entropy_of_the_corrupted() -> None:
    predicted, targets = random(1, 3, 4, 8), torch.arange(12).view(1, 3, 4, 1) % 8
    action = torch.tensor([[[1, 0, 0, 2], [0, 3, 1, 0], [0, 0, 1, 1]]])
    corrupted = action[0] != 0
    expected = F.cross_entropy(predicted[0][corrupted], targets[0, ..., 0][corrupted])
    torch.testing.assert_close(o.masked_patch_loss(MASKED, predicted, targets, action)[0], expected)
    hits, count = o.masked_patch_hits(predicted, targets, action)
    right = (predicted[0].argmax(-1) == targets[0, ..., 0]) & corrupted
    assert (hits.item(), count.item()) == (right.sum().item(), 6)
