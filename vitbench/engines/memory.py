"""The memory that a stack takes, counted without training, and how many members fit on a device."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from vitbench.model import costs
from vitbench.model.build import build
from vitbench.model.objective import STUDENT, MemberBatch, objective_of
from vitbench.model.sizes import known, pixel_grid
from vitbench.plan.trials import Trial
from vitbench.spec.trial import TrialSpec, sides

STATE_COPIES = 6
"""Tensors of the size of a member's weights: weights, gradients, two moments, best weights, decay per tensor."""
UPDATE_COPIES = 4
"""More such tensors during the update, after the activations: clipped gradients, root, decayed weights, step."""
OVERHEAD, SHARE_OF_FREE = 1.1, 0.8
"""A factor for allocators and workspaces; the share of the free memory that a plan may use."""


def activation_bytes(spec: TrialSpec) -> int:
    """Bytes that one member's forward passes keep for the backward pass, for one micro-batch.

    The model runs on tensors without data, so every model is counted as it is written. Everything counts as fp32, and
    so do the products of attention, which a fused kernel would not keep.
    """
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[id(tensor.untyped_storage())] = tensor
        return tensor

    model, train = spec.model, spec.train
    num_images = -(-train.batch_size // train.grad_accum)
    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module = build(model, train.objective).train()
        for step_pass in objective_of(train.objective).passes(model):
            if step_pass.role == STUDENT:
                size = pixel_grid(model) if step_pass.img_size is None else sides(step_pass.img_size)
                num_views = step_pass.num_views * num_images
                module(torch.empty(num_views, known(model.in_chans), *size), *drawn_inputs(spec, num_views))
    parameters = {id(parameter.untyped_storage()) for parameter in module.parameters()}
    return sum(tensor.untyped_storage().nbytes() for key, tensor in saved.items() if key not in parameters)


def drawn_inputs(spec: TrialSpec, num_images: int) -> list[Tensor]:
    """The inputs of the network beside `num_images` images, as tensors without values."""
    objective, index = objective_of(spec.train.objective), np.arange(num_images)
    if not objective.inputs:
        return []
    batch = MemberBatch(0, index, np.zeros_like(index), np.zeros((num_images, 0)))
    arrays = objective.draw(spec.model, [batch], [])
    return [torch.zeros(arrays[name].shape[1:], dtype=torch.int64) for name in objective.inputs]


def member_bytes(spec: TrialSpec, networks: Iterable[TrialSpec] = ()) -> int:
    """Peak bytes of one member of a stack: its state, and the larger of activations and the update's tensors.

    `networks` are those of other stages, of which only the weights are held.
    """
    weights = 4 * costs.num_params(spec.model, spec.train.objective)
    copies = STATE_COPIES + spec.train.model_ema + len(objective_of(spec.train.objective).averaged_roles)
    held = 4 * sum(costs.num_params(network.model, network.train.objective) for network in networks)
    return held + int(OVERHEAD * (copies * weights + max(activation_bytes(spec), UPDATE_COPIES * weights)))


def free_bytes(device: torch.device) -> int:
    """Free memory of the GPU or of this machine, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def members_that_fit(trial: Trial, device: torch.device) -> int:
    """How many trials like this one may be stacked on the device, at least 1."""
    return max(1, int(SHARE_OF_FREE * free_bytes(device) / member_bytes(trial.spec, trial.networks.values())))
