"""The same weights give timm's logits; the same names take timm's state dict without a mapping."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_specs import CLASSIFY, images, named

from vitbench.model.build import build
from vitbench.spec.trial import ModelSpec

AVG = {"global_pool": "avg", "class_token": False}
CASES: dict[str, tuple[str, dict[str, Any], ModelSpec, float]] = {
    "class token": ("vit_tiny_patch16_224", {"depth": 3}, named("Ti/16", 64, 10, depth=3), 1e-5),
    "no_embed_class": (
        "vit_tiny_patch16_224",
        {"depth": 2, "no_embed_class": True, "qkv_bias": False},
        named("Ti/16", 64, 10, depth=2, no_embed_class=True, qkv_bias=False),
        1e-5,
    ),
    "registers": (
        "vit_tiny_patch16_224",
        {"depth": 2, "reg_tokens": 3, "no_embed_class": True},
        named("Ti/16", 64, 10, depth=2, reg_tokens=3, no_embed_class=True),
        1e-5,
    ),
    "average": (
        "vit_tiny_patch16_224",
        {"depth": 3, **AVG},
        named("Ti/16", 64, 10, depth=3, global_pool="avg", final_norm="after_pool"),
        1e-5,
    ),
    "average, norm before": (
        "vit_tiny_patch16_224",
        {"depth": 3, **AVG, "fc_norm": False},
        named("Ti/16", 64, 10, depth=3, global_pool="avg"),
        1e-5,
    ),
    "attention pooling": (
        "vit_tiny_patch16_224",
        {"depth": 2, "global_pool": "map", "class_token": False},
        named("Ti/16", 64, 10, depth=2, global_pool="map"),
        1e-5,
    ),
    "layer scale": (
        "vit_tiny_patch16_224",
        {"depth": 2, "init_values": 0.1},
        named("Ti/16", 64, 10, depth=2, layer_scale=0.1),
        1e-5,
    ),
    "non-square": ("vit_tiny_patch16_224", {"depth": 2}, named("Ti/16", (32, 80), 10, depth=2), 1e-5),
    "BiT, non-square": ("resnetv2_50x1_bit", {}, named("R50x1", (64, 97), 10), 1e-4),
    "hybrid, non-square": ("vit_base_r50_s16_224", {"depth": 2}, named("R50x1+ViT-B/16", (64, 96), 10, depth=2), 1e-4),
    "BiT": ("resnetv2_50x1_bit", {}, named("R50x1", 65, 10), 1e-4),
    "BiT, BatchNorm": (
        "resnetv2_50",
        {"stem_type": "fixed"},
        named("R50x1", 64, 10, norm_layer="batch", weight_standardize=False),
        1e-4,
    ),
    "hybrid, stage 4 folded": ("vit_base_r50_s16_224", {"depth": 2}, named("R50x1+ViT-B/16", 64, 10, depth=2), 1e-4),
    "hybrid, four stages": ("vit_small_r26_s32_224", {"depth": 2}, named("R26x1+ViT-S/32", 64, 10, depth=2), 1e-4),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_timms(case: str) -> None:
    import timm

    name, changes, model, tolerance = CASES[case]
    size = {} if model.family == "resnet" else {"img_size": model.img_size}
    theirs = timm.create_model(name, num_classes=10, **size, **changes).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    ours = build(model, CLASSIFY).eval()
    ours.load_state_dict(theirs.state_dict())
    x = images(model, 2)
    with torch.no_grad():
        expected = theirs(x)
        assert expected.abs().max() > 0.5
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=tolerance)
        features = theirs.forward_head(theirs.forward_features(x), pre_logits=True)
        torch.testing.assert_close(ours.pre_logits(x), features, rtol=0, atol=10 * tolerance)


def test_parity_fails_on_another_weight() -> None:
    import timm

    model = CASES["class token"][2]
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=64, depth=3).eval()
    ours = build(model, CLASSIFY).eval()
    ours.load_state_dict(theirs.state_dict())
    x = images(model, 2)
    with torch.no_grad():
        ours.blocks[1].norm2.bias[0] += 0.1
        assert (ours(x) - theirs(x)).abs().max() > 1e-4
