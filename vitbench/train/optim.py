"""Clipping, AdamW and SGD over a stack's flat weights, every member with its own rate and decay.

E stacked trials, P parameters of one model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vitbench.spec.trial import TrainSpec

BETA_1, BETA_2, EPS = 0.9, 0.999, 1e-8


def bias_corrections(num_steps: int) -> Tensor:
    """Adam's corrections of its first and second moment at every step, `[num_steps, 2]`."""
    count = np.arange(1, num_steps + 1)
    return torch.tensor(np.stack([1 - BETA_1**count, 1 - BETA_2**count], axis=1), dtype=torch.float32)


class Optimizer:
    """AdamW (decoupled decay, scaled by the rate, as in torch) or SGD with momentum, on `flat [E, P]`.

    Source: Dosovitskiy et al. 2021, App. B.1: Adam with beta 0.9, 0.999, clipping at global norm 1.
    """

    def __init__(self, specs: Sequence[TrainSpec], flat: Tensor, decay_mask: Tensor) -> None:
        self.opt = specs[0].opt
        self.clip_grad = specs[0].clip_grad
        self.momentum = specs[0].momentum
        weight_decay = torch.tensor([s.weight_decay for s in specs], device=flat.device, dtype=flat.dtype)
        self.decay = weight_decay[:, None] * decay_mask[None, :]
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
        lr = lr * active
        if self.opt == "sgd":
            self.first.mul_(self.momentum).add_(grad.add_(self.decay * flat))
            flat.sub_(lr * self.first)
            return
        self.first.lerp_(grad, 1 - BETA_1)
        self.second.mul_(BETA_2).addcmul_(grad, grad, value=1 - BETA_2)
        root = (self.second / correction[1]).sqrt_().add_(EPS)
        flat.mul_((lr * self.decay).neg_().add_(1)).sub_((lr / correction[0] * self.first).div_(root))
