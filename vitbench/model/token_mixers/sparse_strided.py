"""Sparse attention, strided: each patch sees those nearby in the sequence, and those whole strides away.

Source: Child et al. 2019, section 4.2, both patterns in one head. Differs: not causal, as an image's encoder sees all.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from vitbench.model import token_places
from vitbench.model.sizes import transformer
from vitbench.model.token_mixers.neighbourhood import Pattern
from vitbench.spec.trial import ModelSpec


class SparseStrided(Pattern):
    """Keys less than `stride` away, and a multiple of `stride` away; with the grid's width these are the columns."""

    name: ClassVar[str] = "sparse_strided"
    stride: Annotated[int, Field(ge=2)] | None = Field(None, description="Default: the columns of the grid")

    def patterns(self, model: ModelSpec) -> token_places.Groups:
        grid = transformer(model).grid
        return token_places.strided(grid.area, self.stride or grid.columns)
