"""Attention: the written-out product is torch's fused one; reading it changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_specs import MECHANISMS, images, made, resolved

from vitbench.model.layers import attend


@pytest.mark.parametrize("with_bias", [False, True])
def test_attend_is_torchs(with_bias: bool) -> None:
    q, k, v = torch.randn(3, 2, 3, 7, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    bias = torch.linspace(-2, 2, 2 * 3 * 7 * 7).view(2, 3, 7, 7) if with_bias else None
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    torch.testing.assert_close(attend(q * 8**-0.5, k, v, bias), expected)


def attends_on_one_grid(fields: Mapping[str, Any]) -> bool:
    return fields["family"] != "resnet" and fields.get("token_mixer") != "pool" and "stages" not in fields


@pytest.mark.parametrize("name", [name for name, fields in MECHANISMS.items() if attends_on_one_grid(fields)])
def test_reading_attention_leaves_the_logits(name: str) -> None:
    model = resolved(MECHANISMS[name])
    module, x = made(model, noise=0.2), images(model)
    with torch.no_grad():
        before = module(x)
        maps = module.attention(x)
        assert torch.equal(module(x), before)
    tokens = module.forward_features(x).shape[1]
    assert maps.shape == (model.depth, len(x), model.num_heads, tokens, tokens)
    torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]))


def test_the_maps_are_those_used() -> None:
    """A layer's output rebuilt from its map and its values is what the layer gave."""
    model = resolved(MECHANISMS["relative_2d"])
    module, x = made(model, noise=0.2), images(model)
    seen: list[torch.Tensor] = []
    module.blocks[0].attn.register_forward_hook(lambda layer, inputs, out: seen.extend([inputs[0], out]))
    with torch.no_grad():
        module(x)
        attn, (normed, out) = module.blocks[0].attn, seen[:2]
        values = attn.qkv(normed).chunk(3, dim=-1)[2].unflatten(-1, (2, 8)).transpose(1, 2)
        rebuilt = attn.proj((module.attention(x)[0] @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(rebuilt, out)
