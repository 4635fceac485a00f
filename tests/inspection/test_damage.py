"""Damaged images keep what they should and lose the rest; an adversarial patch does more harm than noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vitbench.inspection.measures import adversarial, corruptions, perturb, reconstruction
from vitbench.train.losses import patch_targets
from vitbench.train.objectives.masked_patch import MaskedPatch

SIDE = 12


def images(seed: int = 0, channels: int = 3) -> Tensor:
    return torch.rand((5, channels, SIDE, SIDE), generator=torch.Generator().manual_seed(seed))


def test_cells_that_do_not_divide_the_side_cover_it() -> None:
    index = perturb.cell_of_pixel(28, 5)
    assert set(index.flatten().tolist()) == set(range(25))
    assert set(index.flatten().bincount().tolist()) <= {25, 30, 36}


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 1.0])
def test_as_many_cells_are_dropped_as_asked(ratio: float) -> None:
    order = torch.rand((5, 16), generator=torch.Generator().manual_seed(0))
    dropped = perturb.first_of(order, ratio)
    assert dropped.sum(1).tolist() == [round(16 * ratio)] * 5
    x, fill = images() + 2.0, torch.full((3, 1, 1), 0.5)
    out = perturb.drop_cells(x, dropped, fill)
    assert float((out == 0.5).float().mean()) == pytest.approx(ratio)
    assert torch.equal(out[out != 0.5], x[out != 0.5])


def test_salient_cells_are_those_with_contrast() -> None:
    x = torch.full((1, 1, 12, 12), 0.3)
    x[:, :, 4:8, 8:12] = images(1, 1)[:1, :, :4, :4]
    values = perturb.contrast(x, 3)
    assert int(values.argmax()) == 5
    assert float(values.min()) == pytest.approx(0.0, abs=1e-6)
    assert float(values[0, 5]) == pytest.approx(float(x[:, :, 4:8, 8:12].var(correction=0)), rel=1e-4)


@pytest.mark.parametrize("shift", [0, 1])
def test_shuffling_moves_whole_cells(shift: int) -> None:
    x = images()
    order = torch.rand((5, 9), generator=torch.Generator().manual_seed(1)).argsort(1)
    out = perturb.shuffle_cells(x, order, shift)
    assert torch.equal(out.flatten(2).sort(-1).values, x.flatten(2).sort(-1).values)
    there = torch.arange(9).expand(5, -1)
    assert torch.equal(perturb.shuffle_cells(x, there, shift), x)
    moved, source = out.roll((-shift, -shift), (2, 3)), x.roll((-shift, -shift), (2, 3))
    row, column = divmod(int(order[2, 4]), 3)
    assert torch.equal(moved[2, :, 4:8, 4:8], source[2, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4])


def test_low_and_high_pass_share_the_frequencies() -> None:
    x = 0.25 + 0.5 * images()
    mean = x.mean((2, 3), keepdim=True)
    low, high = perturb.low_pass(x, 0.5), perturb.high_pass(x, 0.5)
    assert torch.allclose(low + high - mean, x, atol=1e-5)
    assert float((low - mean).var()) < float((x - mean).var())
    assert torch.allclose(perturb.high_pass(x, 0.01), x, atol=1e-5)


def test_scrambled_cells_keep_their_spectra() -> None:
    x = 0.4 + 0.2 * images()
    out = perturb.scramble_phase(x, torch.rand((5, SIDE, SIDE), generator=torch.Generator().manual_seed(2)))
    before, after = (torch.fft.fft2(z[:, :, 3:6, 6:9]).abs() for z in (x, out))
    assert torch.allclose(before, after, atol=1e-4)
    assert float((out - x).abs().mean()) > 0.02


@pytest.mark.parametrize("kind", corruptions.CORRUPTIONS)
def test_corruptions_grow_with_their_level(kind: str) -> None:
    x = perturb.low_pass(images(), 0.6)
    harm = [float((corruptions.CORRUPTIONS[kind](x, level, 0) - x).square().mean()) for level in (1, 2, 3)]
    assert 0 < harm[0] < harm[1] < harm[2]
    again = corruptions.CORRUPTIONS[kind](x, 3, 0)
    assert torch.equal(again, corruptions.CORRUPTIONS[kind](x, 3, 0))
    assert 0 <= float(again.min()) <= float(again.max()) <= 1


def test_a_pasted_patch_is_where_it_was_put() -> None:
    x, patch = images(), torch.rand((3, 4, 4), generator=torch.Generator().manual_seed(3))
    corners = torch.tensor([[0, 0], [8, 8], [2, 5], [1, 7], [3, 3]])
    out = adversarial.paste(x, patch, corners)
    for one, (top, left) in zip(out, corners.tolist(), strict=True):
        assert torch.equal(one[:, top : top + 4, left : left + 4], patch)
    assert int((out != x).any(1).sum()) == 5 * 16


def test_the_found_patch_harms_other_images_more_than_noise() -> None:
    """A linear classifier of an image's mean over its first channel: the patch that harms is known, and found."""
    labels = torch.zeros(5, dtype=torch.long)

    def logits(x: Tensor) -> Tensor:
        score = 40 * (x[:, 0].mean((1, 2)) - 0.55)
        return torch.stack([-score, score], dim=1)

    found = adversarial.universal_patch(logits, images(), labels, 4, 60, seed=0)
    assert float(found[0].min()) > 0.95
    other, corners = images(9), torch.full((5, 2), 3)
    noise = torch.rand((3, 4, 4), generator=torch.Generator().manual_seed(4))
    loss = [float(logits(adversarial.paste(other, patch, corners))[:, 1].mean()) for patch in (found, noise)]
    assert loss[0] > loss[1] + 1


def test_a_network_that_looks_pixels_up_has_no_gradient() -> None:
    """Its answers depend on weights, so they have a gradient, but none that reaches the pixels."""
    weight = torch.ones(2, requires_grad=True)

    def looked_up(x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot((x > 0.5).long()[:, 0, 0, 0], 2) * weight

    assert adversarial.has_gradient(lambda x: x.mean((2, 3)), images())
    assert not adversarial.has_gradient(looked_up, images())
    assert not adversarial.has_gradient(lambda x: looked_up(x).detach(), images())


@pytest.mark.parametrize("target", ["mean_colour", "downsampled", "pixels"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_perfect_prediction_is_painted_as_its_target(target: str, channels: int) -> None:
    """The targets of training, taken for predictions, paint each patch to within half a colour level."""
    objective = MaskedPatch.model_validate({"target": target})
    x, mean, std = images(0, channels), torch.full((channels, 1, 1), 0.4), torch.full((channels, 1, 1), 0.3)
    if target == "pixels":
        predicted = patch_targets(objective, (x - mean) / std, 4)
    else:
        classes = patch_targets(objective, x, 4)
        predicted = torch.nn.functional.one_hot(classes, 8**channels).flatten(2).float()
    patches = reconstruction.painted(predicted, objective, 4, mean, std)
    cell = {"mean_colour": 4, "downsampled": 2, "pixels": 1}[target]
    coarse = torch.nn.functional.avg_pool2d(x, cell).repeat_interleave(cell, 2).repeat_interleave(cell, 3)
    chosen = torch.zeros((5, 9), dtype=torch.bool)
    chosen[:, [0, 4]] = True
    out = reconstruction.with_patches(x, patches, chosen)
    assert float((out - coarse)[:, :, 4:8, 4:8].abs().max()) <= (1e-5 if target == "pixels" else 1 / 16 + 1e-4)
    assert torch.equal(out[:, :, :4, 4:], x[:, :, :4, 4:])
