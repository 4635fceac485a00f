"""Models from a resolved spec: build, initialise, load weights.

Every model has `forward(images) -> logits`, `forward_features`, `forward_head(x, pre_logits)` and `pre_logits(images)`,
as in timm. They are device-agnostic, and run under autocast, `torch.compile` and `torch.func` (stacked by `vmap`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitbench.model.init import draw
from vitbench.model.mechanisms import patch_embed_of
from vitbench.model.objective import objective_of
from vitbench.model.parameters import parameters
from vitbench.model.resnet import ResNet
from vitbench.model.vit import Encoder
from vitbench.model.weights.transfer import load_weights
from vitbench.spec.trial import ModelSpec, ObjectiveSpec

__all__ = ["Encoder", "build", "draw", "initialise", "load_weights"]


def build(model: ModelSpec, objective: ObjectiveSpec) -> nn.Module:
    """The module of a resolved spec that `costs.check` finds nothing wrong with; its parameters hold no values yet."""
    if model.family == "resnet":
        return ResNet(model)
    module = objective_of(objective).module(model, patch_embed_of(model).module(model))
    frozen = {tensor.name for tensor in parameters(model, objective) if not tensor.trained}
    for name in frozen & {name for name, _ in module.named_parameters()}:
        _freeze(module, name)
    return module


def _freeze(module: nn.Module, name: str) -> None:
    """Turn a parameter into a buffer: it is kept, and neither gradients nor weight decay reach it."""
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    tensor = getattr(owner, last).detach()
    delattr(owner, last)
    owner.register_buffer(last, tensor)


def initialise(module: nn.Module, model: ModelSpec, objective: ObjectiveSpec, seed: int) -> None:
    """Fill every tensor of `module` in place; each draws from its own stream, `(seed, "init/" + name)`, on the CPU."""
    state: dict[str, Tensor] = module.state_dict()
    with torch.no_grad():
        for tensor in parameters(model, objective):
            state[tensor.name].copy_(draw(tensor, seed))
