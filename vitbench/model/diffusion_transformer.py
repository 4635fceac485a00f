"""The diffusion transformer: noisy images, time steps and classes -> the noise in the images.

Source: Peebles and Xie 2023 (DiT), section 3.2 and the published code. Differs: the variance is not predicted, so the
final layer has one output per pixel and channel.

Shapes: B batch, N patches, T tokens, D embed_dim, H heads, K head_dim, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vitbench.model.conditioning import Conditioning
from vitbench.model.encoder_blocks import EncoderBlock
from vitbench.model.layers import LayerNorm, attend
from vitbench.model.placing import Rotation
from vitbench.model.sizes import known
from vitbench.model.vit import Encoder
from vitbench.spec.trial import ModelSpec

FREQUENCIES, MAX_PERIOD = 128, 10_000.0
"""Cosines and sines of a time step, and the longest of their periods divided by 2 pi."""


class TimestepEmbedder(nn.Module):
    """Time steps `[B]` -> `[B, D]`: cosines, then sines, through two layers with SiLU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(2 * FREQUENCIES, width), nn.Linear(width, width)

    def forward(self, timestep: Tensor) -> Tensor:
        places = torch.arange(FREQUENCIES, device=timestep.device, dtype=torch.float32)
        angles = timestep.float().unsqueeze(-1) * torch.exp(-math.log(MAX_PERIOD) * places / FREQUENCIES)
        out: Tensor = self.fc2(F.silu(self.fc1(torch.cat([angles.cos(), angles.sin()], dim=-1))))
        return out


class LabelEmbedder(nn.Module):
    """Classes `[B]` -> `[B, D]`; the last row of the table stands for no class.

    It is a product with one-hot rows, since a gather's gradient differs from run to run on a GPU.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes + 1, width))

    def forward(self, label: Tensor) -> Tensor:
        rows = torch.arange(len(self.weight), device=label.device)
        return (label.unsqueeze(-1) == rows).to(self.weight.dtype) @ self.weight


def modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Tokens `[B, T, D]`, normalised without weights, then scaled by 1 + scale and shifted, `[B, 1, D]` each."""
    return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift


class PlainCondition(nn.Module):
    """The block as it is: what it is told stands among its tokens."""

    def forward(self, block: EncoderBlock, x: Tensor, turn: Rotation | None, conditions: Tensor) -> Tensor:
        out: Tensor = block(x, turn)
        return out

    def mixed(self, block: EncoderBlock, x: Tensor, conditions: Tensor) -> Tensor:
        """What the block's attention gets."""
        out: Tensor = block.norm1(x)
        return out


class CrossCondition(PlainCondition):
    """Attention of the tokens to the conditions, between the block's attention and its MLP."""

    def __init__(self, width: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = LayerNorm(width, eps)
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, block: EncoderBlock, x: Tensor, turn: Rotation | None, conditions: Tensor) -> Tensor:
        assert block.mlp is not None, "a block without a channel mixer is refused"
        assert block.norm2 is not None, "a block without norms is refused"
        x = x + block.drop_path(block.token_mixer(block.norm1(x), turn))
        x = x + block.drop_path(self.attended(self.norm(x), conditions))
        out: Tensor = x + block.drop_path(block.mlp(block.norm2(x)))
        return out

    def attended(self, x: Tensor, conditions: Tensor) -> Tensor:
        """What tokens `[B, T, D]` read from the conditions `[B, 2, D]`."""
        q = rearrange(self.q(x), "b t (h k) -> b h t k", h=self.num_heads)
        k, v = rearrange(self.kv(conditions), "b c (two h k) -> two b h c k", two=2, h=self.num_heads)
        out: Tensor = self.proj(rearrange(attend(q * q.shape[-1] ** -0.5, k, v, None), "b h t k -> b t (h k)"))
        return out


