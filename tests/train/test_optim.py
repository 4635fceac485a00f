"""Optimizer, clipping and schedule against torch's, and the weights that decay."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from model_specs import CLASSIFY, MECHANISMS, RESNET, TINY, resolved

from vitbench.model.parameters import parameters
from vitbench.model.tensors import Tensor
from vitbench.spec.trial import TrainSpec
from vitbench.train.optim import Optimizer, bias_corrections, is_classifier, learning_rates

SHAPES = [(4, 3), (5,)]
NUM = 17
DECAYED = torch.cat([torch.ones(12), torch.zeros(5)])
ON = torch.ones(1, 1)
CORRECTIONS = bias_corrections(50)


def gradients(num_steps: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(num_steps, NUM, generator=torch.Generator().manual_seed(1))


def torch_weights(spec: TrainSpec, start: torch.Tensor, grads: torch.Tensor, rates: np.ndarray) -> torch.Tensor:
    """The same training by torch.optim, with torch's clipping and one group without decay."""
    params = [torch.nn.Parameter(p.clone().view(s)) for p, s in zip(start.split([12, 5]), SHAPES, strict=True)]
    groups = [
        {"params": params[:1], "weight_decay": spec.weight_decay},
        {"params": params[1:], "weight_decay": 0.0},
    ]
    made: Any = torch.optim.AdamW(groups) if spec.opt == "adamw" else torch.optim.SGD(groups, momentum=spec.momentum)
    for grad, rate in zip(grads, rates, strict=True):
        for group in made.param_groups:
            group["lr"] = rate
        for param, g, shape in zip(params, grad.split([12, 5]), SHAPES, strict=True):
            param.grad = g.clone().view(shape)
        if spec.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(params, spec.clip_grad)
        made.step()
    return torch.cat([p.detach().flatten() for p in params])


def own_weights(specs: list[TrainSpec], start: torch.Tensor, grads: torch.Tensor, rates: np.ndarray) -> torch.Tensor:
    """Weights `[E, P]` of a stack whose members all get the same gradients."""
    flat = start.repeat(len(specs), 1)
    optimizer = Optimizer(specs, flat, DECAYED)
    for step, grad in enumerate(grads):
        lr = torch.tensor(rates[:, step : step + 1], dtype=torch.float32)
        optimizer.step(flat, grad.repeat(len(specs), 1), lr, CORRECTIONS[step], torch.ones(len(specs), 1))
    return flat


@pytest.mark.parametrize("clip", [None, 1.0, 1e3])
@pytest.mark.parametrize("opt", ["adamw", "sgd"])
def test_twenty_steps_equal_torch(opt: Any, clip: float | None) -> None:
    """Two members, each with its own rate and decay, against two runs of torch."""
    start, grads = gradients(1)[0], gradients(20)
    specs = [
        TrainSpec(steps=20, opt=opt, lr=lr, weight_decay=wd, clip_grad=clip, warmup_fraction=0.2)
        for lr, wd in ((1e-2, 0.1), (3e-3, 0.0))
    ]
    rates = np.stack([learning_rates(spec) for spec in specs])
    own = own_weights(specs, start, grads, rates)
    for e, spec in enumerate(specs):
        expected = torch_weights(spec, start, grads, rates[e])
        torch.testing.assert_close(own[e], expected, rtol=1e-6, atol=1e-6)
    assert (own - start).abs().max() > 1e-3


def test_clipping_and_decay_are_seen_by_this_test() -> None:
    start, grads = gradients(1)[0], gradients(20)
    rates = np.full((1, 20), 1e-2)
    base = own_weights([TrainSpec(opt="sgd", weight_decay=0.0, clip_grad=None)], start, grads, rates)
    clipped = own_weights([TrainSpec(opt="sgd", weight_decay=0.0, clip_grad=1.0)], start, grads, rates)
    decayed = own_weights([TrainSpec(opt="sgd", weight_decay=0.1, clip_grad=None)], start, grads, rates)
    assert (base - clipped).abs().max() > 1e-2
    assert (base - decayed)[0, :12].abs().min() > 1e-4
    assert torch.equal(base[0, 12:], decayed[0, 12:])


@pytest.mark.parametrize("opt", ["adamw", "sgd"])
def test_inactive_members_stay_whatever_their_gradient(opt: Any) -> None:
    start = gradients(1)[0]
    flat = start.repeat(2, 1)
    optimizer = Optimizer([TrainSpec(opt=opt)] * 2, flat, DECAYED)
    alone = start.repeat(1, 1)
    single = Optimizer([TrainSpec(opt=opt)], alone, DECAYED)
    active = torch.tensor([[0.0], [1.0]])
    for step, grad in enumerate(gradients(5)):
        both = torch.stack([torch.full_like(grad, math.nan), grad])
        optimizer.step(flat, both, torch.full((2, 1), 0.01), CORRECTIONS[step], active)
        single.step(alone, grad.unsqueeze(0), torch.full((1, 1), 0.01), CORRECTIONS[step], ON)
    assert torch.equal(flat[0], start)
    assert torch.equal(flat[1], alone[0])


TABLES = (
    "pos_embed", "cls_token", "reg_token", "mask_token", "rel_pos", "relative_position_bias_table", "patch_embed.embed",
    "patch_embed.start",
)  # fmt: skip


