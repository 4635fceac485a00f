"""Attention rollout: the patches that the readout attends to through all layers.

Source: Abnar & Zuidema 2020; Dosovitskiy et al. 2021, App. D.8, Figs. 6 and 14 (mean over heads, product of layers).
The paper does not say whether the identity is mixed in for the residual connection, so both are computed.
Shapes: B images, H heads, T tokens, N = G G patches, G grid side, S image side in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def start(num_images: int, num_tokens: int, device: torch.device) -> Tensor:
    """The rollout before the first layer: the identity, `[B, T, T]`."""
    return torch.eye(num_tokens, dtype=torch.float64, device=device).expand(num_images, -1, -1)


def step(rolled: Tensor, attention: Tensor, *, residual: bool) -> Tensor:
    """The rollout `[B, T, T]` after one more layer, of `rolled [B, T, T]` and that layer's `attention [B, H, T, T]`.

    With `residual`, half of each token passes the attention unchanged: (A + I) / 2.
    """
    mixed = attention.double().mean(dim=1)
    if residual:
        mixed = (mixed + torch.eye(mixed.shape[-1], dtype=mixed.dtype, device=mixed.device)) / 2
    return mixed @ rolled


def readout_map(rolled: Tensor, side: int, class_token: bool) -> Tensor:
    """The patches that the readout attends to, `[B, G, G]`, sum 1: the class token's row or the patches' mean row."""
    first_patch = rolled.shape[1] - side * side
    rows = rolled[:, 0] if class_token else rolled[:, first_patch:].mean(dim=1)
    patches = rows[:, first_patch:]
    shares = patches / patches.sum(dim=1, keepdim=True).clamp_min(1e-300)
    return shares.reshape(-1, side, side)


def box_shares(boxes: Tensor, side: int, cell_px: float) -> Tensor:
    """The share of each cell inside the box, `[B, G, G]` in [0, 1]; `boxes [B, 4]` are left, top, right, bottom."""
    edges = torch.arange(side + 1, dtype=torch.float64) * cell_px
    left, top, right, bottom = boxes.double().unbind(1)

    def overlap(first: Tensor, last: Tensor) -> Tensor:
        inside = torch.minimum(last[:, None], edges[None, 1:]) - torch.maximum(first[:, None], edges[None, :-1])
        return inside.clamp_min(0) / cell_px

    return overlap(top, bottom)[:, :, None] * overlap(left, right)[:, None, :]


def mass_in_boxes(maps: Tensor, inside: Tensor) -> Tensor:
    """Share of each map's mass inside the box, `[B]`; `maps` and `inside` are `[B, G, G]`."""
    return (maps * inside.to(maps.device)).sum(dim=(1, 2))


def pointing_hits(maps: Tensor, inside: Tensor) -> Tensor:
    """True for maps whose peak is in a cell that is at least half inside the box: bool `[B]`; both are `[B, G, G]`."""
    peak = maps.flatten(1).argmax(dim=1)
    return inside.to(maps.device).flatten(1).gather(1, peak[:, None]).squeeze(1) >= 0.5
