"""Position encodings: what each adds, and where the class token stands in it.

| encoding | adds | class token |
|---|---|---|
| none | nothing | as any token: its own learned vector |
| learned_1d | one learned vector per raster index | a vector of its own (row 0), unless `no_embed_class` |
| learned_2d | learned column (X) and row (Y) halves, concatenated | a vector of its own, unless `no_embed_class` |
| sincos_2d | fixed sines and cosines of row and column | nothing: it has no place on the grid |
| relative_1d | logits of the query with a learned vector per raster offset | one step before the first patch |
| relative_2d | the same, per row offset and per column offset | at row 0, column 0 |
| rope_2d | queries and keys turned by angles of row and column | not turned: at row 0, column 0 |

With `no_embed_class` the class token has no offset to any patch in relative_1d and relative_2d, and no extra logit.

Absolute encodings are added to the tokens at the stem, or before every block (own tables, or one shared); the others
act inside every attention layer.

Source: Dosovitskiy et al. 2021, App. D.4, Table 8 (none, learned_1d, learned_2d, relative_1d).
Differs: of relative_1d the paper says neither what the class token does nor whether the tables are shared: here each
layer has its own, shared by its heads. The class token's place matters in a shallow model that reads it: without one
the last layer's table has no effect, and on digits at depth 2 relative_1d fell from 91% to 80% (3 seeds, lr 4e-3).
relative_2d, sincos_2d and rope_2d are not in the paper.

Shapes: B batch, H heads, T tokens, N patches, S keys, D embed_dim, K head_dim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor, nn

from vitbench.model.sizes import Transformer
from vitbench.model.tensors import Parameter

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
    columns = repeat(owner.pos_embed_x, "one x d -> one (y x) d", y=shape.grid.rows)
    rows = repeat(owner.pos_embed_y, "one y d -> one (y x) d", x=shape.grid.columns)
    patches = torch.cat([columns, rows], dim=-1)
    own = getattr(owner, "pos_embed_cls", None)
    return patches if own is None else torch.cat([own, patches], dim=1)


def sincos_2d(owner: Any, shape: Transformer, device: torch.device) -> Tensor:
    """Fixed positions `[1, N, D]`: sines and cosines of the column, then of the row, D/4 frequencies each."""
    angles = _axis_angles(max(shape.grid), shape.embed_dim // 4, SINCOS_BASE, device)
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
    rows, columns = _along_grid(waves, shape)
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
    """Extra logits `[B, H, T, T]` of queries `[B, H, T, K]`: each with the vector of its raster offset."""
    places = torch.arange(q.shape[-2], device=q.device)
    return _offset_logits(q, attention.rel_pos, places, places)


def relative_2d(attention: Any, shape: Transformer, q: Tensor) -> Tensor:
    """Extra logits `[B, H, T, T]`: the row offset's plus the column offset's; a class token has the first patch's."""
    row_at, column_at = (torch.arange(length, device=q.device) for length in shape.grid)
    first = row_at[:1].expand(q.shape[-2] - shape.num_patches)
    y = torch.cat([first, row_at.repeat_interleave(shape.grid.columns)])
    x = torch.cat([first, column_at.repeat(shape.grid.rows)])
    rows = _offset_logits(q, attention.rel_pos_h, y, row_at)
    columns = _offset_logits(q, attention.rel_pos_w, x, column_at)
    logits = (rows.unsqueeze(-1) + columns.unsqueeze(-2)).flatten(-2)
    return torch.cat([logits[..., : len(first)], logits], dim=-1)


RELATIVE: dict[str, Callable[[nn.Module, Transformer, Tensor], Tensor]] = {
    "relative_1d": relative_1d,
    "relative_2d": relative_2d,
}


def relative(kind: str, attention: nn.Module, shape: Transformer, q: Tensor) -> Tensor | None:
    """Extra logits `[B, H, T, T]` of scaled queries `[B, H, T, K]`, 0 with a token that has no place; or None."""
    if kind not in RELATIVE:
        return None
    placeless = shape.num_tokens - shape.num_places
    return _prefixed(RELATIVE[kind](attention, shape, q[:, :, placeless:]), placeless, (placeless, 0))


def _offset_logits(q: Tensor, table: Tensor, query_at: Tensor, key_at: Tensor) -> Tensor:
    """`[B, H, T, S]`: queries `[B, H, T, K]` with the table's vectors of the offsets `key_at [S] - query_at [T]`."""
    reach = table.shape[0] // 2
    offsets = (key_at.unsqueeze(0) - query_at.unsqueeze(1)).clamp(-reach, reach)
    return torch.einsum("bhqk,qtk->bhqt", q, table[offsets + reach])


def rotation(kind: str, shape: Transformer, device: torch.device) -> Rotation | None:
    """Cosines and sines `[T, K/2]` for rope_2d: half the angles the row's, half the column's, 0 for the class token."""
    if kind != "rope_2d":
        return None
    angles = _axis_angles(max(shape.grid), shape.head_dim // 4, ROPE_BASE, device)
    rows, columns = _along_grid(angles, shape)
    both = _prefixed(torch.cat([rows, columns], dim=-1), int(shape.class_token), (0, 0))
    return both.cos(), both.sin()


def rotate(x: Tensor, turn: Rotation) -> Tensor:
    """Queries or keys `[B, H, T, K]`, each pair (k, k + K/2) turned by its token's angle."""
    cos, sin = (part.to(x.dtype) for part in turn)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def _along_grid(table: Tensor, shape: Transformer) -> tuple[Tensor, Tensor]:
    """Each patch's row of `table` by its grid row, and by its grid column: `[N, ...]` each."""
    rows = repeat(table[: shape.grid.rows], "y d -> (y x) d", x=shape.grid.columns)
    columns = repeat(table[: shape.grid.columns], "x d -> (y x) d", y=shape.grid.rows)
    return rows, columns


def _axis_angles(side: int, num: int, base: float, device: torch.device) -> Tensor:
    """`[side, num]`: index times each of `num` frequencies from 1 down towards 1 / base."""
    frequencies = base ** -(torch.arange(num, device=device, dtype=torch.float32) / num)
    return torch.arange(side, device=device, dtype=torch.float32).unsqueeze(1) * frequencies
