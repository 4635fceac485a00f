"""A pyramid whose stages begin by merging 2 x 2 patches: concatenation, LayerNorm, one linear layer without bias.

Source: Liu et al. 2021 (Swin), section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from vitbench.model.pyramid import Pyramid
from vitbench.model.sizes import transformer
from vitbench.model.tensors import SCHEMES, Tensor, affine, norm
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    from torch import nn


class PatchMerging(Pyramid):
    """Four neighbours of width D become one patch of the next stage's width."""

    name: ClassVar[str] = "patch_merging"

    def merge_tensors(self, before: ModelSpec, after: ModelSpec) -> Iterator[Tensor]:
        wide, shape, scheme = 4 * transformer(before).embed_dim, transformer(after), SCHEMES[after.weight_init]
        yield from norm("norm", wide)
        yield from affine("reduction", (shape.embed_dim, wide), (scheme.linear, ""), shape.num_patches, bias=False)

    def merge(self, before: ModelSpec, after: ModelSpec) -> nn.Module:
        from vitbench.model.layers import MergePatches

        shape = transformer(before)
        return MergePatches(shape.grid.rows, shape.embed_dim, transformer(after).embed_dim, after.norm_eps)
