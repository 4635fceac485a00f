"""Weights into a model that differs in its head or its grid: fine-tuning, probing, another resolution."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vitbench.errors import InputError

READOUT = ("head.", "representation.", "mpp_head.", "mask_token")
"""What belongs to the task that the weights come from: never carried over."""
FRESH = ("head.", "representation.", "attn_pool.")
"""What may be missing in the weights: it keeps its first values (of a classifier: zeros, with `weight_init: jax`)."""
AXES = ("pos_embed_x", "pos_embed_y", "rel_pos_h", "rel_pos_w")
"""Tables along one axis of the grid, interpolated along it."""


def load_weights(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load `state` into an initialised `module` in place: all but the head, positions interpolated to its grid.

    Source: Dosovitskiy et al. 2021, section 3.2 (a new zero head, interpolated positions); vit_jax (bilinear, corners
    on corners, the class token's row apart). Raises InputError where the rest does not fit tensor by tensor.
    """
    own: dict[str, Tensor] = module.state_dict()
    given = {name: tensor for name, tensor in state.items() if not name.startswith(READOUT)}
    extra = sorted(given.keys() - own.keys())
    if extra:
        raise InputError(f"weights: the model has no {_some(extra)}; its spec differs from that of the weights")
    missing = sorted(name for name in own.keys() - given.keys() if not name.startswith(FRESH))
    if missing:
        raise InputError(f"weights: they lack {_some(missing)}; the model's spec differs from that of the weights")
    fitted = {name: _fitted(name, tensor, own[name]) for name, tensor in given.items()}
    module.load_state_dict(fitted, strict=False)


def _some(names: list[str]) -> str:
    return f"{names[0]} (and {len(names) - 1} more)" if len(names) > 1 else names[0]


def _fitted(name: str, tensor: Tensor, target: Tensor) -> Tensor:
    """`tensor` in the shape of `target`."""
    if tensor.shape == target.shape:
        return tensor
    last = name.rpartition(".")[2]
    if tensor.shape[-1] == target.shape[-1]:
        if last in AXES:
            return interpolate_axis(tensor, target.shape[-2])
        if last == "pos_embed" and _has_class_row(tensor) == _has_class_row(target):
            return interpolate_grid(tensor, target.shape[1])
    raise InputError(
        f"weights: {name} has shape {tuple(tensor.shape)}, the model's is {tuple(target.shape)}, "
        "and it cannot be interpolated"
    )


def _has_class_row(table: Tensor) -> bool:
    """Is a position table `[1, T, D]` one row longer than a square grid?"""
    return math.isqrt(table.shape[1]) ** 2 != table.shape[1]


def interpolate_axis(table: Tensor, length: int) -> Tensor:
    """A table `[..., S, D]` stretched linearly to `[..., length, D]`, ends on ends."""
    lead = table.shape[:-2]
    rows = table.reshape(-1, *table.shape[-2:]).transpose(1, 2)
    stretched = F.interpolate(rows, size=length, mode="linear", align_corners=True)
    return stretched.transpose(1, 2).reshape(*lead, length, -1)


def interpolate_grid(table: Tensor, num_rows: int) -> Tensor:
    """Positions `[1, T, D]` stretched bilinearly to `num_rows` rows, corners on corners; a class row stays as it is."""
    prefix = int(_has_class_row(table))
    own, patches = table[:, :prefix], table[:, prefix:]
    grid = rearrange(patches, "one (y x) d -> one d y x", y=math.isqrt(patches.shape[1]))
    side = math.isqrt(num_rows - prefix)
    stretched = F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=True)
    return torch.cat([own, rearrange(stretched, "one d y x -> one (y x) d")], dim=1)
