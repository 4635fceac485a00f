"""Average pooling over the grid, minus the token itself, as token mixer.

Source: Yu et al. 2022 (PoolFormer), section 3. Cells beyond the grid are not counted. The source's block also has
`block_norm: group` and `layer_scale: 1e-5`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from vitbench.model.mechanisms import TokenMixer
from vitbench.model.sizes import transformer
from vitbench.model.tensors import Tensor
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import nn


class Pooling(TokenMixer):
    """The mean of `pool_size` x `pool_size` cells minus the centre, with nothing to learn."""

    name: ClassVar[str] = "pool"
    timm_class: ClassVar[str | None] = "poolformer"
    pool_size: Annotated[int, Field(ge=3, le=31)] = 3

    def problems(self, model: ModelSpec) -> list[str]:
        problems = self.prefix_problems(model)
        if self.pool_size % 2 == 0:
            problems.append(f"model.token_mixer: pool needs an odd pool_size; it is {self.pool_size}")
        return problems

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        return iter(())

    def module(self, model: ModelSpec, layer: int) -> nn.Module:
        import torch.nn.functional as F
        from einops import rearrange
        from torch import nn

        rows, size = transformer(model).grid.rows, self.pool_size

        class PoolingMinusIdentity(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                grid = rearrange(x, "b (y x) d -> b d y x", y=rows)
                pooled = F.avg_pool2d(grid, size, stride=1, padding=size // 2, count_include_pad=False)
                return rearrange(pooled, "b d y x -> b (y x) d") - x

        return PoolingMinusIdentity()
