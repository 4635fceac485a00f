"""Sparse attention, fixed: each patch sees its block of the sequence, and the last patches of every block.

Source: Child et al. 2019, section 4.2, both patterns in one head. Differs: not causal, as an image's encoder sees all.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from vitbench.model import token_places
from vitbench.model.sizes import transformer
from vitbench.model.token_mixers.neighbourhood import Pattern
from vitbench.spec.trial import ModelSpec


class SparseFixed(Pattern):
    """Blocks are rows of the grid; the last `summary` patches of each row are seen by all."""

    name: ClassVar[str] = "sparse_fixed"
    summary: Annotated[int, Field(ge=1)] = 1

    def patterns(self, model: ModelSpec) -> token_places.Groups:
        grid = transformer(model).grid
        return token_places.fixed(grid.area, grid.columns, self.summary)

    def problems(self, model: ModelSpec) -> list[str]:
        columns, problems = transformer(model).grid.columns, super().problems(model)
        if self.summary >= columns:
            problems.append(f"model.token_mixer: summary {self.summary} is a whole row of {columns} patches; use less")
        return problems
