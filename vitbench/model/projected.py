"""Encoders with projection heads, for objectives that compare views of an image.

Shapes: B batch, N patches, T tokens, D embed_dim, K outputs of a head.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitbench.model.sizes import Grid, known
from vitbench.model.vit import PooledEncoder
from vitbench.spec.trial import ModelSpec


class DinoHead(nn.Module):
    """Three layers, then the cosine with each prototype: `[B, D]` -> `[B, K]`."""

    def __init__(self, width: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        hidden, bottleneck, outputs = widths
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, bottleneck)
        self.last = nn.Linear(bottleneck, outputs, bias=False)

    def forward(self, features: Tensor, moving: Tensor | None) -> Tensor:
        x = self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(features)))))
        prototypes: Tensor = self.last.weight
        if moving is not None:
            prototypes = moving * prototypes + (1 - moving) * prototypes.detach()
        return F.linear(F.normalize(x, dim=-1), F.normalize(prototypes, dim=-1))


class DinoViT(PooledEncoder):
    """Images, whole or `small`, -> logits `[B, K]` of prototypes.

    Source: Caron et al. 2021 (DINO), section 3 and the published code. The small images' positions are those of the
    whole grid, interpolated.
    """

    def __init__(self, model: ModelSpec, patch_embed: nn.Module, widths: tuple[int, int, int], small: Grid) -> None:
        """`widths` are those of the head's hidden layers, of its bottleneck and of its outputs."""
        super().__init__(model, patch_embed)
        self.small, self.dino_head = small, DinoHead(known(model.embed_dim), widths)

    def forward(self, images: Tensor, moving: Tensor | None = None) -> Tensor:
        """`moving`: the share of the last layer's gradient that is kept, a number; None: all of it."""
        out: Tensor = self.dino_head(self.pooled(self.forward_features(images)), moving)
        return out

    def placed_tokens(self, patches: Tensor) -> Tensor:
        """As for whole images; small ones have the positions of the whole grid, interpolated."""
        if patches.shape[1] == self.shape.num_patches:
            return super().placed_tokens(patches)
        tokens, positions = self._with_prefix(patches), self.positions(0, patches.device)
        if positions is not None:
            tokens = tokens + self._interpolated(positions)
        out: Tensor = self.pos_drop(tokens)
        return out

    def _interpolated(self, positions: Tensor) -> Tensor:
        """Positions `[1, T, D]` of the whole grid -> those of the small grid, bicubic.

        It is a weighted sum, since the gradient of torch's interpolation differs from run to run on a GPU.
        """
        prefix, places = positions[:, : self.num_prefix_tokens], positions[:, self.num_prefix_tokens :]
        one_hot = torch.eye(places.shape[1], device=places.device).view(-1, 1, *self.shape.grid)
        weights = F.interpolate(one_hot, size=tuple(self.small), mode="bicubic", align_corners=False).flatten(1)
        return torch.cat([prefix, (weights.T.unsqueeze(-1) * places).sum(1).unsqueeze(0)], dim=1)


class ProjectedViT(PooledEncoder):
    """Images -> a projection, and what a predictor makes of it: `[B, 2, K]`.

    Source: Chen et al. 2021 (MoCo v3), section 3 and the published code.
    """

    def __init__(self, model: ModelSpec, patch_embed: nn.Module, hidden: int, outputs: int, norms: bool) -> None:
        super().__init__(model, patch_embed)
        self.projector = projection((known(model.embed_dim), hidden, hidden, outputs), norms)
        self.predictor = projection((outputs, hidden, outputs), norms)

    def forward(self, images: Tensor) -> Tensor:
        projected = self.projector(self.pooled(self.forward_features(images)))
        return torch.stack([projected, self.predictor(projected)], dim=1)


def projection(widths: tuple[int, ...], norms: bool) -> nn.Sequential:
    """Linear layers without bias, each followed by BatchNorm if `norms`, and all but the last by ReLU."""
    layers: dict[str, nn.Module] = {}
    for number, (width, out) in enumerate(pairwise(widths), 1):
        last = number == len(widths) - 1
        layers[f"fc{number}"] = nn.Linear(width, out, bias=False)
        layers |= {f"norm{number}": BatchStandardised(out, affine=not last)} if norms else {}
        layers |= {} if last else {f"act{number}": nn.ReLU()}
    return nn.Sequential(OrderedDict(layers))


class BatchStandardised(nn.Module):
    """BatchNorm with the statistics of its batch, in evaluation too: there are no running ones.

    So a moving average of the weights needs no statistics of its own, and a stack's members never mix. Without
    `affine` there is no scale and shift.
    """

    def __init__(self, width: int, affine: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width)) if affine else None
        self.bias = nn.Parameter(torch.empty(width)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x.float(), dim=0, correction=0, keepdim=True)
        x = (x - mean) * torch.rsqrt(variance + 1e-5)
        return x if self.weight is None or self.bias is None else x * self.weight + self.bias
