"""The axial models of Dosovitskiy et al. 2021, App. D.6 and Fig. 13: their block, parameters and FLOPs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_specs import CLASSIFY, images, made, named
from torch import Tensor

from vitbench.model import costs

JFT_IMAGES = 303_000_000
FIG_13 = {"ViT-B/32": 56, "Axial-ViT-B/32": 108, "ViT-B/16": 224, "Axial-ViT-B/16": 427}
"""ExaFLOPs of 7 epochs of JFT, read off the figure."""


def attention(block: Any, x: Tensor, seen: Tensor) -> Tensor:
    """The block's attention to all tokens, written out, under a mask `[N, N]`."""
    heads = block.attn.shape.num_heads
    q, k, v = block.attn.qkv(x).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(2)
    out: Tensor = block.attn.proj(mixed)
    return out


@torch.no_grad()
def test_an_axial_block_is_row_attention_mlp_column_attention_mlp() -> None:
    model = named("Axial-ViT-Mu/2", (8, 12), 5)
    network = made(model, noise=0.3)
    rows, columns = torch.arange(24) // 6, torch.arange(24) % 6
    pixels = images(model)
    x = network.patch_embed(pixels) + network.pos_embed
    blocks = list(network.blocks)
    assert len(blocks) == 4, "two axial blocks"
    for first, second in zip(blocks[::2], blocks[1::2], strict=True):
        x = x + attention(first, first.norm1(x), rows[:, None] == rows)
        x = x + first.mlp(first.norm2(x))
        x = x + attention(second, second.norm1(x), columns[:, None] == columns)
        x = x + second.mlp(second.norm2(x))
    torch.testing.assert_close(network.forward_features(pixels), network.norm(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FIG_13)
def test_flops_of_figure_13(name: str) -> None:
    """The figure's points are read to about 2%."""
    model = named(name, global_pool="avg")
    ours = costs.train_flops(model, CLASSIFY, 7 * JFT_IMAGES) / 1e18
    print(f"{name}: {ours:.1f} exaFLOPs, the figure's {FIG_13[name]} ({ours / FIG_13[name] - 1:+.1%})")
    assert ours == pytest.approx(FIG_13[name], rel=0.025)


@pytest.mark.parametrize("patch", [32, 16])
def test_an_axial_model_has_the_parameters_of_twice_the_blocks(patch: int) -> None:
    """Attention to fewer patches has no fewer parameters: timm's ViT-B of 24 blocks has as many."""
    timm = pytest.importorskip("timm.models.vision_transformer")
    with torch.device("meta"):
        theirs = timm.VisionTransformer(
            patch_size=patch, depth=24, class_token=False, global_pool="avg", fc_norm=False, num_classes=1000
        )
    ours = costs.num_params(named(f"Axial-ViT-B/{patch}"), CLASSIFY)
    print(f"Axial-ViT-B/{patch}: {ours:,} parameters")
    assert ours == sum(parameter.numel() for parameter in theirs.parameters())
