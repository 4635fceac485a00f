"""Contrast of two crops: against the published pseudocode in double precision, with faults planted."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from model_specs import TINY, images, made, resolved

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, facts
from vitbench.engines.options import why_not_halve
from vitbench.inspection import contract
from vitbench.inspection.specimen import TINY as SPECIMEN
from vitbench.inspection.specimen import noisy_module, spec_with, trained, trainer_of
from vitbench.model.costs import forward_flops, train_flops
from vitbench.model.objective import Given
from vitbench.model.parameters import parameters
from vitbench.model.projected import BatchStandardised
from vitbench.plan.resolve import resolve
from vitbench.spec import mechanism as registry
from vitbench.spec.trial import DataSpec, ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec
from vitbench.train.crops import zoomed
from vitbench.train.losses import contrast, contrastive_loss
from vitbench.train.objectives.momentum_contrast import MocoV3

SMALL = "moco_v3(hidden_dim=16, out_dim=8)"


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def published_loss(q: np.ndarray, k: np.ndarray, temperature: float) -> float:
    """`ctr` of the paper's Algorithm 1: 2 x temperature x cross entropy of each query with its own key."""
    q, k = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, k))
    logits = q @ k.T / temperature
    each = [np.log(np.exp(row).sum()) - row[i] for i, row in enumerate(logits)]
    return float(2 * temperature * np.mean(each))


def test_the_loss_is_the_papers() -> None:
    q, k = random(2, 6, 8), random(2, 6, 8, seed=1)
    losses = contrastive_loss(contrast(q, k, 0.2), 0.2)
    for e in range(2):
        expected = published_loss(q[e].double().numpy(), k[e].double().numpy(), 0.2)
        assert float(losses[e]) == pytest.approx(expected, rel=1e-5)


def test_chance_is_two_tau_log_batch() -> None:
    same = torch.ones(1, 8, 4)
    loss = contrastive_loss(contrast(same, same, 0.2), 0.2)
    assert 2 * float(loss) == pytest.approx(4 * 0.2 * math.log(8)) == pytest.approx(1.664, abs=1e-3)


class LiveKeys(MocoV3):
    """Planted: keys come from the trained network, with their gradient."""

    name: ClassVar[str] = "moco_live_keys"

    def _compare(self, call: Any, views: Any, given: Given, *, train: bool) -> Any:
        class Live:
            def __getattr__(self, name: str) -> Any:
                return getattr(call, name)

            def outputs_of(self, role: str, *pixels: torch.Tensor) -> torch.Tensor:
                return call.forward(*pixels, train=train)

        return super()._compare(Live(), views, given, train=train)  # type: ignore[arg-type]


class SameSide(MocoV3):
    """Planted: each crop's queries look among the keys of the same crop."""

    name: ClassVar[str] = "moco_same_side"

    def draw(self, *arguments: Any) -> Any:
        boxes = super().draw(*arguments)["boxes"]
        return {"boxes": np.stack([boxes[:, :, 0]] * 2, axis=2)}


for _planted in (LiveKeys, SameSide):
    registry._REGISTRY.pop(("objective", _planted.name))


def is_the_papers(planted: type[MocoV3] | None) -> bool:
    """True if one step's losses are those of the pseudocode, which computes each crop of each member alone."""
    trainer = trainer_of(spec_with("objective", SMALL), (0, 1))
    trainer.networks.averages["momentum"].add_(random(*trainer.stack.flat.shape, seed=6), alpha=0.05)
    (batches, pixels, draws), *_ = trainer.feed.raw(0)
    given = {"pixels": pixels, "draws": draws, **trainer._drawn(batches)}
    boxes = torch.as_tensor(given["boxes"])
    if planted is not None:
        trainer.objective = planted(**trainer.objective.model_dump())
        given |= trainer._drawn(batches)
    losses = trainer._losses(given)
    crops = [trainer.images.standardise(zoomed(trainer._view(given, n), boxes[:, :, n], (8, 8))) for n in range(2)]
    trainer.feed.close()
    equal = []
    for e in range(2):
        query, key = noisy_module(trainer.spec), noisy_module(trainer.spec)
        query.load_state_dict(trainer.stack.state(e))
        key.load_state_dict(trainer.stack.state(e, trainer.networks.averages["momentum"]))
        with torch.no_grad():
            q = [query.double()(crop[e].double())[:, 1].numpy() for crop in crops]
            k = [key.double()(crop[e].double())[:, 0].numpy() for crop in crops]
        expected = published_loss(q[0], k[1], 0.2) + published_loss(q[1], k[0], 0.2)
        equal.append(losses[e].item() == pytest.approx(expected, rel=1e-4))
    return all(equal)


@pytest.mark.parametrize(("planted", "right"), [(None, True), (LiveKeys, False), (SameSide, False)])
def test_a_step_is_the_papers_and_planted_faults_are_caught(planted: type[MocoV3] | None, right: bool) -> None:
    assert is_the_papers(planted) == right


