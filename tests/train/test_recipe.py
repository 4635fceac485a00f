"""Fields of the training recipe: each against timm or torch, paired across arms, off by default."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from test_loop import assert_equal
from tiny_jobs import CPU, RESNET, VIT, assert_same_training, images_of, spec, trained, trainer

from vitbench.base.errors import InputError
from vitbench.base.seeding import uniforms
from vitbench.data.types import grey
from vitbench.model.tensors import Tensor
from vitbench.model.weights.start import tensors_by_name
from vitbench.plan.trial_id import trial_id
from vitbench.spec.trial import TrainSpec
from vitbench.train.augment import CUTMIX_LANES, Augment, cutmix_boxes, mixed
from vitbench.train.erasing import ERASE_LANES, erase
from vitbench.train.loop import Saves, train_stack
from vitbench.train.losses import cross_entropy
from vitbench.train.optim import average_shares, rate_scale
from vitbench.train.sampling import Order
from vitbench.train.trainer import Trainer

FIELDS: dict[str, dict[str, Any]] = {
    "cutmix": {"cutmix": 1.0},
    "cutmix and mixup": {"cutmix": 1.0, "mixup": 0.8, "mixup_switch_prob": 0.3},
    "erasing": {"reprob": 0.5},
    "erasing with one colour": {"reprob": 0.5, "remode": "rand"},
    "erasing with the mean": {"reprob": 1.0, "remode": "const"},
    "balanced": {"class_weights": "balanced", "smoothing": 0.1},
    "class weights": {"class_weights": (1.0, 2.0, 3.0, 4.0)},
    "average": {"model_ema": True},
    "average without warm-up": {"model_ema": True, "model_ema_decay": 0.9, "model_ema_warmup": False},
    "layer decay": {"layer_decay": 0.7},
}


@pytest.mark.parametrize("kind", FIELDS)
def test_a_stack_is_its_members_and_the_field_has_an_effect(kind: str) -> None:
    specs = [spec(steps=10, lr=lr, **FIELDS[kind]) for lr in (3e-3, 1e-3)]
    for member, one, seed in zip(trained(specs, [0, 1]), specs, (0, 1), strict=True):
        assert_same_training(member, trained([one], [seed])[0])
    (plain,) = trained([spec(steps=10, lr=3e-3)], [0])
    (other,) = trained([specs[0]], [0])
    assert any(not torch.equal(tensor, plain.state[name]) for name, tensor in other.state.items())


@pytest.mark.parametrize("kind", FIELDS)
def test_a_default_keeps_the_id_and_another_value_changes_it(kind: str) -> None:
    default = {name: TrainSpec.model_fields[name].default for name in FIELDS[kind] if name != "mixup"}
    identity = trial_id(spec(), 0, "f", None)
    assert trial_id(spec(**default), 0, "f", None) == identity
    assert trial_id(spec(**FIELDS[kind]), 0, "f", None) != identity


IDLE: list[dict[str, Any]] = [
    {"mixup_switch_prob": 0.9}, {"cutmix": 0.0, "mixup_switch_prob": 0.9}, {"remode": "rand"}, {"layer_decay": 1.0},
    {"model_ema_decay": 0.5}, {"model_ema_warmup": False}, {"class_weights": (2.0, 2.0, 2.0, 2.0)},
]  # fmt: skip


@pytest.mark.parametrize("fields", IDLE)
def test_fields_without_effect_share_an_id(fields: dict[str, Any]) -> None:
    assert trial_id(spec(**fields), 0, "f", None) == trial_id(spec(), 0, "f", None)


def test_masked_patches_read_no_field_of_labels() -> None:
    labelled = spec(objective="mean_colour", cutmix=1.0, reprob=0.5, class_weights="balanced")
    assert labelled == spec(objective="mean_colour")


def test_weights_are_one_per_class() -> None:
    with pytest.raises(InputError, match=r"train.class_weights: 2 weights for 4 classes"):
        spec(class_weights=(1.0, 2.0))
    with pytest.raises(InputError, match=r"train.model_ema: BatchNorm"):
        spec({**RESNET, "norm_layer": "batch"}, model_ema=True)


@pytest.mark.parametrize("kind", ["cutmix and mixup", "erasing", "average"])
def test_a_resumed_training_is_an_unbroken_one(kind: str) -> None:
    """Ten of twenty steps, a snapshot, and on from there in a new trainer: bit for bit."""
    from vitbench.train.checkpoint import Checkpoints
    from vitbench.train.loop import TrainingState

    one = spec(**FIELDS[kind])
    first = trainer([one], [0])
    training = TrainingState(first, ())
    while training.step < 10:
        first.step(training.step)
        training.step += 1
        training.look(lambda *_: None)
    snapshot = training.snapshot(0, Checkpoints(Path(), "id", {}))
    (resumed,) = train_stack(trainer([one], [0]), lambda *_: None, Saves(starts=[snapshot]))
    assert_equal(resumed, trained([one], [0])[0])


# CutMix


def test_boxes_follow_timm() -> None:
    """timm draws a centre per batch from numpy's generator; here the same centres come as draws."""
    from timm.data.mixup import rand_bbox

    share = np.linspace(0.0, 1.0, 21)
    row, column = np.random.default_rng(0).random((2, 21))
    ours = cutmix_boxes(share, row, column, (16, 24))
    for k, lam in enumerate(share):
        with pytest.MonkeyPatch.context() as patch:
            centres = iter([int(16 * row[k]), int(24 * column[k])])
            patch.setattr(np.random, "randint", lambda *_, size=None, at=centres: next(at))
            assert tuple(ours[k]) == tuple(int(x) for x in rand_bbox((3, 16, 24), lam))


