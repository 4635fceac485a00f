"""What position encodings compute with: tables along the grid, offsets, rotations.

Shapes: B batch, H heads, T tokens, N patches, S keys, D embed_dim, K head_dim.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from einops import repeat
from torch import nn

from vitbench.model.sizes import Transformer
from vitbench.model.tensors import Tensor

Rotation = tuple[torch.Tensor, torch.Tensor]


def register(owner: nn.Module, tables: Iterable[Tensor]) -> None:
    """Give `owner` one empty parameter per table."""
    for table in tables:
        owner.register_parameter(table.name, nn.Parameter(torch.empty(table.shape)))


def spread(x: torch.Tensor, shape: Transformer, dim: int = -2) -> torch.Tensor:
    """`x` of the tokens that have a position, with zeros for the others along `dim`.

    Without a position are the registers, and the class token if its row is not in `x`.
    """
    first, missing = x.shape[dim] - shape.num_patches, shape.num_tokens - x.shape[dim]
    if missing == 0:
        return x
    class_row, patches = x.narrow(dim, 0, first), x.narrow(dim, first, shape.num_patches)
    zeros = torch.zeros_like(patches.narrow(dim, 0, 1)).repeat_interleave(missing, dim)
    return torch.cat([class_row, zeros, patches], dim)


def placed(x: torch.Tensor, shape: Transformer) -> torch.Tensor:
    """The tokens of `x [..., T, K]` that have a position: the patches, and the class token if it has one."""
    if shape.num_places == shape.num_tokens:
        return x
    patches = x[..., shape.num_prefix :, :]
    return torch.cat([x[..., :1, :], patches], dim=-2) if shape.class_position else patches


def offset_logits(q: torch.Tensor, table: torch.Tensor, query_at: torch.Tensor, key_at: torch.Tensor) -> torch.Tensor:
    """`[B, H, T, S]`: queries `[B, H, T, K]` with the table's vectors of the offsets `key_at [S] - query_at [T]`."""
    reach = table.shape[0] // 2
    offsets = (key_at.unsqueeze(0) - query_at.unsqueeze(1)).clamp(-reach, reach)
    return torch.einsum("bhqk,qtk->bhqt", q, table[offsets + reach])


def rotate(x: torch.Tensor, turn: Rotation) -> torch.Tensor:
    """Queries or keys `[B, H, T, K]`, each pair (k, k + K/2) turned by its token's angle."""
    cos, sin = (part.to(x.dtype) for part in turn)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def along_grid(table: torch.Tensor, shape: Transformer) -> tuple[torch.Tensor, torch.Tensor]:
    """Each patch's row of `table` by its grid row, and by its grid column: `[N, ...]` each."""
    rows = repeat(table[: shape.grid.rows], "y d -> (y x) d", x=shape.grid.columns)
    columns = repeat(table[: shape.grid.columns], "x d -> (y x) d", y=shape.grid.rows)
    return rows, columns


def axis_angles(side: int, num: int, base: float, device: torch.device) -> torch.Tensor:
    """`[side, num]`: index times each of `num` frequencies from 1 down towards 1 / base."""
    frequencies = base ** -(torch.arange(num, device=device, dtype=torch.float32) / num)
    return torch.arange(side, device=device, dtype=torch.float32).unsqueeze(1) * frequencies
