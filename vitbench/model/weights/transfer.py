"""Weights into a model that differs in its head or its grid: fine-tuning, probing, another resolution."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vitbench.base.errors import InputError
from vitbench.model.sizes import known
from vitbench.model.tensors import Tensor as StateTensor
from vitbench.model.weights.start import Shapes, Tensors, as_linear, carries, misfit, square_side, stretched


def load_weights(module: nn.Module, state: Mapping[str, Tensor], tensors: Tensors) -> None:
    """Load `state` into an initialised `module` in place: all but the head, positions interpolated to its grid.

    `tensors` are the module's.

    Source: Dosovitskiy et al. 2021, section 3.2 (a new zero head, interpolated positions); vit_jax (bilinear, corners
    on corners, the class token's row apart). Raises InputError if the rest does not fit.
    """
    problem = misfit(_shapes(state), tensors)
    if problem:
        raise InputError(problem)
    given = {name: tensor for name, tensor in state.items() if carries(name, tensors)}
    module.load_state_dict({name: _fitted(tensors[name], given[name]) for name in given}, strict=False)


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _fitted(target: StateTensor, tensor: Tensor) -> Tensor:
    """`tensor` in the shape of `target`, into which it fits."""
    if target.shape in (tuple(tensor.shape), as_linear(tuple(tensor.shape))):
        return tensor.view(target.shape)
    if stretched(tuple(tensor.shape), target) == "axis":
        return interpolate_axis(tensor, target.shape[-2])
    return interpolate_grid(tensor, target.shape[1], target.prefix_rows)


def interpolate_axis(table: Tensor, length: int) -> Tensor:
    """A table `[..., S, D]` stretched linearly to `[..., length, D]`, ends on ends."""
    lead = table.shape[:-2]
    rows = table.reshape(-1, *table.shape[-2:]).transpose(1, 2)
    longer = F.interpolate(rows, size=length, mode="linear", align_corners=True)
    return longer.transpose(1, 2).reshape(*lead, length, -1)


def interpolate_grid(table: Tensor, num_rows: int, prefix_rows: int) -> Tensor:
    """Positions `[1, T, D]` of a square grid stretched bilinearly to `num_rows` rows, corners on corners.

    The first `prefix_rows`, of tokens that are no patches, stay as they are.
    """
    prefix, patches = table[:, :prefix_rows], table[:, prefix_rows:]
    side, new_side = (known(square_side(rows - prefix_rows)) for rows in (table.shape[1], num_rows))
    grid = rearrange(patches, "one (y x) d -> one d y x", y=side)
    finer = F.interpolate(grid, size=(new_side, new_side), mode="bilinear", align_corners=True)
    return torch.cat([prefix, rearrange(finer, "one d y x -> one (y x) d")], dim=1)
