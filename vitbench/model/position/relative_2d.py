"""Logits of the query with a learned vector per row offset and one per column offset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from vitbench.model.mechanisms import Position
from vitbench.model.position.relative_1d import clip_problems, table_rows
from vitbench.model.sizes import transformer
from vitbench.model.tensors import SCHEMES, Tensor
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    import torch


class Relative2d(Position):
    """Two tables per layer, shared by its heads; the class token stands at row 0, column 0."""

    name: ClassVar[str] = "relative_2d"
    needs: ClassVar[frozenset[str]] = frozenset({"attention_maps"})
    gives: ClassVar[frozenset[str]] = frozenset({"positions"})
    offsets: ClassVar[Mapping[str, str]] = {"rel_pos_h": "row", "rel_pos_w": "column"}

    def reads(self, model: ModelSpec) -> frozenset[str]:
        return frozenset({"relative_clip", *(["no_embed_class"] if model.class_token else [])})

    def problems(self, model: ModelSpec) -> list[str]:
        return clip_problems(model, max(transformer(model).grid) - 1)

    def attention_tables(self, model: ModelSpec) -> tuple[Tensor, ...]:
        shape, init = transformer(model), SCHEMES[model.weight_init].position
        return tuple(
            Tensor(name, (table_rows(model, length), shape.head_dim), init, decay=False, resample="axis")
            for name, length in zip(self.offsets, shape.grid, strict=True)
        )

    def macs(self, model: ModelSpec) -> int:
        shape = transformer(model)
        return sum(shape.grid) * shape.num_places * shape.embed_dim

    def bias(self, attention: Any, model: ModelSpec, q: torch.Tensor) -> torch.Tensor:
        import torch

        from vitbench.model.placing import offset_logits, placed, spread

        shape = transformer(model)
        q = placed(q, shape)
        row_at, column_at = (torch.arange(length, device=q.device) for length in shape.grid)
        first = row_at[:1].expand(q.shape[-2] - shape.num_patches)
        y = torch.cat([first, row_at.repeat_interleave(shape.grid.columns)])
        x = torch.cat([first, column_at.repeat(shape.grid.rows)])
        rows = offset_logits(q, attention.rel_pos_h, y, row_at)
        columns = offset_logits(q, attention.rel_pos_w, x, column_at)
        logits = (rows.unsqueeze(-1) + columns.unsqueeze(-2)).flatten(-2)
        logits = torch.cat([logits[..., : len(first)], logits], dim=-1)
        return spread(spread(logits, shape), shape, -1)
