"""A stack is its members; a diverged member harms no other; a training is a pure function of spec and seed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_jobs import CPU, RESNET, VIT, assert_same_training, images_of, spec, trained, trainer

from vitbench.train.loop import Trained, reading_steps, train_stack
from vitbench.train.trainer import Job, Trainer

MEMBERS: list[dict[str, Any]] = [{"lr": 3e-3}, {"lr": 1e-2, "weight_decay": 0.0}, {"lr": 1e-3, "weight_decay": 0.3}]
HYBRID = {"family": "hybrid", "layers": (1, 1), "width_factor": 0.25, "root": "small", **{**VIT, "patch_size": 1}}
CONVOLUTIONS = {"sched": "constant", "opt": "sgd"}
"""Adam's first steps move a standardised kernel by the whole rate even where its gradient is rounding."""
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "classify": (VIT, {}),
    "medium augmentation": (VIT, {"augment": "medium", "smoothing": 0.1}),
    "no augmentation, sgd": (VIT, {"augment": "none", "opt": "sgd"}),
    "accumulated": (VIT, {"grad_accum": 4}),
    "mean_colour": (VIT, {"objective": "mean_colour"}),
    "downsampled": (VIT, {"objective": "downsampled"}),
    "pixels": (VIT, {"objective": "pixels"}),
    "relative positions, average": ({**VIT, "pos_embed": "relative_2d", "global_pool": "avg"}, {}),
    "conv stem": ({**VIT, "stem": "conv"}, {}),
    "ResNet, GroupNorm": (RESNET, CONVOLUTIONS),
    "ResNet, BatchNorm": ({**RESNET, "norm_layer": "batch"}, CONVOLUTIONS),
    "hybrid": (HYBRID, CONVOLUTIONS),
}


def assert_equal(a: Trained, b: Trained) -> None:
    assert a.curve == b.curve
    assert a.state.keys() == b.state.keys()
    assert all(torch.equal(tensor, b.state[name]) for name, tensor in a.state.items())


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_is_its_members(kind: str) -> None:
    """Seeds, rates, decays and shares of the data differ; nothing warns of a slow path.

    Every mechanism of a model, stacked, is compared in `model/test_stacking.py`.
    """
    model, train = KINDS[kind]
    specs = [
        spec(model, {"train_fraction": share}, **{"steps": 10, **train, **member})
        for share, member in zip((1.0, 0.5, 0.25), MEMBERS, strict=True)
    ]
    stacked = trained(specs, [0, 1, 2])
    for single, seed, member in zip(specs, (0, 1, 2), stacked, strict=True):
        assert member.diverged_at is None
        assert_same_training(member, trained([single], [seed])[0])
    assert stacked[0].curve != stacked[1].curve


@pytest.mark.slow
def test_a_stack_may_be_cut_anywhere() -> None:
    """Five trials as 3 + 2, as 4 + 1 and as 5."""
    specs, seeds = [spec(steps=10, lr=1e-3 * (k + 1)) for k in range(5)], list(range(5))
    whole = trained(specs, seeds)
    for cut in (3, 4):
        parts = [*trained(specs[:cut], seeds[:cut]), *trained(specs[cut:], seeds[cut:])]
        for member, expected in zip(parts, whole, strict=True):
            assert_same_training(member, expected)


@pytest.mark.slow
def test_micro_batches_make_up_the_batch() -> None:
    whole, parts = (trained([spec(grad_accum=n, steps=30)], [0])[0] for n in (1, 4))
    assert_same_training(parts, whole)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["rate", "injected"])
def test_a_diverged_member_is_frozen_and_the_others_go_on(how: str) -> None:
    specs = [spec(), spec(lr=1e30 if how == "rate" else 3e-3, clip_grad=None), spec(lr=1e-3)]
    specs = [one.model_copy(update={"train": one.train.model_copy(update={"clip_grad": None})}) for one in specs]
    stack = trainer(specs, [0, 1, 2])
    if how == "injected":
        stack.stack.flat[1, 5] = math.nan
    first, lost, last = train_stack(stack, lambda step, speed, loss: None)
    assert lost.diverged_at == (1 if how == "injected" else 2)
    assert lost.curve == []
    if how == "rate":  # Huge, but as the last finite loss left them.
        assert all(torch.isfinite(tensor).all() for tensor in lost.state.values())
    for member, one, seed in ((first, specs[0], 0), (last, specs[2], 2)):
        assert member.diverged_at is None
        assert_same_training(member, trained([one], [seed])[0])
        assert all(torch.isfinite(tensor).all() for tensor in member.state.values())