def test_heads_are_the_papers() -> None:
    """Linear layers without bias, BatchNorm after each, the last one without scale and shift, ReLU between."""
    module: Any = made(resolved(TINY), ObjectiveSpec(name=SMALL), noise=0.2)
    names = [name for name in module.state_dict() if name.startswith(("projector", "predictor"))]
    assert [name for name in names if "norm" in name and "norm3" not in name] == [
        name for name in names if "norm" in name
    ]
    assert not [name for name in names if name.endswith("bias") and "fc" in name]
    out = module(images(resolved(TINY), 64)).double()
    for answers in out.unbind(1):
        torch.testing.assert_close(answers.mean(0), torch.zeros(8, dtype=torch.float64), rtol=0, atol=1e-5)
        torch.testing.assert_close(answers.var(0, correction=0), torch.ones(8, dtype=torch.float64), rtol=0, atol=1e-2)


def test_batch_norm_is_torchs_with_the_batchs_statistics() -> None:
    ours, theirs = BatchStandardised(5, affine=True), torch.nn.BatchNorm1d(5)
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.copy_(mine.copy_(random(5, seed=int(mine is ours.bias))))
    x = random(16, 5)
    torch.testing.assert_close(ours(x), theirs.train()(x))
    torch.testing.assert_close(ours.eval()(x), theirs.train()(x))
    assert BatchStandardised(5, affine=False)(x[:1]).abs().max() == 0, "one image has no deviation"


def test_a_frozen_patch_projection_keeps_its_first_values() -> None:
    """Neither gradients nor weight decay move it; the average has the same one; FLOPs and parameters say so."""
    spec = spec_with("objective", SMALL)
    frozen = {tensor.name for tensor in parameters(spec.model, spec.train.objective) if not tensor.trained}
    assert frozen == {"patch_embed.proj.weight", "patch_embed.proj.bias"}
    before, after = trainer_of(spec, (0, 1)), trained(spec, (0, 1))
    before.feed.close()
    for e in range(2):
        start, end = before.stack.state(e), after.stack.state(e)
        moved = {name for name in start if not torch.equal(start[name], end[name])}
        assert moved == start.keys() - frozen
    free = trained(spec_with("objective", "moco_v3(freeze_patch_embed=false, hidden_dim=16, out_dim=8)"), (0,))
    assert not torch.equal(
        free.stack.state(0)["patch_embed.proj.weight"], before.stack.state(0)["patch_embed.proj.weight"]
    )


def test_flops_count_both_crops_and_the_average() -> None:
    model, objective = resolved(TINY), ObjectiveSpec(name=SMALL)
    assert train_flops(model, objective, 10) == 80 * forward_flops(model, objective)


class SharedCrops(MocoV3):
    """Planted: the members of a stack have the first member's crops."""

    name: ClassVar[str] = "moco_shared_crops"

    def draw(self, model: Any, batches: Any, mixtures: Any) -> Any:
        return super().draw(model, [batches[0]] * len(batches), mixtures)


registry._REGISTRY.pop(("objective", SharedCrops.name))


def test_the_contract_notices_members_that_share_crops() -> None:
    registry._REGISTRY["objective", SharedCrops.name] = SharedCrops
    try:
        (line,) = contract._training(contract.case_of("objective", SharedCrops.name))
    finally:
        registry._REGISTRY.pop(("objective", SharedCrops.name))
        registry._NAMED.clear()
    assert line.startswith("training: in a stack, seed 1 ends ")


def test_a_batch_is_not_cut() -> None:
    """Micro-batches would have fewer keys and other statistics, so they are refused, and never tried for memory."""
    spec = spec_with("objective", SMALL)
    assert why_not_halve(spec) == "the objective compares the images of a micro-batch"
    cut = spec.model_copy(update={"train": spec.train.model_copy(update={"grad_accum": 2})})
    with pytest.raises(InputError, match=r"train.grad_accum: moco_v3\(.*\) compares the images of a batch, so 2"):
        resolve(cut, facts("fake", DataOptions()), {})


def test_it_learns() -> None:
    """After 50 steps on digits queries find their image ten times as often as by chance, and the loss is far below its
    chance value."""
    objective = ObjectiveSpec(name="moco_v3(crops_scale=0.6, hidden_dim=64, out_dim=32)")
    written = TrialSpec(
        model=ModelSpec(**{**SPECIMEN, "embed_dim": 48, "pos_embed": "sincos_2d", "global_pool": "avg"}),
        data=DataSpec(name="digits"),
        train=TrainSpec(steps=50, batch_size=64, lr=4e-3, augment="none", objective=objective),
    )
    trainer = trainer_of(resolve(written, facts("digits", DataOptions()), {}), (0,))
    for step in range(50):
        trainer.step(step)
    ((percent, loss, finite),) = trainer.validate()
    trainer.feed.close()
    num_images = len(trainer.used[0].val)
    assert finite
    assert percent is not None
    assert loss is not None
    assert percent > 10 * 100 / num_images
    assert loss < 4 * 0.2 * math.log(num_images) - 0.5