def test_an_image_shows_its_partner_in_the_box_and_its_label_has_the_rest() -> None:
    augment = Augment("none", False, 0.0, size=(8, 8), cutmix=1.0)
    draws = np.array([[0.75, 0.5, 0.5, 0.0], [0.0, 0.5, 0.5, 0.0], [1.0, 0.5, 0.5, 0.0]])
    mixture = augment.mixture(draws)
    assert mixture is not None
    assert mixture.box.tolist() == [[2, 6, 2, 6], [0, 8, 0, 8], [4, 4, 4, 4]]
    assert mixture.share.tolist() == [0.75, 0.0, 1.0]
    images = torch.arange(3.0).view(1, 3, 1, 1, 1).expand(1, 3, 1, 8, 8)
    out = mixed(
        images,
        images.roll(1, dims=1),
        torch.from_numpy(mixture.share)[None].float(),
        torch.from_numpy(mixture.box)[None],
    )
    first = torch.zeros(8, 8)
    first[2:6, 2:6] = 2.0
    assert torch.equal(out[0, 0, 0], first)
    assert (out[0, 1] == 0).all()
    assert (out[0, 2] == 2).all()


def test_the_switch_gives_each_image_one_of_the_two() -> None:
    augment = Augment("none", False, 0.5, size=(8, 8), cutmix=1.0, switch=0.3)
    draws = np.random.default_rng(0).random((4000, sum(augment.streams.values())))
    mixture = augment.mixture(draws)
    only = Augment("none", False, 0.5).mixture(draws)
    assert mixture is not None
    assert only is not None
    cut = draws[:, -1] < 0.3
    assert (mixture.box[~cut] == 0).all()
    assert np.array_equal(mixture.share[~cut], only.share[~cut])
    assert 0.25 < cut.mean() < 0.35
    assert (mixture.box[cut] != 0).any()


# Random erasing


def erased(mode: str, num: int = 2000, probability: float = 1.0) -> torch.Tensor:
    """Images of a constant 9, after erasing: `[num, 3, 16, 24]`."""
    draws = torch.from_numpy(uniforms(0, "erase", 0, np.arange(num), ERASE_LANES)).float()
    return erase(torch.full((num, 3, 16, 24), 9.0), draws, probability, mode)


