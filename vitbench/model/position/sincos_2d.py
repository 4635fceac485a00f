"""Fixed sines and cosines of row and column.

Source: Vaswani et al. 2017, section 3.5; in two dimensions as in Beyer et al. 2022.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from vitbench.model.mechanisms import Position
from vitbench.model.sizes import transformer
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    import torch

BASE = 10_000.0


class Sincos2d(Position):
    """Sines and cosines of the column, then of the row, D/4 frequencies each; the class token has no place."""

    name: ClassVar[str] = "sincos_2d"
    gives: ClassVar[frozenset[str]] = frozenset({"positions", "subset"})
    absolute: ClassVar[bool] = True
    fixed: ClassVar[bool] = True

    def reads(self, model: ModelSpec) -> frozenset[str]:
        return frozenset({"pos_placement"})

    def problems(self, model: ModelSpec) -> list[str]:
        width, problems = transformer(model).embed_dim, []
        if model.pos_placement == "every_layer":
            problems.append("model.pos_placement: sincos_2d is fixed, so every_layer is every_layer_shared")
        if width % 4:
            problems.append(f"model.pos_embed: sincos_2d needs embed_dim divisible by 4; it is {width}")
        return problems

    def added(self, owner: Any, model: ModelSpec, device: torch.device) -> torch.Tensor:
        import torch

        from vitbench.model.placing import along_grid, axis_angles

        shape = transformer(model)
        angles = axis_angles(max(shape.grid), shape.embed_dim // 4, BASE, device)
        rows, columns = along_grid(torch.cat([angles.sin(), angles.cos()], dim=-1), shape)
        return torch.cat([columns, rows], dim=-1).unsqueeze(0)