@pytest.mark.parametrize("name", MECHANISMS)
def test_tokens_positions_norms_and_biases_do_not_decay(name: str) -> None:
    for tensor in (each for each in parameters(resolved(MECHANISMS[name]), CLASSIFY) if each.trained):
        table = any(part in tensor.name for part in TABLES)
        assert tensor.decays == (len(tensor.shape) > 1 and not table), tensor.name


def test_decay_is_a_flag_and_no_matter_of_names() -> None:
    """A matrix may be called like a table and decay all the same."""
    assert Tensor("blocks.0.mixer.rel_weight", (4, 4), "zeros", decay=True).decays
    assert not Tensor("blocks.0.mixer.weight", (4, 4), "zeros", decay=False).decays


@pytest.mark.parametrize(
    ("sched", "after_warmup"),
    [
        ("cosine", [1.0, 0.96194, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.03806]),
        ("linear", [1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("constant", [1.0] * 8),
        ("rsqrt", [1.0, *(1 / math.sqrt(1 + k / 2.5) for k in range(1, 8))]),
    ],
)
def test_schedule(sched: Any, after_warmup: list[float]) -> None:
    spec = TrainSpec(steps=10, lr=4.0, warmup_fraction=0.2, sched=sched, timescale_fraction=0.25)
    np.testing.assert_allclose(learning_rates(spec) / 4, [0.5, 1.0, *after_warmup], atol=1e-6)


def test_schedule_without_warmup_begins_at_the_rate() -> None:
    rates = learning_rates(TrainSpec(steps=4, lr=2.0, warmup_fraction=0.0, sched="linear"))
    assert rates.tolist() == [2.0, 1.5, 1.0, 0.5]
    assert learning_rates(TrainSpec(steps=1, lr=2.0)).tolist() == [2.0]


def published_rsqrt(step: int, total: int, warmup: int, timescale: int, cooldown: int) -> float:
    """The factor of one step, counted from 1 in a warm-up: the published code of Scaling ViT, by the step."""
    if step < warmup:
        return (step + 1) / warmup
    factor = 1 / math.sqrt(1 + (step - warmup) / timescale)
    return factor * min(1.0, (total - step) / cooldown) if cooldown else factor


@pytest.mark.parametrize("cooldown", [0.0, 0.05, 0.4])
def test_rsqrt_with_cooldown_is_the_published_schedule(cooldown: float) -> None:
    """Warm-up, timescale and cooldown are shares of all steps: of 1,000,000 steps 10,000, 10,000 and 50,000 there."""
    spec = TrainSpec(
        steps=1000, lr=3.0, sched="rsqrt", warmup_fraction=0.01, timescale_fraction=0.02, cooldown_fraction=cooldown
    )
    expected = [published_rsqrt(step, 1000, 10, 20, round(1000 * cooldown)) for step in range(1000)]
    np.testing.assert_allclose(learning_rates(spec) / 3, expected, rtol=1e-12)
    assert cooldown == 0 or expected[-1] < 1e-2


def test_a_constant_rate_and_its_cooldown_are_two_stages_of_one_course() -> None:
    whole = learning_rates(TrainSpec(steps=20, lr=2.0, sched="constant", warmup_fraction=0.1, cooldown_fraction=0.25))
    trunk = learning_rates(TrainSpec(steps=15, lr=2.0, sched="constant", warmup_fraction=2 / 15))
    cooldown = learning_rates(TrainSpec(steps=5, lr=2.0, sched="linear", warmup_fraction=0.0))
    np.testing.assert_allclose(np.concatenate([trunk, cooldown]), whole)


def test_a_head_decays_by_its_own_number() -> None:
    """AdamW of torch with a group for the head, in a stack beside a member without such a number."""
    start, grads, rates = gradients(1)[0], gradients(20), np.full((2, 20), 1e-2)
    specs = [TrainSpec(clip_grad=None, weight_decay=0.1, weight_decay_head=decay) for decay in (3.0, None)]
    flat, head = start.repeat(2, 1), torch.cat([torch.zeros(6), torch.ones(6), torch.zeros(5)])
    optimizer = Optimizer(specs, flat, DECAYED, None, head)
    for step, grad in enumerate(grads):
        lr = torch.tensor(rates[:, step : step + 1], dtype=torch.float32)
        optimizer.step(flat, grad.repeat(2, 1), lr, CORRECTIONS[step], torch.ones(2, 1))
    params = [torch.nn.Parameter(part.clone()) for part in start.split([6, 6, 5])]
    decays = (0.1, 3.0, 0.0)
    groups = [{"params": [p], "weight_decay": decay} for p, decay in zip(params, decays, strict=True)]
    theirs = torch.optim.AdamW(groups, lr=1e-2)
    for grad in grads:
        for param, part in zip(params, grad.split([6, 6, 5]), strict=True):
            param.grad = part.clone()
        theirs.step()
    torch.testing.assert_close(flat[0], torch.cat([p.detach() for p in params]), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(flat[1], own_weights(specs[1:], start, grads, rates[1:])[0])
    assert (flat[0, 6:12].abs() < flat[1, 6:12].abs()).all()


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ({}, ["head.weight"]),
        ({"head": "mlp_tanh"}, ["head.weight"]),
        (
            RESNET,
            ["head.fc.weight"],
        ),
    ],
)
def test_the_head_is_the_classifiers_matrix(model: dict[str, Any], names: list[str]) -> None:
    tensors = parameters(resolved({**TINY, **model}), CLASSIFY)
    assert [tensor.name for tensor in tensors if tensor.decays and is_classifier(tensor)] == names
