"""Resolved specs small enough for a CPU, one per mechanism."""

from __future__ import annotations

from typing import Any

import torch

from vitbench.cost import check
from vitbench.model import build, initialise
from vitbench.spec import ModelSpec, ObjectiveSpec
from vitbench.variants import variant

CLASSIFY = ObjectiveSpec()
TINY: dict[str, Any] = {
    "family": "vit", "img_size": 8, "in_chans": 1, "num_classes": 5, "patch_size": 2,
    "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0,
}  # fmt: skip
RESNET: dict[str, Any] = {
    "family": "resnet", "img_size": 16, "in_chans": 1, "num_classes": 5, "layers": (1, 1, 1, 1),
    "width_factor": 0.25, "root": "small", "preact": True,
}  # fmt: skip
HYBRID: dict[str, Any] = {
    **TINY, "family": "hybrid", "img_size": 16, "patch_size": 1, "layers": (1, 1, 2),
    "width_factor": 0.25, "root": "small", "preact": False,
}  # fmt: skip

POSITIONS: dict[str, dict[str, Any]] = {
    "none": {"pos_embed": "none"},
    "learned_1d": {},
    "learned_1d every_layer": {"pos_placement": "every_layer"},
    "learned_1d shared": {"pos_placement": "every_layer_shared"},
    "learned_2d": {"pos_embed": "learned_2d"},
    "learned_2d every_layer": {"pos_embed": "learned_2d", "pos_placement": "every_layer"},
    "sincos_2d": {"pos_embed": "sincos_2d"},
    "sincos_2d shared": {"pos_embed": "sincos_2d", "pos_placement": "every_layer_shared"},
    "relative_1d": {"pos_embed": "relative_1d"},
    "relative_2d": {"pos_embed": "relative_2d"},
    "relative_2d clipped": {"pos_embed": "relative_2d", "relative_clip": 2},
    "rope_2d": {"pos_embed": "rope_2d"},
}
"""The tiny ViT with each position encoding."""

MECHANISMS: dict[str, dict[str, Any]] = {
    **{name: {**TINY, **fields} for name, fields in POSITIONS.items()},
    "no_embed_class": {**TINY, "no_embed_class": True},
    "learned_2d no_embed_class": {**TINY, "pos_embed": "learned_2d", "no_embed_class": True},
    "relative_1d no_embed_class": {**TINY, "pos_embed": "relative_1d", "no_embed_class": True},
    "relative_2d no_embed_class": {**TINY, "pos_embed": "relative_2d", "no_embed_class": True},
    "avg": {**TINY, "global_pool": "avg"},
    "avg after_pool": {**TINY, "global_pool": "avg", "final_norm": "after_pool"},
    "avg relative_1d": {**TINY, "global_pool": "avg", "pos_embed": "relative_1d"},
    "avg beside a class token": {**TINY, "global_pool": "avg", "class_token": True},
    "map": {**TINY, "global_pool": "map"},
    "mlp_tanh": {**TINY, "head": "mlp_tanh"},
    "no final norm": {**TINY, "final_norm": "none"},
    "no qkv bias": {**TINY, "qkv_bias": False},
    "conv stem": {**TINY, "stem": "conv", "patch_size": 4},
    "timm init": {**TINY, "weight_init": "timm"},
    "drop": {**TINY, "drop_rate": 0.1, "drop_path_rate": 0.1},
    "resnet": RESNET,
    "resnet batch norm": {**RESNET, "norm_layer": "batch", "weight_standardize": False},
    "resnet full root": {**RESNET, "root": "imagenet", "img_size": 40},
    "hybrid": HYBRID,
    "hybrid four stages": {**HYBRID, "layers": (1, 1, 1, 1), "pos_embed": "relative_2d"},
    "hybrid full root": {**HYBRID, "root": "imagenet", "img_size": 36},
    "hybrid preact": {**HYBRID, "preact": True, "weight_init": "timm"},
}

OBJECTIVES = {
    target: ObjectiveSpec(name="masked_patch", target=target) for target in ("mean_colour", "downsampled", "pixels")
}


def resolved(fields: dict[str, Any], **changes: Any) -> ModelSpec:
    """A spec whose derived fields are filled and that `check` finds nothing wrong with."""
    fields = {**fields, **changes}
    if fields["family"] != "resnet":
        fields.setdefault("class_token", fields.get("global_pool", "token") == "token")
    model = ModelSpec(**fields)
    assert check(model) == []
    return model


def named(name: str, img_size: int = 224, num_classes: int = 1000, **changes: Any) -> ModelSpec:
    """A spec by shorthand, on RGB images."""
    fields = {"root": "imagenet", **variant(name), "img_size": img_size, "in_chans": 3, "num_classes": num_classes}
    return resolved({**fields, "preact": fields["family"] == "resnet", **changes})


def made(model: ModelSpec, objective: ObjectiveSpec = CLASSIFY, seed: int = 0, noise: float = 0.0) -> Any:
    """The initialised module in evaluation mode; `noise` is added to every parameter, so that no zero hides a fault."""
    module = build(model, objective)
    initialise(module, model, objective, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=noise)
    return module.eval()


def images(model: ModelSpec, count: int = 3, seed: int = 0) -> torch.Tensor:
    """Random images `[count, C, H, W]` for a model."""
    side = model.img_size
    assert side is not None
    assert model.in_chans is not None
    return torch.randn(count, model.in_chans, side, side, generator=torch.Generator().manual_seed(seed))
