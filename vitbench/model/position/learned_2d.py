"""A learned half of a vector per column and one per row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from vitbench.model.position.learned_1d import LearnedPosition
from vitbench.model.sizes import transformer
from vitbench.model.tensors import SCHEMES, Tensor
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    import torch


class Learned2d(LearnedPosition):
    """A table of columns and a table of rows, concatenated."""

    name: ClassVar[str] = "learned_2d"

    def problems(self, model: ModelSpec) -> list[str]:
        width = transformer(model).embed_dim
        return [f"model.pos_embed: learned_2d needs embed_dim divisible by 2; it is {width}"] if width % 2 else []

    def tables(self, model: ModelSpec) -> tuple[Tensor, ...]:
        shape, init = transformer(model), SCHEMES[model.weight_init].position
        half = shape.embed_dim // 2
        row = (Tensor("pos_embed_cls", (1, 1, shape.embed_dim), init, decay=False),) if shape.class_position else ()
        return (
            Tensor("pos_embed_x", (1, shape.grid.columns, half), init, decay=False, resample="axis"),
            Tensor("pos_embed_y", (1, shape.grid.rows, half), init, decay=False, resample="axis"),
            *row,
        )

    def added(self, owner: Any, model: ModelSpec, device: torch.device) -> torch.Tensor:
        import torch
        from einops import repeat

        grid = transformer(model).grid
        columns = repeat(owner.pos_embed_x, "one x d -> one (y x) d", y=grid.rows)
        rows = repeat(owner.pos_embed_y, "one y d -> one (y x) d", x=grid.columns)
        patches = torch.cat([columns, rows], dim=-1)
        class_row = getattr(owner, "pos_embed_cls", None)
        return patches if class_row is None else torch.cat([class_row, patches], dim=1)
