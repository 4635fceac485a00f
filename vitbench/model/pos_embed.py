"""Position encodings: what each adds, and where the class token stands in it.

| encoding | adds | class token |
|---|---|---|
| none | nothing | as any token: its own learned vector |
| learned_1d | one learned vector per raster index | a vector of its own (row 0), unless `no_embed_class` |
| learned_2d | learned column (X) and row (Y) halves, concatenated | a vector of its own, unless `no_embed_class` |
| sincos_2d | fixed sines and cosines of row and column | nothing: it has no place on the grid |
| relative_1d | logits of the query with a learned vector per raster offset | no offset, so no extra logit with it |
| relative_2d | the same, per row offset and per column offset | no offset, so no extra logit with it |
| rope_2d | queries and keys turned by angles of row and column | not turned, so as if at row 0, column 0 |

Absolute encodings are added to the tokens at the stem, or before every block (own tables, or one shared); the others
act inside every attention layer.

Source: Dosovitskiy et al. 2021, App. D.4, Table 8 (none, learned_1d, learned_2d, relative_1d).
Differs: the paper does not say what the class token does in relative_1d, nor whether the tables are shared: here each
layer has its own, shared by its heads. Where the class token is read, the last layer's table therefore cannot matter:
that layer is read only through a query without offsets. relative_2d, sincos_2d and rope_2d are not in the paper.

Shapes: B batch, H heads, T tokens, N patches, G grid side, D embed_dim, K head_dim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from vitbench.parameters import Parameter
from vitbench.shapes import Transformer

SINCOS_BASE = 10_000.0
"""Source: Vaswani et al. 2017, section 3.5; in two dimensions as in Beyer et al. 2022."""
ROPE_BASE = 100.0
"""Source: Heo et al. 2024 (axial rotary positions for images, whose grids are short)."""

Rotation = tuple[Tensor, Tensor]


def register(owner: nn.Module, tables: tuple[Parameter, ...]) -> None:
    """Give `owner` one empty parameter per table."""
    for table in tables:
        owner.register_parameter(table.name, nn.Parameter(torch.empty(table.shape)))


def learned_1d(owner: Any, shape: Transformer, device: torch.device) -> Tensor:
    """Positions `[1, N, D]`, or `[1, 1 + N, D]` with the class token's."""
    table: Tensor = owner.pos_embed
    return table


def learned_2d(owner: Any, shape: Transformer, device: torch.device) -> Tensor:
    """Positions `[1, N, D]`, or `[1, 1 + N, D]` with the class token's: X half of the column, Y half of the row."""
    columns = repeat(owner.pos_embed_x, "one x d -> one (y x) d", y=shape.grid_side)
    rows = repeat(owner.pos_embed_y, "one y d -> one (y x) d", x=shape.grid_side)
    patches = torch.cat([columns, rows], dim=-1)
    own = getattr(owner, "pos_embed_cls", None)
    return patches if own is None else torch.cat([own, patches], dim=1)


