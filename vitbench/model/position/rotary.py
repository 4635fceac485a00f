"""Rotary positions: queries and keys turned by angles of row and column.

Source: Heo et al. 2024 (axial rotary positions for images, whose grids are short).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from vitbench.model.mechanisms import Position
from vitbench.model.sizes import transformer
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    import torch

    from vitbench.model.placing import Rotation

BASE = 100.0


class Rotary2d(Position):
    """Half of the angles are the row's, half the column's; prefix tokens are not turned."""

    name: ClassVar[str] = "rope_2d"
    needs: ClassVar[frozenset[str]] = frozenset({"attention_maps"})
    gives: ClassVar[frozenset[str]] = frozenset({"positions"})
    fixed: ClassVar[bool] = True

    def problems(self, model: ModelSpec) -> list[str]:
        width = transformer(model).head_dim
        if width % 4 == 0:
            return []
        return [f"model.pos_embed: rope_2d needs embed_dim / num_heads divisible by 4; it is {width}"]

    def rotation(self, model: ModelSpec, device: torch.device) -> Rotation:
        import torch

        from vitbench.model.placing import along_grid, axis_angles, spread

        shape = transformer(model)
        angles = axis_angles(max(shape.grid), shape.head_dim // 4, BASE, device)
        rows, columns = along_grid(angles, shape)
        both = spread(torch.cat([rows, columns], dim=-1), shape)
        return both.cos(), both.sin()