def test_erased_rectangles_have_the_ranges_of_the_source() -> None:
    gone = (erased("const") == 0).all(1)
    area = gone.flatten(1).sum(1) / (16 * 24)
    rows, columns = gone.any(2).sum(1), gone.any(1).sum(1)
    assert torch.equal(rows * columns, gone.flatten(1).sum(1))  # One rectangle each.
    assert area.min() > 0.01
    assert area.max() < 0.36
    assert area.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    theirs = timm.data.random_erasing.RandomErasing(probability=1.0, mode="const", device="cpu")
    random.seed(0)
    torch_gone = (theirs(torch.full((2000, 3, 16, 24), 9.0)) == 0).all(1)
    assert area.mean() == pytest.approx(float(torch_gone.flatten(1).sum(1).float().mean()) / (16 * 24), abs=0.02)
    share = (erased("const", probability=0.25) == 0).flatten(1).any(1).float().mean()
    assert 0.22 < share < 0.28


def test_noise_is_normal_per_pixel_and_colour_is_one_per_image() -> None:
    noise, colour = erased("pixel"), erased("rand")
    values = noise[noise != 9]
    assert values.mean().item() == pytest.approx(0.0, abs=0.01)
    assert values.std().item() == pytest.approx(1.0, abs=0.01)
    assert torch.isfinite(noise).all()
    first = noise[0][noise[0] != 9]
    assert len(first.unique()) > 0.99 * len(first)
    assert not torch.equal(noise[0][noise[0] != 9][:20], noise[1][noise[1] != 9][:20])
    for image in colour[:50]:
        assert all(len(channel[channel != 9].unique()) == 1 for channel in image)
    assert torch.equal(erased("pixel", 5), noise[:5])  # A function of the draws alone.


def test_new_draws_have_streams_of_their_own() -> None:
    """Arms with and without CutMix and erasing see the same crops; one with both sees the same erasing."""
    plain, both = Augment("light", True, 0.0), Augment("light", True, 0.0, cutmix=1.0, reprob=0.5, size=(8, 8))
    only = Augment("light", True, 0.0, reprob=0.5, size=(8, 8))
    batches = [Order(1, np.arange(40), 16, a.streams).batch(3).draws for a in (plain, both, only)]
    assert np.array_equal(batches[0], batches[1][:, :3])
    assert np.array_equal(batches[1][:, 3 + CUTMIX_LANES :], batches[2][:, 3:])


# Class weights


def test_weighted_loss_is_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(2, 30, 4, generator=generator), torch.randint(0, 4, (2, 30), generator=generator)
    weights = torch.tensor([[1.0, 2.0, 0.5, 3.0], [1.0, 1.0, 1.0, 1.0]])
    ours = cross_entropy(logits, labels, 0.1, None, weights)
    for e in range(2):
        theirs = F.cross_entropy(logits[e], labels[e], weights[e], label_smoothing=0.1, reduction="sum") / 30
        torch.testing.assert_close(ours[e], theirs)
    assert torch.allclose(ours[1], cross_entropy(logits, labels, 0.1)[1])


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    made = trainer([spec(class_weights="balanced", data={"classes": (0, 1, 3)})], [0])
    labels = made.images.train_labels[made.used[0].train]
    theirs = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    assert made.class_weights is not None
    np.testing.assert_allclose(made.class_weights[0].numpy(), theirs, rtol=1e-6)


def test_given_weights_have_a_mean_of_one_over_the_training_images() -> None:
    made = trainer([spec(class_weights=(1.0, 2.0, 3.0, 4.0))], [0])
    labels = made.class_of[0, made.used[0].train]
    assert made.class_weights is not None
    assert made.class_weights[0][labels].mean().item() == pytest.approx(1.0, abs=1e-6)
    assert (made.class_weights[0] / made.class_weights[0, 0]).tolist() == pytest.approx([1, 2, 3, 4])


# Moving average