class Modulation(PlainCondition):
    """The block's norms scaled and shifted, and with 6 vectors its branches gated, as the conditions' sum says."""

    def __init__(self, width: int, num_vectors: int, eps: float) -> None:
        super().__init__()
        self.num_vectors, self.eps = num_vectors, eps
        self.modulation = nn.Linear(width, num_vectors * width)

    def forward(self, block: EncoderBlock, x: Tensor, turn: Rotation | None, conditions: Tensor) -> Tensor:
        assert block.mlp is not None, "a block without a channel mixer is refused"
        first, second = self.vectors(conditions)
        branch = block.token_mixer(modulated(x, first[0], first[1], self.eps), turn)
        x = x + block.drop_path(_gated(branch, first))
        branch = block.mlp(modulated(x, second[0], second[1], self.eps))
        out: Tensor = x + block.drop_path(_gated(branch, second))
        return out

    def vectors(self, conditions: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Shift, scale and any gate of the block's attention, then those of its MLP, `[B, 1, D]` each."""
        vectors = self.modulation(F.silu(conditions.sum(1))).unsqueeze(1).chunk(self.num_vectors, dim=-1)
        half = self.num_vectors // 2
        return vectors[:half], vectors[half:]

    def mixed(self, block: EncoderBlock, x: Tensor, conditions: Tensor) -> Tensor:
        (shift, scale, *_), _ = self.vectors(conditions)
        return modulated(x, shift, scale, self.eps)


def _gated(branch: Tensor, vectors: tuple[Tensor, ...]) -> Tensor:
    """The branch times its gate, the third vector, if there is one."""
    return branch * vectors[2] if len(vectors) > 2 else branch


class FinalLayer(nn.Module):
    """Tokens `[B, N, D]` -> outputs `[B, N, out]`; with `modulates` the norm is here, else it was the encoder's."""

    def __init__(self, width: int, outputs: int, eps: float, modulates: bool) -> None:
        super().__init__()
        self.eps = eps
        self.modulation = nn.Linear(width, 2 * width) if modulates else None
        self.linear = nn.Linear(width, outputs)

    def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
        if self.modulation is not None:
            shift, scale = self.modulation(F.silu(conditions.sum(1))).unsqueeze(1).chunk(2, dim=-1)
            x = modulated(x, shift, scale, self.eps)
        out: Tensor = self.linear(x)
        return out


class DiffusionTransformer(Encoder):
    """Noisy images `[B, C, H, W]`, time steps `[B]`, classes `[B]` (their number: none) -> the noise, `[B, C, H, W]`.

    Without time steps and classes, images count as free of noise, and of no class.
    """

    def __init__(self, model: ModelSpec, patch_embed: nn.Module, way: Conditioning) -> None:
        super().__init__(way.network(model), patch_embed)
        width, self.num_classes = known(model.embed_dim), known(model.num_classes)
        self.prepended = way.prepended
        self.num_prefix_tokens = 2 if way.prepended else 0
        self.t_embedder, self.y_embedder = TimestepEmbedder(width), LabelEmbedder(self.num_classes, width)
        self.conditioning = nn.ModuleList(way.module(model) for _ in self.blocks)
        outputs = known(model.patch_size) ** 2 * known(model.in_chans)
        self.final_layer = FinalLayer(width, outputs, model.norm_eps, way.modulates)

    def forward(self, images: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        conditions = self.conditions(timestep, label)
        patches = self.final_layer(self.conditioned(images, conditions), conditions)
        p, rows = known(self.model.patch_size), self.shape.grid.rows
        out: Tensor = rearrange(patches, "b (y x) (p q c) -> b c (y p) (x q)", y=rows, p=p, q=p)
        return out

    def forward_features(self, images: Tensor) -> Tensor:
        """The patches' tokens `[B, N, D]` of images without noise and of no class."""
        return self.conditioned(images, self.no_conditions(images))

    def conditions(self, timestep: Tensor, label: Tensor) -> Tensor:
        """The vectors of time step and class, `[B, 2, D]`."""
        return torch.stack([self.t_embedder(timestep), self.y_embedder(label)], dim=1)

    def no_conditions(self, images: Tensor) -> Tensor:
        """The conditions `[B, 2, D]` of images without noise and of no class."""
        zeros = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return self.conditions(zeros, zeros + self.num_classes)

    def conditioned(self, images: Tensor, conditions: Tensor) -> Tensor:
        """The patches' tokens `[B, N, D]` after the last block and any final norm."""
        x = self._entering(images, conditions)
        for way, block, turn in self._steps(x):
            x = way(block, x, turn, conditions)
        out: Tensor = self.norm(x[:, self.num_prefix_tokens :])
        return out

    def attention(self, images: Tensor) -> Tensor:
        """Attention probabilities `[L, B, H, T, T]` for images without noise and of no class."""
        conditions = self.no_conditions(images)
        x, maps = self._entering(images, conditions), []
        for way, block, turn in self._steps(x):
            maps.append(block.token_mixer.probabilities(way.mixed(block, x, conditions), turn))  # type: ignore[operator]
            x = way(block, x, turn, conditions)
        return torch.stack(maps)

    def _entering(self, images: Tensor, conditions: Tensor) -> Tensor:
        """What enters the first block: the patches with their positions, after the conditions if these are tokens."""
        x = self.placed_tokens(self.patch_embed(images))
        return torch.cat([conditions.to(x.dtype), x], dim=1) if self.prepended else x

    def _steps(self, x: Tensor) -> Iterator[tuple[PlainCondition, EncoderBlock, Rotation | None]]:
        """Each block with its conditioning and its rotation."""
        parts = zip(self.conditioning, self.blocks, self._rotations(x.device), strict=True)
        return ((cast(PlainCondition, way), cast(EncoderBlock, block), turn) for way, block, turn in parts)
