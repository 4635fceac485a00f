"""How far attention reaches: the distance between a query and what it attends to, averaged with its attention.

Source: Dosovitskiy et al. 2021, s4.5 and App. D.7, Figs. 7 right and 11. The paper does not say what becomes of the
class token; here (Differs, perhaps) its row and column are dropped, and the rest of each row adds up to 1 again.
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
    """What attention without any preference gives, in pixels: 116.5 on 14 x 14 cells of 16 pixels."""
    return float(grid_distances(side, cell_px).mean())


def among_patches(attention: Tensor, num_prefix: int) -> Tensor:
    """Attention `[..., N, N]` among the patches alone, rows adding up to 1, of `attention [..., T, T]`.

    A query that gives (almost) all to the prefix tokens keeps what proportions it has among the patches.
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
