"""A hybrid's way from images to tokens: a ResNet's feature map, cut into patches of cells.

Source: Dosovitskiy et al. 2021, section 4.1: (i) the output of stage 4, or (ii) stage 4 left out, its blocks in
stage 3, for a sequence four times as long. The spec's `layers` say which of the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from vitbench.model.mechanisms import PatchEmbed
from vitbench.model.patch_embeds.patchify import projection
from vitbench.model.resnet_tensors import backbone_tensors
from vitbench.model.sizes import backbone, divisors, grid, known
from vitbench.model.tensors import Tensor
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    from torch import nn


class BackboneEmbed(PatchEmbed):
    """The feature map of the spec's ResNet in patches of `patch_size` cells."""

    name: ClassVar[str] = "backbone"

    def problems(self, model: ModelSpec) -> list[str]:
        if model.family != "hybrid":
            return ["model.stem: backbone is a hybrid's; set model.family: hybrid, or patchify or conv"]
        if model.stem != "patchify":
            return ["model.stem: a hybrid's stem is its backbone; patchify"]
        patch, cells = known(model.patch_size), grid(model.model_copy(update={"patch_size": 1}))
        common = math.gcd(*cells)
        if common % patch == 0:
            return []
        shown = cells.rows if cells.rows == cells.columns else f"{cells.rows} x {cells.columns}"
        return [f"model.patch_size: {patch} does not divide the feature map of {shown} cells; {divisors(common)} do"]

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        features = backbone(model)
        yield from backbone_tensors(model, features, "backbone.")
        yield from projection(model, features.width, known(model.patch_size))

    def module(self, model: ModelSpec) -> nn.Module:
        from vitbench.model.resnet import HybridEmbed

        return HybridEmbed(model)

    def timm(self, model: ModelSpec) -> dict[str, Any] | str:
        return {}
