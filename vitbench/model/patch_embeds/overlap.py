"""Patches that overlap their neighbours, each projected to a token.

Source: Yu et al. 2022 (PoolFormer), section 3: a 7 x 7 convolution of stride 4 and padding 2, and between stages a
3 x 3 one of stride 2 and padding 1. Both follow one rule: a patch of P pixels sees 2 P - 1 pixels per side.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from vitbench.model.mechanisms import PatchEmbed
from vitbench.model.patch_embeds.patchify import grid_problems, projection
from vitbench.model.sizes import known
from vitbench.model.tensors import Tensor
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    from torch import nn


def kernel_size(patch: int) -> int:
    """How many pixels per side a patch sees."""
    return 2 * patch - 1


class Overlap(PatchEmbed):
    """A convolution whose stride is the patch size and whose kernel is almost twice as large."""

    name: ClassVar[str] = "overlap"

    def problems(self, model: ModelSpec) -> list[str]:
        problems = grid_problems(model)
        if model.patch_size == 1:
            problems.append("model.stem: overlap with patch_size 1 sees one pixel, so this is patchify; use at least 2")
        return problems

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        return projection(model, known(model.in_chans), kernel_size(known(model.patch_size)))

    def module(self, model: ModelSpec) -> nn.Module:
        from vitbench.model.layers import OverlappingProjection

        return OverlappingProjection(known(model.in_chans), known(model.embed_dim), known(model.patch_size))

    def timm(self, model: ModelSpec) -> dict[str, Any] | str:
        return "model.stem overlap; its ViT cuts patches that do not overlap"
