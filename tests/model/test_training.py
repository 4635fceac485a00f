"""Every mechanism learns: three optimizer steps lower the loss; shapes, autocast and meta as promised."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from model_specs import CLASSIFY, MECHANISMS, OBJECTIVES, TINY, images, made, resolved

from vitbench.model.build import build
from vitbench.model.layers import StochasticDepth, depth_rates
from vitbench.model.mechanisms import position_of
from vitbench.model.sizes import pixel_grid
from vitbench.spec.trial import ModelSpec


@pytest.mark.parametrize("name", MECHANISMS)
def test_three_steps_lower_the_loss(name: str) -> None:
    model = resolved(MECHANISMS[name])
    module = made(model).train()
    torch.manual_seed(0)
    x, labels = images(model, 16), torch.arange(16) % 5
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(4):
        loss = F.cross_entropy(module(x), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    unused = {name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()}
    assert unused == last_relative_tables(model)


def last_relative_tables(model: ModelSpec) -> set[str]:
    """Of a model that reads a class token without a place: the tables that no output depends on."""
    read = model.family != "resnet" and model.global_pool == "token" and model.no_embed_class
    return {f"blocks.1.attn.{table.name}" for table in position_of(model).attention_tables(model)} if read else set()


@pytest.mark.parametrize("target", OBJECTIVES)
def test_masked_patches_are_learned(target: str) -> None:
    model, objective = resolved(TINY, patch_size=4), OBJECTIVES[target]
    module = made(model, objective).train()
    x = images(model, 16)
    action = torch.randint(0, 4, (16, 4), generator=torch.Generator().manual_seed(0))
    source = torch.zeros(16, 4, dtype=torch.long)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(4):
        loss = (module(x, action, source) - 1.0).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", MECHANISMS)
def test_shapes_on_meta(name: str) -> None:
    model = resolved(MECHANISMS[name])
    with torch.device("meta"):
        module = build(model, CLASSIFY)
        x = torch.empty(3, 1, *pixel_grid(model))
    assert module(x).shape == (3, 5)
    features = module.forward_features(x)
    assert module.forward_head(features, pre_logits=True).shape == module.pre_logits(x).shape
    assert module.forward_head(features).shape == (3, 5)


@pytest.mark.parametrize("name", MECHANISMS)
def test_bfloat16_autocast_stays_near(name: str) -> None:
    model = resolved(MECHANISMS[name])
    module, x = made(model, noise=0.02), images(model)
    with torch.no_grad():
        exact = module(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = module(x)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max() + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", ["learned_2d", "relative_2d", "rope_2d", "map", "hybrid", "resnet batch norm"])
def test_compiles_to_one_graph(name: str) -> None:
    """Graph capture only: `backend="eager"` runs the captured graph without generating code."""
    model = resolved(MECHANISMS[name])
    module, x = made(model, noise=0.1), images(model)
    torch.compiler.reset()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="eager")(x), module(x))


def test_stochastic_depth_keeps_the_mean() -> None:
    layer, branch = StochasticDepth(0.3), torch.ones(20_000, 1, 1)
    torch.manual_seed(0)
    kept = layer.train()(branch)
    assert kept.unique().tolist() == [0.0, pytest.approx(1 / 0.7)]
    assert kept.mean().item() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(layer.eval()(branch), branch)
    assert depth_rates(0.2, 3) == [0.0, 0.1, 0.2]


def test_dropout_is_off_in_evaluation() -> None:
    model = resolved(MECHANISMS["drop"], drop_rate=0.5)
    module, x = made(model, noise=0.1), images(model)
    assert torch.equal(module(x), module(x))
    module.train()
    assert not torch.equal(module(x), module(x))
