"""Rates, clipping, AdamW, SGD and the moving average over a stack's flat weights, every member with its own rate.

E stacked trials, P parameters of one model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vitbench.model.tensors import Tensor as StateTensor
from vitbench.spec.trial import TrainSpec
from vitbench.train.stack import Stack

BETA_1, BETA_2, EPS = 0.9, 0.999, 1e-8


def bias_corrections(num_steps: int) -> Tensor:
    """Adam's corrections of its first and second moment at every step, `[num_steps, 2]`."""
    count = np.arange(1, num_steps + 1)
    return torch.tensor(np.stack([1 - BETA_1**count, 1 - BETA_2**count], axis=1), dtype=torch.float32)


BEFORE_BLOCKS = frozenset({"class_token", "dist_token", "registers", "position", "patch_embed", "root", "mask_token"})
"""Parts whose tensors act before the first block, unless a block has them."""


def layer_of(tensor: StateTensor) -> tuple[float, ...]:
    """Where a tensor stands between input and output, as a key that sorts: stem, each block, the rest.

    The final norm belongs to the last block, as in timm.
    """
    block = re.match(r"(?:stages\.(\d+)\.)?blocks\.(\d+)\.", tensor.name)
    if block:
        return (1, float(block[1] or 0), float(block[2]))
    if tensor.part in BEFORE_BLOCKS:
        return (0,)
    return (1, math.inf, math.inf) if tensor.name.startswith("norm.") else (2,)


def rate_scale(layer_decay: float | None, tensors: Sequence[StateTensor]) -> Tensor | None:
    """Each weight's share of the learning rate, `[P]`: `layer_decay` to the power of the layers after its own.

    `tensors` are the trained ones in the order of the flat weights.

    Source: Clark et al. 2020 (ELECTRA); Bao et al. 2022 (BEiT). Layers are timm's.
    """
    if layer_decay is None:
        return None
    keys = {tensor.name: layer_of(tensor) for tensor in tensors}
    blocks = sorted({key for key in keys.values() if key[0] == 1 and key[1] != math.inf})
    layers = {key: 1 + number for number, key in enumerate(blocks)} | {(0,): 0, (2,): 1 + len(blocks)}
    layers[(1, math.inf, math.inf)] = len(blocks)
    pieces = [
        torch.full((tensor.size,), layer_decay ** (1 + len(blocks) - layers[keys[tensor.name]])) for tensor in tensors
    ]
    return torch.cat(pieces)


def average_shares(train: TrainSpec) -> npt.NDArray[np.float64]:
    """The newest weights' share in the moving average, per step `[num_steps]`: 1 - decay; the first step copies.

    Source: timm's ModelEmaV3, with its warm-up `1 - (1 + step) ** (-2 / 3)` where `model_ema_warmup` is set.
    """
    step = np.arange(known_steps(train), dtype=np.float64)
    decay = np.full(len(step), train.model_ema_decay)
    if train.model_ema_warmup:
        decay = np.minimum(decay, 1 - (1 + step) ** (-2 / 3))
    return np.where(step == 0, 1.0, 1 - decay)


def known_steps(train: TrainSpec) -> int:
    """The number of steps of a resolved spec."""
    assert train.steps is not None, "resolved specs say their length in steps"
    return train.steps


def learning_rates(train: TrainSpec) -> npt.NDArray[np.float64]:
    """Rates `[num_steps]`: linear warm-up over `warmup_fraction` of the steps, the course of `sched`, the cooldown.

    The first step of a warm-up of w steps has lr / w; the last step of a fall to 0 is one step short of it.
    Source: Dosovitskiy et al. 2021, App. B.1, Table 3 (linear decay at scale, cosine on ImageNet); Zhai et al. 2022
    (Scaling ViT) for rsqrt and cooldown, whose warm-up, timescale and cooldown are steps, here shares of all steps.
    """
    num_steps = known_steps(train)
    warmup = round(train.warmup_fraction * num_steps)
    step = np.arange(num_steps, dtype=np.float64)
    progress = np.clip((step - warmup) / max(1, num_steps - warmup), 0.0, 1.0)
    shape = {
        "cosine": 0.5 * (1.0 + np.cos(np.pi * progress)),
        "linear": 1.0 - progress,
        "constant": np.ones(num_steps),
        "rsqrt": 1 / np.sqrt(1 + np.maximum(0, step - warmup) / (train.timescale_fraction * num_steps)),
    }[train.sched]
    cooldown = round(train.cooldown_fraction * num_steps)
    falling = np.clip((num_steps - step) / max(1, cooldown), 0.0, 1.0) if cooldown else 1.0
    return train.lr * falling * np.where(step < warmup, (step + 1) / max(1, warmup), shape)


