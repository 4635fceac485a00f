"""Attention to the patches around each patch; and the base of mixers that attend by a fixed pattern.

Source: Ramachandran et al. 2019 (stand-alone self-attention). Differs: the neighbourhood is clipped at the border (the
source fills it with zeros, NATTEN moves it inward), queries are scaled, and relative terms are those of `pos_embed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from vitbench.model import token_places
from vitbench.model.sizes import transformer
from vitbench.model.token_mixers.self_attention import PartialAttention
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    from torch import nn


class Pattern(PartialAttention):
    """Each patch attends to its own list of patches; the pairs of these lists are counted as FLOPs."""

    def patterns(self, model: ModelSpec) -> token_places.Groups:
        """The patches that each patch attends to, itself included."""
        raise NotImplementedError

    def macs(self, model: ModelSpec, layer: int) -> dict[str, int]:
        return self.pair_macs(model, sum(map(len, self.patterns(model))))

    def hidden_macs(self, model: ModelSpec, layer: int) -> int:
        shape, pairs = transformer(model), sum(map(len, self.patterns(model)))
        return 2 * (shape.num_patches**2 - pairs) * shape.embed_dim

    def notes(self, stages: Sequence[ModelSpec]) -> list[str]:
        counts = [(sum(map(len, self.patterns(stage))), transformer(stage).num_patches ** 2) for stage in stages]
        return [
            f"model.token_mixer: FLOPs count the {needed:,} pairs that {self.text()} needs; all {every:,} are computed,"
            " and a mask hides the others"
            for needed, every in counts
        ]

    def module(self, model: ModelSpec, layer: int) -> nn.Module:
        from vitbench.model.sparse_attention import PatternAttention

        return PatternAttention(model, self.patterns(model))


class Local(Pattern):
    """The `kernel_size` x `kernel_size` patches around each patch, clipped at the border of the grid."""

    name: ClassVar[str] = "local"
    kernel_size: Annotated[int, Field(ge=3)] = 3

    def patterns(self, model: ModelSpec) -> token_places.Groups:
        return token_places.neighbourhoods(transformer(model).grid, self.kernel_size)

    def problems(self, model: ModelSpec) -> list[str]:
        grid, problems = transformer(model).grid, super().problems(model)
        if self.kernel_size % 2 == 0:
            problems.append(f"model.token_mixer: local needs an odd kernel_size; it is {self.kernel_size}")
        if self.kernel_size // 2 >= max(grid) - 1:
            problems.append(
                f"model.token_mixer: a neighbourhood of {self.kernel_size} holds all {grid.rows} x {grid.columns} "
                "patches, so this is `attention`; use a smaller kernel_size"
            )
        return problems
