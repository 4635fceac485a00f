"""Attention distance: the distance between a query and the patches that it attends to, weighted by the attention.

Source: Dosovitskiy et al. 2021, s4.5 and App. D.7, Figs. 7 right and 11.
Differs, perhaps: the paper does not mention the class token. Here its row and column are dropped, and the rest of each
row is scaled to sum to 1.
Shapes: B images, H heads, T tokens, N = G G patches, G grid side.
"""

from __future__ import annotations

import torch
from torch import Tensor


def grid_distances(side: int, cell_px: float) -> Tensor:
    """Euclidean distance in pixels between the centres of every two cells, float64 `[N, N]`."""
    place = torch.arange(side * side)
    centres = torch.stack([place // side, place % side], dim=1).double() * cell_px
    return torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")


def uniform_distance(side: int, cell_px: float) -> float:
    """The mean distance of uniform attention in pixels: 116.5 on 14 x 14 cells of 16 pixels."""
    return float(grid_distances(side, cell_px).mean())


def among_patches(attention: Tensor, num_prefix: int) -> Tensor:
    """Attention `[..., N, N]` among the patches alone, with rows that sum to 1, from `attention [..., T, T]`.

    A query with almost all of its attention on prefix tokens keeps its proportions among the patches.
    """
    patches = attention[..., num_prefix:, num_prefix:].double()
    return patches / patches.sum(dim=-1, keepdim=True).clamp_min(1e-300)


def mean_distance(attention: Tensor, num_prefix: int, distances: Tensor) -> Tensor:
    """Mean attention distance in pixels of each image and head, float64 `[B, H]`, over all patches as queries.

    `attention` is `[B, H, T, T]`, `distances` `[N, N]`.
    """
    weights = among_patches(attention, num_prefix)
    out: Tensor = torch.einsum("bhqk,qk->bh", weights, distances.to(weights.device)) / distances.shape[0]
    return out