def optimizer_of(specs: Sequence[TrainSpec], stack: Stack, tensors: Mapping[str, StateTensor]) -> Optimizer:
    """The optimizer of a stack whose members have these tensors by name."""
    device = stack.flat.device
    scale = rate_scale(specs[0].layer_decay, [tensors[name] for name in stack.shapes])
    classifiers = {name for name, tensor in tensors.items() if tensor.decays and is_classifier(tensor)}
    return Optimizer(
        specs,
        stack.flat,
        stack.mask({name for name, tensor in tensors.items() if tensor.decays}),
        None if scale is None else scale.to(device),
        stack.mask(classifiers),
    )


def is_classifier(tensor: StateTensor) -> bool:
    """True for the last layer of a classifier; a hidden layer before it (`representation`) is not the last."""
    return tensor.part == "head" and tensor.name.startswith("head")


class Optimizer:
    """AdamW (decoupled decay, scaled by the rate, as in torch) or SGD with momentum, on `flat [E, P]`.

    Source: Dosovitskiy et al. 2021, App. B.1: Adam with beta 0.9, 0.999, clipping at global norm 1.
    """

    def __init__(
        self,
        specs: Sequence[TrainSpec],
        flat: Tensor,
        decay_mask: Tensor,
        rate_scale: Tensor | None = None,
        head_mask: Tensor | None = None,
    ) -> None:
        """`decay_mask [P]` is 1 where weights decay; `rate_scale [P]` scales the rate (None: 1 everywhere).

        `head_mask [P]` is 1 in the classifier's weights, which decay by `weight_decay_head`, where a spec has one.
        """
        self.rate_scale = rate_scale
        self.opt = specs[0].opt
        self.clip_grad = specs[0].clip_grad
        self.momentum = specs[0].momentum
        weight_decay = torch.tensor([s.weight_decay for s in specs], device=flat.device, dtype=flat.dtype)
        self.decay = weight_decay[:, None] * decay_mask[None, :]
        for decay, spec in zip(self.decay, specs, strict=True):
            if spec.weight_decay_head is not None and head_mask is not None:
                decay.copy_(torch.where(head_mask > 0, spec.weight_decay_head, decay))
        self.first = torch.zeros_like(flat)
        self.second = torch.zeros_like(flat) if self.opt == "adamw" else torch.zeros(0, device=flat.device)

    @torch.no_grad()
    def step(self, flat: Tensor, grad: Tensor, lr: Tensor, correction: Tensor, active: Tensor) -> None:
        """Update `flat` in place from `grad`; `lr [E, 1]`; `correction [2]` is that of the step; members not `active`
        stay.

        `active [E, 1]` holds 1.0 or 0.0. A frozen member's gradient may be NaN, so it is replaced, not multiplied.
        """
        grad = torch.where(active > 0, grad, torch.zeros_like(grad))
        if self.clip_grad is not None:
            norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True)
            grad.mul_((self.clip_grad / (norm + 1e-6)).clamp(max=1.0))
        lr = lr * active if self.rate_scale is None else lr * active * self.rate_scale
        if self.opt == "sgd":
            self.first.mul_(self.momentum).add_(grad.add_(self.decay * flat))
            flat.sub_(lr * self.first)
            return
        self.first.lerp_(grad, 1 - BETA_1)
        self.second.mul_(BETA_2).addcmul_(grad, grad, value=1 - BETA_2)
        root = (self.second / correction[1]).sqrt_().add_(EPS)
        flat.mul_((lr * self.decay).neg_().add_(1)).sub_((lr / correction[0] * self.first).div_(root))
