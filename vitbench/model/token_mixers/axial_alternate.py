"""Attention inside rows in even blocks and inside columns in odd ones, counted from 0.

Source: the alternation of Ho et al. 2019 and Wang et al. 2020. The axial block of Dosovitskiy et al. 2021, App. D.6
(row attention, MLP, column attention, MLP) is two of these blocks: `Axial-ViT-B/32` has twice the depth of ViT-B/32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from vitbench.model import token_places
from vitbench.model.sizes import transformer
from vitbench.model.token_mixers.self_attention import PartialAttention
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    from torch import nn


class AxialAlternate(PartialAttention):
    """Two blocks see the whole grid."""

    name: ClassVar[str] = "axial_alternate"

    def problems(self, model: ModelSpec) -> list[str]:
        problems = super().problems(model)
        if transformer(model).depth < 2:
            problems.append("model.depth: axial_alternate needs two blocks, one for rows and one for columns; it is 1")
        return problems

    def macs(self, model: ModelSpec, layer: int) -> dict[str, int]:
        grid = transformer(model).grid
        return self.pair_macs(model, grid.area * (grid.rows if layer % 2 else grid.columns))

    def module(self, model: ModelSpec, layer: int) -> nn.Module:
        from vitbench.model.sparse_attention import GroupedAttention

        lines = token_places.columns_of if layer % 2 else token_places.rows_of
        return GroupedAttention(model, lines(transformer(model).grid))
