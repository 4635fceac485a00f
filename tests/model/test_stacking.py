"""Every mechanism under vmap: logits, gradients and running statistics of E stacked models are those of each model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_specs import MECHANISMS, OBJECTIVES, TINY, images, made, resolved
from torch import Tensor
from torch.func import functional_call

SEEDS = (0, 1, 2)
DETERMINISTIC = [name for name in MECHANISMS if name != "drop"]


def stacked(modules: list[Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Leaves `[E, ...]` of parameters, and `[E, ...]` of buffers."""
    params = {name: torch.stack([dict(m.named_parameters())[name].detach() for m in modules]).requires_grad_()
              for name, _ in modules[0].named_parameters()}  # fmt: skip
    buffers = {name: torch.stack([dict(m.named_buffers())[name] for m in modules])
               for name, _ in modules[0].named_buffers()}  # fmt: skip
    return params, buffers


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_gradients_of_a_stack_are_its_members(name: str) -> None:
    """torch warns of a missing batching rule, and then runs the stack one by one.

    In double precision: in single precision a ReLU whose input is nearly 0 may open in the one and not in the other.
    """
    model = resolved(MECHANISMS[name])
    modules = [made(model, seed=seed, noise=0.1).train().double() for seed in SEEDS]
    x = torch.stack([images(model, 4, seed) for seed in SEEDS]).double()
    params, buffers = stacked(modules)

    def one(member: dict[str, Tensor], state: dict[str, Tensor], pixels: Tensor) -> Tensor:
        return functional_call(modules[0], (member, state), (pixels,))

    logits = torch.vmap(one)(params, buffers, x)
    logits.square().sum().backward()
    for e, module in enumerate(modules):
        alone = module(x[e])
        torch.testing.assert_close(logits[e], alone, rtol=1e-5, atol=1e-6)
        alone.square().sum().backward()
        for key, parameter in module.named_parameters():
            torch.testing.assert_close(params[key].grad[e], parameter.grad, rtol=1e-4, atol=1e-5)  # type: ignore[index]
        for key, buffer in module.named_buffers():
            torch.testing.assert_close(buffers[key][e], buffer, rtol=1e-5, atol=1e-6)


def test_masked_patches_stack() -> None:
    objective = OBJECTIVES["mean_colour"]
    model = resolved(TINY)
    modules = [made(model, objective, seed=seed, noise=0.1) for seed in SEEDS]
    params, buffers = stacked(modules)
    x = torch.stack([images(model, 4, seed) for seed in SEEDS])
    generator = torch.Generator().manual_seed(3)
    action = torch.randint(0, 4, (3, 4, 16), generator=generator)
    source = torch.randint(0, 16, (3, 4, 16), generator=generator)

    def one(p: dict[str, Tensor], b: dict[str, Tensor], i: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return functional_call(modules[0], (p, b), (i, a, s))

    with torch.no_grad():
        out = torch.vmap(one)(params, buffers, x, action, source)
        for e, module in enumerate(modules):
            torch.testing.assert_close(out[e], module(x[e], action[e], source[e]), rtol=1e-4, atol=1e-5)


def test_dropout_draws_for_each_member() -> None:
    model = resolved(MECHANISMS["drop"], drop_rate=0.5, drop_path_rate=0.5)
    module = made(model, noise=0.1).train()
    params, buffers = stacked([module, module])
    x = torch.stack([images(model)] * 2)
    with torch.no_grad():
        out = torch.vmap(lambda p, b, i: functional_call(module, (p, b), (i,)), randomness="different")(
            params, buffers, x
        )
    assert not torch.allclose(out[0], out[1])
    assert torch.allclose(module.eval()(x[0]), module(x[1]))
