"""Models from a resolved spec: build, initialise, load weights.

Every model has `forward(images) -> logits`, `forward_features`, `forward_head(x, pre_logits)` and `pre_logits(images)`,
as in timm. They are device-agnostic, and run under autocast, `torch.compile` and `torch.func` (stacked by `vmap`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitbench.model.hybrid import HybridEmbed
from vitbench.model.init import draw
from vitbench.model.resnet import ResNet
from vitbench.model.tensors import parameters
from vitbench.model.vit import ConvStem, Encoder, MaskedPatchViT, ViT, patch_projection
from vitbench.model.weights.transfer import load_weights
from vitbench.spec.trial import ModelSpec, ObjectiveSpec

__all__ = ["Encoder", "build", "draw", "initialise", "load_weights"]


def build(model: ModelSpec, objective: ObjectiveSpec) -> nn.Module:
    """The module of a resolved spec that `cost.check` finds nothing wrong with; its parameters hold no values yet."""
    if model.family == "resnet":
        return ResNet(model)
    if objective.name == "masked_patch":
        return MaskedPatchViT(model, patch_projection(model), objective)
    if model.family == "hybrid":
        return ViT(model, HybridEmbed(model))
    return ViT(model, ConvStem(model) if model.stem == "conv" else patch_projection(model))


def initialise(module: nn.Module, model: ModelSpec, objective: ObjectiveSpec, seed: int) -> None:
    """Fill every tensor of `module` in place; each draws from its own stream, `(seed, "init/" + name)`, on the CPU."""
    state: dict[str, Tensor] = module.state_dict()
    with torch.no_grad():
        for tensor in parameters(model, objective):
            state[tensor.name].copy_(draw(tensor, seed))