@pytest.mark.parametrize("warmup", [True, False])
def test_the_average_is_timms(warmup: bool) -> None:
    from timm.utils import ModelEmaV3

    made = trainer([spec(model_ema=True, model_ema_decay=0.9, model_ema_warmup=warmup)], [0])
    module = torch.nn.ParameterDict({"flat": torch.nn.Parameter(made.stack.flat.clone())})
    theirs = ModelEmaV3(module, decay=0.9, use_warmup=warmup, warmup_power=2 / 3)
    for step in range(20):
        made.step(step)
        with torch.no_grad():
            module["flat"].copy_(made.stack.flat)
        theirs.update(module, step=step + 1)
    assert made.average is not None
    torch.testing.assert_close(made.average, theirs.module["flat"].data)
    assert not torch.allclose(made.average, made.stack.flat)


def test_the_average_answers_and_is_kept() -> None:
    made = trainer([spec(model_ema=True, steps=30)], [0])
    (member,) = train_stack(made, lambda *_: None)
    assert made.average is not None
    kept = torch.cat([member.state[name].reshape(-1) for name in made.stack.shapes])
    assert torch.equal(kept, made.average[0])
    answer = made.test()[0].loss
    assert answer == made.test(made.average)[0].loss
    assert answer != made.test(made.stack.flat)[0].loss


def test_shares_copy_first_and_never_fall_below_the_decay() -> None:
    shares = average_shares(TrainSpec(steps=5000, model_ema=True, model_ema_decay=0.99))
    assert shares[0] == 1.0
    assert shares[-1] == pytest.approx(0.01)
    assert (np.diff(shares) <= 0).all()


# Layer-wise decay


def trained_tensors(made: Trainer) -> list[Tensor]:
    tensors = tensors_by_name(made.spec.model, made.train.objective)
    return [tensors[name] for name in made.stack.shapes]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (VIT, ("vit_tiny_patch16_224", {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2})),
        (
            {**RESNET, "root": "imagenet", "layers": (2, 1), "norm_layer": "batch", "weight_standardize": False},
            ("resnetv2_50", {"layers": (2, 1), "width_factor": 0.25, "stem_type": "fixed"}),
        ),
    ],
)
def test_layers_are_timms(ours: dict[str, Any], theirs: tuple[str, dict[str, Any]]) -> None:
    from timm.optim import param_groups_layer_decay

    made = trainer([spec(ours, data={"name": "fake_colour"})], [0])
    scale = rate_scale(0.5, trained_tensors(made))
    assert scale is not None
    model = timm.create_model(theirs[0], num_classes=4, **theirs[1])
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    expected = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    pieces = scale.split([shape.numel() for shape in made.stack.shapes.values()])
    assert {name: piece[0].item() for name, piece in zip(made.stack.shapes, pieces, strict=True)} == expected


def test_a_scaled_rate_moves_a_weight_by_its_share() -> None:
    made = trainer([spec(layer_decay=0.5, opt="sgd", clip_grad=None, weight_decay=0.0, warmup_fraction=0.0)], [0])
    plain = trainer([spec(opt="sgd", clip_grad=None, weight_decay=0.0, warmup_fraction=0.0)], [0])
    before = made.stack.flat.clone()
    made.step(0)
    plain.step(0)
    scale = rate_scale(0.5, trained_tensors(made))
    torch.testing.assert_close(made.stack.flat - before, scale * (plain.stack.flat - before), rtol=1e-3, atol=1e-7)
    assert math.isclose(scale.min().item(), 0.5**3)


# Grey from colour


def test_grey_is_pillows() -> None:
    from PIL import Image

    colour = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert np.array_equal(grey(colour)[..., 0], np.asarray(Image.fromarray(colour).convert("L")))


def test_one_channel_of_colour_by_either_key() -> None:
    one = spec({**VIT, "in_chans": 1}, data={"name": "fake_colour"})
    other = spec(data={"name": "fake_colour", "in_chans": 1})
    assert one == other
    assert (one.model.in_chans, one.data.in_chans) == (1, 1)
    images, colour = images_of(one), images_of(spec(data={"name": "fake_colour"}))
    assert images.train.shape[1] == 1
    assert np.array_equal(images.train[:, 0].numpy(), grey(colour.train.permute(0, 2, 3, 1).numpy())[..., 0])
    assert spec({**VIT, "in_chans": 1}) == spec()  # Grey data already have one channel.
    assert trained([one], [0])[0].diverged_at is None
    assert images.train.device == CPU
