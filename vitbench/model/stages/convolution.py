"""A pyramid whose stages begin with a 3 x 3 convolution of stride 2, so that neighbouring patches overlap.

Source: Yu et al. 2022 (PoolFormer), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from vitbench.model.patch_embeds.overlap import kernel_size
from vitbench.model.patch_embeds.patchify import projection
from vitbench.model.pyramid import Pyramid
from vitbench.model.sizes import transformer
from vitbench.model.tensors import Tensor
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    from torch import nn


class Convolution(Pyramid):
    """A new patch sees 3 x 3 patches of the stage before."""

    name: ClassVar[str] = "convolution"

    def merge_tensors(self, before: ModelSpec, after: ModelSpec) -> Iterator[Tensor]:
        return projection(after, transformer(before).embed_dim, kernel_size(2))

    def merge(self, before: ModelSpec, after: ModelSpec) -> nn.Module:
        from vitbench.model.layers import MergeOverlapping

        shape = transformer(before)
        return MergeOverlapping(shape.grid.rows, shape.embed_dim, transformer(after).embed_dim)
