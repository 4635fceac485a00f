"""Attention inside windows of the grid, fixed or shifted in every second block, with a learned bias per offset.

Source: Liu et al. 2021 (Swin), sections 3.1 and 3.2, and the authors' code for the mask and the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from vitbench.model import token_places
from vitbench.model.mechanisms import position_of
from vitbench.model.sizes import divisors, transformer
from vitbench.model.tensors import Tensor
from vitbench.model.token_mixers.self_attention import PartialAttention
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    from torch import nn


class Window(PartialAttention):
    """Windows of `window_size` x `window_size` patches; `offset_bias` adds a learned bias per offset and head.

    In the later stages of a pyramid a window is no larger than the grid.
    """

    name: ClassVar[str] = "window"
    window_size: Annotated[int, Field(ge=1)] = 2
    offset_bias: bool = True

    def side(self, model: ModelSpec) -> int:
        """Patches along one side of a window."""
        return min(self.window_size, *transformer(model).grid)

    def shift(self, model: ModelSpec, layer: int) -> int:
        """By how many cells the windows of a block are shifted."""
        return 0

    def problems_of_stages(self, stages: Sequence[ModelSpec]) -> list[str]:
        grid, problems = transformer(stages[0]).grid, super().problems_of_stages(stages)
        if self.window_size > min(grid):
            cells = f"{grid.rows} x {grid.columns}"
            problems.append(f"model.token_mixer: windows of {self.window_size} are larger than {cells} patches")
        return problems

    def problems(self, model: ModelSpec) -> list[str]:
        grid, side, problems = transformer(model).grid, self.side(model), super().problems(model)
        if grid.rows % side or grid.columns % side:
            both = divisors(grid.rows) if grid.rows == grid.columns else f"divisors of {grid.rows} and {grid.columns}"
            problems.append(
                f"model.token_mixer: windows of {side} do not divide {grid.rows} x {grid.columns} patches; {both} do"
            )
        if self.offset_bias and position_of(model).attention_tables(model):
            problems.append(
                f"model.pos_embed: {model.pos_embed} and the windows' offset_bias are both relative encodings; "
                "set offset_bias: false, or another pos_embed"
            )
        return problems

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        yield from super().tensors(model)
        if self.offset_bias:
            rows = (2 * self.side(model) - 1) ** 2
            shape = (rows, transformer(model).num_heads)
            yield Tensor("relative_position_bias_table", shape, "trunc_normal:0.02", decay=False)

    def macs(self, model: ModelSpec, layer: int) -> dict[str, int]:
        shape = transformer(model)
        return self.pair_macs(model, shape.num_patches * self.side(model) ** 2)

    def module(self, model: ModelSpec, layer: int) -> nn.Module:
        from vitbench.model.sparse_attention import GroupedAttention

        grid, side, shift = transformer(model).grid, self.side(model), self.shift(model, layer)
        return GroupedAttention(
            model,
            token_places.windows(grid, side, shift),
            regions=token_places.window_regions(grid, side, shift) if shift else None,
            offsets=token_places.offset_rows(side) if self.offset_bias else None,
        )
