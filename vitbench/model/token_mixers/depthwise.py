"""Depth-wise convolution over the grid as token mixer: each channel mixes each patch with its neighbours.

Source: Trockman and Kolter 2022 (ConvMixer). Differs: it stands in a pre-norm ViT block; prefix tokens, which have no
place on the grid, pass through unchanged, so it needs a readout that pools the patches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from vitbench.model.mechanisms import TokenMixer, readout_of
from vitbench.model.sizes import transformer
from vitbench.model.tensors import Tensor
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    from torch import nn


class DepthwiseConvolution(TokenMixer):
    """A kernel of `kernel_size` x `kernel_size` cells per channel, zeros beyond the grid."""

    name: ClassVar[str] = "depthwise"
    kernel_size: Annotated[int, Field(ge=1, le=31)] = 3

    def problems(self, model: ModelSpec) -> list[str]:
        problems = []
        if self.kernel_size % 2 == 0:
            problems.append(f"model.token_mixer: depthwise needs an odd kernel_size; it is {self.kernel_size}")
        if "class_token" in readout_of(model).needs:
            problems.append("model.token_mixer: depthwise never mixes the class token; set global_pool: avg or map")
        if model.reg_tokens:
            problems.append("model.reg_tokens: depthwise never mixes register tokens, so they change nothing; set 0")
        return problems

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        shape = transformer(model)
        size, width = self.kernel_size, shape.embed_dim
        yield Tensor("weight", (width, 1, size, size), "lecun_normal", shape.num_patches, decay=True)
        yield Tensor("bias", (width,), "zeros")

    def module(self, model: ModelSpec, layer: int) -> nn.Module:
        import torch
        import torch.nn.functional as F
        from einops import rearrange
        from torch import nn

        shape, size, drop_rate = transformer(model), self.kernel_size, model.drop_rate
        prefix = shape.num_prefix

        class Depthwise(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.empty(shape.embed_dim, 1, size, size))
                self.bias = nn.Parameter(torch.empty(shape.embed_dim))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                grid = rearrange(x[:, prefix:], "b (y x) d -> b d y x", y=shape.grid.rows)
                mixed = F.conv2d(grid, self.weight, self.bias, padding=size // 2, groups=shape.embed_dim)
                patches = rearrange(mixed, "b d y x -> b (y x) d")
                patches = F.dropout(patches, drop_rate, self.training) if drop_rate else patches
                return torch.cat([torch.zeros_like(x[:, :prefix]), patches], dim=1) if prefix else patches

        return Depthwise()
