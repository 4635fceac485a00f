"""PoolFormer's options of a block: GroupNorm with one group, and LayerScale."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_specs import CLASSIFY, TINY, made, resolved
from torch.func import functional_call, stack_module_state, vmap

from vitbench.base.errors import InputError
from vitbench.inspection.export import architecture
from vitbench.model.parameters import parameters
from vitbench.spec.trial import ModelSpec

POOLFORMER: dict[str, Any] = {
    "global_pool": "avg", "pos_embed": "none", "token_mixer": "pool", "mlp_ratio": 4.0,
    "block_norm": "group", "layer_scale": 1e-5,
}  # fmt: skip


def poolformer(**fields: Any) -> ModelSpec:
    return resolved({**TINY, **POOLFORMER, "img_size": 16, "embed_dim": 64, **fields})


@torch.no_grad()
def test_a_poolformer_block_is_timms() -> None:
    metaformer = pytest.importorskip("timm.models.metaformer")
    options = {"mlp_act": torch.nn.GELU, "mlp_bias": True, "norm_layer": metaformer.GroupNorm1}
    theirs = (
        metaformer.MetaFormerBlock(64, token_mixer=metaformer.Pooling, layer_scale_init_value=1e-5, **options)
        .eval()
        .double()
    )
    ours = made(poolformer(), noise=0.3).blocks[0].double()
    state = {
        name.replace("ls1.gamma", "layer_scale1.scale").replace("ls2.gamma", "layer_scale2.scale"): (
            tensor[:, :, None, None] if tensor.dim() == 2 else tensor
        )
        for name, tensor in ours.state_dict().items()
    }
    theirs.load_state_dict(state)
    assert sum(tensor.numel() for tensor in state.values()) == 33_472
    x = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = theirs(x.transpose(1, 2).unflatten(2, (8, 8))).flatten(2).transpose(1, 2)
    assert (ours(x, None) - expected).abs().max() < 1e-6


@torch.no_grad()
def test_layer_scale_begins_at_its_value_and_scales_both_branches() -> None:
    model = poolformer(layer_scale=0.25, block_norm="layer", token_mixer="attention")
    block = made(model).blocks[0]
    assert (block.ls1.gamma == 0.25).all()
    plain = made(poolformer(layer_scale=None, block_norm="layer", token_mixer="attention")).blocks[0]
    x = torch.randn(2, 64, 64)
    mixed = x + 0.25 * plain.attn(plain.norm1(x), None)
    torch.testing.assert_close(block(x, None), mixed + 0.25 * plain.mlp(plain.norm2(mixed)))


def test_layer_scale_does_not_decay_and_changes_no_other_tensor() -> None:
    names = {tensor.name: tensor for tensor in parameters(poolformer(), CLASSIFY)}
    scales = {name: tensor for name, tensor in names.items() if tensor.part == "layer_scale"}
    assert set(scales) == {f"blocks.{layer}.ls{branch}.gamma" for layer in (0, 1) for branch in (1, 2)}
    assert not any(tensor.decays for tensor in scales.values())
    plain = parameters(poolformer(layer_scale=None, block_norm="layer"), CLASSIFY)
    assert [tensor for name, tensor in names.items() if name not in scales] == list(plain)


@torch.no_grad()
def test_a_stack_of_group_norms_is_its_members() -> None:
    model = poolformer()
    members = [made(model, seed=seed, noise=0.1) for seed in (0, 1)]
    weights, _ = stack_module_state(members)
    x = torch.randn(2, 3, 1, 16, 16)
    stacked = vmap(lambda state, images: functional_call(members[0], state, (images,)))(weights, x)
    for member, images, out in zip(members, x, stacked, strict=True):
        torch.testing.assert_close(out, member(images), rtol=1e-4, atol=1e-5)


def test_timm_takes_layer_scale_and_no_other_norm() -> None:
    model = poolformer(token_mixer="attention", block_norm="layer")
    assert architecture(model, CLASSIFY).model_args["init_values"] == 1e-5
    for changed in ({"block_norm": "group"}, {"norm_eps": 1e-5}):
        with pytest.raises(InputError, match=f"timm cannot hold this model: model.{next(iter(changed))}"):
            architecture(model.model_copy(update=changed), CLASSIFY)
