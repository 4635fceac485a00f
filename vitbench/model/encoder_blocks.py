"""The pre-norm encoder block, one after the other or side by side.

Source: Dosovitskiy et al. 2021, section 3.1. State names are timm's.

Shapes: B batch, T tokens, D embed_dim.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from vitbench.model.layers import GroupNorm, LayerNorm, LayerScale, RmsNorm, StochasticDepth, depth_rates
from vitbench.model.mechanisms import blocks_of, channel_mixer_of, stages_of, token_mixer_of
from vitbench.model.parameters import position_tables
from vitbench.model.placing import Rotation, register
from vitbench.model.sizes import known
from vitbench.spec.trial import ModelSpec


class EncoderBlock(nn.Module):
    """Pre-norm encoder block `[B, T, D]` -> `[B, T, D]`; with `every_layer` a later block adds its own positions.

    `model` is that of the block's stage, and `layer` its number there. `merge` makes the tokens of the stage before
    those of this one. The token mixer is `attn`, as in timm, or has the name of its slot; `without: mlp` leaves its
    branch alone.
    """

    def __init__(
        self, model: ModelSpec, layer: int, drop_path_rate: float = 0.0, merge: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.merge = merge or nn.Identity()
        if layer > 0:
            register(self, position_tables(model, layer))
        mixer = token_mixer_of(model)
        self.slot, self.attends = mixer.slot, "attention_maps" in mixer.gives
        self.residual, whole = model.without != "residual", model.without != "mlp"
        self.norm1 = _block_norm(model)
        self.add_module(self.slot, mixer.module(model, layer))
        self.ls1 = _layer_scale(model)
        self.norm2 = _block_norm(model) if whole else None
        self.mlp = channel_mixer_of(model).module(model) if whole else None
        self.ls2 = _layer_scale(model) if whole else None
        self.drop_path = StochasticDepth(drop_path_rate)

    @property
    def token_mixer(self) -> nn.Module:
        """The token mixer."""
        return self.get_submodule(self.slot)

    def forward(self, x: Tensor, turn: Rotation | None) -> Tensor:
        x = self.merge(x)
        x = self._with(x, self.mixed(x, turn))
        return x if self.mlp is None else self._with(x, self.transformed(x))

    def mixed(self, x: Tensor, turn: Rotation | None) -> Tensor:
        """The branch of the token mixer."""
        normed = self.norm1(x)
        out: Tensor = self.ls1(self.token_mixer(normed, turn) if self.attends else self.token_mixer(normed))
        return out

    def transformed(self, x: Tensor) -> Tensor:
        """The branch of the channel mixer, in a block that has one."""
        norm, mlp, scale = self.norm2, self.mlp, self.ls2
        assert norm is not None
        assert mlp is not None
        assert scale is not None
        out: Tensor = scale(mlp(norm(x)))
        return out

    def _with(self, x: Tensor, branch: Tensor) -> Tensor:
        """The branch added to what it read, or the branch alone."""
        out: Tensor = x + self.drop_path(branch) if self.residual else branch
        return out


class SideBySide(nn.ModuleList):
    """Encoder blocks that share their inputs: all token mixers' branches are added to `x [B, T, D]`, then all MLPs'.

    Source: Touvron et al. 2022 (Three things everyone should know about Vision Transformers), section 3.
    """

    def forward(self, x: Tensor, turn: Rotation | None) -> Tensor:
        blocks = [cast(EncoderBlock, block) for block in self]
        x = x + torch.stack([block.drop_path(block.mixed(x, turn)) for block in blocks]).sum(0)
        return x + torch.stack([block.drop_path(block.transformed(x)) for block in blocks]).sum(0)


def _block_norm(model: ModelSpec) -> nn.Module:
    width = known(model.embed_dim)
    if model.without == "norm":
        return nn.Identity()
    return GroupNorm(width) if model.block_norm == "group" else token_norm(model, width)


def token_norm(model: ModelSpec, width: int) -> nn.Module:
    """A norm of each token."""
    return (RmsNorm if model.block_norm == "rms" else LayerNorm)(width, model.norm_eps)


def _layer_scale(model: ModelSpec) -> nn.Module:
    return nn.Identity() if model.layer_scale is None else LayerScale(known(model.embed_dim))


def encoder_blocks(model: ModelSpec) -> nn.ModuleList:
    """Every block; the first one of a later stage begins with the merging of patches."""
    places = blocks_of(model)
    rates, modules = depth_rates(model.drop_path_rate, len(places) // model.parallel), nn.ModuleList()
    for number, (stage, layer, before) in enumerate(places):
        merge = None if before is None else stages_of(model).merge(before, stage)
        modules.append(EncoderBlock(stage, layer, rates[number // model.parallel], merge))
    return modules