def test_training_ends_early_only_where_all_have_diverged() -> None:
    ticks: list[int] = []
    hopeless = trainer([spec(lr=1e30, clip_grad=None, steps=100)], [0])
    (lost,) = train_stack(hopeless, lambda step, speed, loss: ticks.append(step))
    assert lost.diverged_at == 2
    assert max(ticks, default=0) <= 10


@pytest.mark.slow
@pytest.mark.parametrize("drop", [0.0, 0.3])
def test_same_seed_twice_is_bit_equal(drop: float) -> None:
    """Whatever else has drawn from torch's own generator; and another seed is another training."""
    one = spec({**VIT, "drop_rate": drop, "drop_path_rate": drop / 3}, augment="medium")
    runs = []
    for state in (1, 2):
        torch.manual_seed(state)
        runs.append(trained([one], [0])[0])
    assert_equal(*runs)
    assert runs[0].curve != trained([one], [1])[0].curve


def test_dropout_differs_from_step_to_step_and_member_to_member() -> None:
    one = spec({**VIT, "drop_rate": 0.5}, steps=2, augment="none", lr=1e-30)
    stack = trainer([one, one], [0, 0])
    with torch.no_grad():
        stack.stack.flat += 0.1 * torch.randn(stack.stack.flat[0].shape, generator=torch.Generator().manual_seed(0))
    losses = []
    for step in (0, 0, 1):
        stack.loss_sum.zero_()
        stack.orders[0].batch(step)
        stack.step(step)
        losses.append(stack.loss_sum.tolist())
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[0][1]


def test_test_images_and_their_labels_never_reach_training() -> None:
    one = spec()
    images = images_of(one)
    other = replace(images, test=255 - images.test, test_labels=images.test_labels[::-1].copy())
    runs = [train_stack(Trainer([Job(one, 0)], i, CPU), lambda *_: None)[0] for i in (images, other)]
    assert_equal(*runs)


def test_validation_images_are_not_trained_on_and_labels_are_not_seen_by_masked_patches() -> None:
    one = spec(objective="mean_colour")
    images = images_of(one)
    used = trainer([one], [0]).used[0]
    assert not set(used.train) & set(used.val)
    labels = np.random.default_rng(0).permutation(images.train_labels)
    runs = [
        trained_on(one, replace(images, train_labels=given), used.train, used.val)
        for given in (images.train_labels, labels)
    ]
    assert_equal(*runs)


def trained_on(one: Any, images: Any, train: np.ndarray, val: np.ndarray) -> Trained:
    """Training on given members: a stratified split would follow the labels."""
    made = Trainer([Job(one, 0)], images, CPU)
    for order in made.orders:
        order.members = train
    made.used = [replace(made.used[0], train=train, val=val)]
    return train_stack(made, lambda *_: None)[0]


def test_the_curve_is_read_ten_times_and_at_the_end() -> None:
    assert sorted(reading_steps(50, 5000, 100)) == list(range(5, 51, 5))
    assert sorted(reading_steps(3, 5000, 0)) == [1, 2, 3]
    assert max(reading_steps(47, 5000, 100)) == 47
    assert sorted(reading_steps(100, 6400, 3200)) == [25, 50, 75, 90, 100]
    assert sorted(reading_steps(100, 6400, 50_000)) == [50, 90, 100]
    (member,) = trained([spec(steps=40)], [0])
    assert [point.step for point in member.curve] == list(range(4, 41, 4))
    assert all(point.val_top1_percent is not None for point in member.curve)
    assert member.best_val == max(point.val_top1_percent or 0 for point in member.curve)


@pytest.mark.slow
def test_the_loss_of_a_reading_is_the_mean_since_the_last() -> None:
    stack, losses = trainer([spec(steps=40)], [0]), []
    for step in range(40):
        stack.loss_sum.zero_()
        stack.step(step)
        losses.append(stack.loss_sum.item())
    curve = trained([spec(steps=40)], [0])[0].curve
    np.testing.assert_allclose([p.train_loss for p in curve], np.reshape(losses, (10, 4)).mean(1), rtol=1e-5)
    assert losses[-1] < losses[0]


def test_best_weights_are_those_of_the_best_reading() -> None:
    stack = trainer([spec(steps=40, lr=3e-2)], [0])
    (member,) = train_stack(stack, lambda *_: None)
    with torch.no_grad():
        stack.stack.flat[0] = torch.cat([member.best_state[name].reshape(-1) for name in stack.stack.shapes])
    top1, _, finite = stack.validate()[0]
    assert finite
    assert top1 == member.best_val
