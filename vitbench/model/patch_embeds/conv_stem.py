"""A convolutional stem: 3x3 convolutions of stride 2, then a 1x1.

Source: Xiao et al. 2021, section 3. Differs: GroupNorm in place of BatchNorm, so that no image depends on the others
of its batch; who uses it removes one block to pay for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from vitbench.model.mechanisms import PatchEmbed
from vitbench.model.patch_embeds.patchify import grid_problems, projection
from vitbench.model.sizes import conv_stem_widths, known, pixel_grid
from vitbench.model.tensors import SCHEMES, Tensor, affine, norm
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    from torch import nn


class ConvStem(PatchEmbed):
    """One layer per halving of the side, the width doubling to embed_dim."""

    name: ClassVar[str] = "conv"

    def problems(self, model: ModelSpec) -> list[str]:
        problems, patch = grid_problems(model), known(model.patch_size)
        if problems:
            return problems
        if patch < 2 or patch & (patch - 1):
            return [f"model.stem: conv halves the side, so patch_size must be 2, 4, 8, ...; it is {patch}"]
        if known(model.embed_dim) % patch:
            return [
                f"model.stem: conv with patch {patch} needs embed_dim divisible by {patch}; it is {model.embed_dim}"
            ]
        return []

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        cells, in_width = pixel_grid(model), known(model.in_chans)
        for index, width in enumerate(conv_stem_widths(model)):
            cells = cells.divided(2)
            name, inits = f"stem.{index}", (SCHEMES[model.weight_init].conv, "")
            yield from affine(f"{name}.conv", (width, in_width, 3, 3), inits, cells.area, bias=False)
            yield from norm(f"{name}.norm", width)
            in_width = width
        yield from projection(model, in_width, 1)

    def module(self, model: ModelSpec) -> nn.Module:
        from vitbench.model.vit import ConvStemLayers

        return ConvStemLayers(model)

    def timm(self, model: ModelSpec) -> dict[str, Any] | str:
        return "model.stem conv; its ViT cuts patches"