def sincos_2d(owner: Any, shape: Transformer, device: torch.device) -> Tensor:
    """Fixed positions `[1, N, D]`: sines and cosines of the column, then of the row, D/4 frequencies each."""
    angles = _axis_angles(shape.grid_side, shape.embed_dim // 4, SINCOS_BASE, device)
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
    columns = repeat(waves, "x d -> (y x) d", y=shape.grid_side)
    rows = repeat(waves, "y d -> (y x) d", x=shape.grid_side)
    return torch.cat([columns, rows], dim=-1).unsqueeze(0)


ABSOLUTE: dict[str, Callable[[nn.Module, Transformer, torch.device], Tensor]] = {
    "learned_1d": learned_1d,
    "learned_2d": learned_2d,
    "sincos_2d": sincos_2d,
}


def absolute(kind: str, owner: nn.Module, shape: Transformer, device: torch.device) -> Tensor | None:
    """What the encoding adds to all tokens, `[1, T, D]` (a class token without a position gets 0), or None."""
    if kind not in ABSOLUTE:
        return None
    positions = ABSOLUTE[kind](owner, shape, device)
    return _prefixed(positions, shape.num_tokens - positions.shape[1], (0, 0))


def _prefixed(x: Tensor, num: int, last: tuple[int, int]) -> Tensor:
    """`x` with `num` zero rows before its own, and zeros around its last dimension."""
    return F.pad(x, (*last, num, 0)) if num else x


def relative_1d(attention: Any, shape: Transformer, q: Tensor) -> Tensor:
    """Extra logits `[B, H, N, N]` of patch queries `[B, H, N, K]`: each with the vector of its raster offset."""
    keys = _offset_keys(attention.rel_pos, shape.num_patches)
    return torch.einsum("bhqk,qtk->bhqt", q, keys)


def relative_2d(attention: Any, shape: Transformer, q: Tensor) -> Tensor:
    """Extra logits `[B, H, N, N]`: the row offset's plus the column offset's."""
    side = shape.grid_side
    q = rearrange(q, "b h (y x) k -> b h y x k", y=side)
    rows = torch.einsum("bhyxk,ytk->bhyxt", q, _offset_keys(attention.rel_pos_h, side))
    columns = torch.einsum("bhyxk,xtk->bhyxt", q, _offset_keys(attention.rel_pos_w, side))
    logits: Tensor = rearrange(rows.unsqueeze(-1) + columns.unsqueeze(-2), "b h y x r c -> b h (y x) (r c)")
    return logits


RELATIVE: dict[str, Callable[[nn.Module, Transformer, Tensor], Tensor]] = {
    "relative_1d": relative_1d,
    "relative_2d": relative_2d,
}


def relative(kind: str, attention: nn.Module, shape: Transformer, q: Tensor) -> Tensor | None:
    """Extra logits `[B, H, T, T]` of scaled queries `[B, H, T, K]`, 0 with the class token; or None."""
    if kind not in RELATIVE:
        return None
    prefix = int(shape.class_token)
    return _prefixed(RELATIVE[kind](attention, shape, q[:, :, prefix:]), prefix, (prefix, 0))


def _offset_keys(table: Tensor, length: int) -> Tensor:
    """`[length, length, K]`: for query i and key j the row of offset j - i in a table `[2 reach + 1, K]`, clipped."""
    reach = table.shape[0] // 2
    index = torch.arange(length, device=table.device)
    offsets = (index.unsqueeze(0) - index.unsqueeze(1)).clamp(-reach, reach)
    return table[offsets + reach]


def rotation(kind: str, shape: Transformer, device: torch.device) -> Rotation | None:
    """Cosines and sines `[T, K/2]` for rope_2d: half the angles the row's, half the column's, 0 for the class token."""
    if kind != "rope_2d":
        return None
    angles = _axis_angles(shape.grid_side, shape.head_dim // 4, ROPE_BASE, device)
    rows = repeat(angles, "y k -> (y x) k", x=shape.grid_side)
    columns = repeat(angles, "x k -> (y x) k", y=shape.grid_side)
    both = _prefixed(torch.cat([rows, columns], dim=-1), int(shape.class_token), (0, 0))
    return both.cos(), both.sin()


def rotate(x: Tensor, turn: Rotation) -> Tensor:
    """Queries or keys `[B, H, T, K]`, each pair (k, k + K/2) turned by its token's angle."""
    cos, sin = (part.to(x.dtype) for part in turn)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def _axis_angles(side: int, num: int, base: float, device: torch.device) -> Tensor:
    """`[side, num]`: index times each of `num` frequencies from 1 down towards 1 / base."""
    frequencies = base ** -(torch.arange(num, device=device, dtype=torch.float32) / num)
    return torch.arange(side, device=device, dtype=torch.float32).unsqueeze(1) * frequencies
