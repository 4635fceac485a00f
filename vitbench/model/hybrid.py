"""The hybrid's way from images to tokens: a ResNet's feature map in 1x1 patches.

Source: Dosovitskiy et al. 2021, section 4.1: (i) the output of stage 4, or (ii) stage 4 left out, its blocks in
stage 3, for a sequence four times as long. Which of the two is a matter of the spec's `layers`.

Shapes: B batch, C channels, F width of the feature map, N tokens, D embed_dim.
"""

from __future__ import annotations

from torch import Tensor

from vitbench.model.layers import PatchProjection
from vitbench.model.resnet import ResNetFeatures
from vitbench.model.sizes import known
from vitbench.spec.trial import ModelSpec


class HybridEmbed(PatchProjection):
    """Images `[B, C, H, W]` -> tokens `[B, N, D]`."""

    def __init__(self, model: ModelSpec) -> None:
        backbone = ResNetFeatures(model)
        super().__init__(backbone.num_features, known(model.embed_dim), known(model.patch_size))
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(self.backbone(images))
