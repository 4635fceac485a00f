"""A random matrix that is never trained as token mixer: each token becomes the same average of all tokens.

Source: Yu et al. 2022 (MetaFormer), Table 5: the softmax of uniform random numbers, frozen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from vitbench.model.mechanisms import TokenMixer
from vitbench.model.sizes import transformer
from vitbench.model.tensors import Tensor
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor as Values
    from torch import nn


class RandomMixing(TokenMixer):
    """Each block has a matrix `[N, N]` of its own, drawn from the trial's seed; its rows sum to 1."""

    name: ClassVar[str] = "random"

    def problems(self, model: ModelSpec) -> list[str]:
        return self.prefix_problems(model)

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        shape = transformer(model)
        tokens = shape.num_patches
        yield Tensor("weight", (tokens, tokens), "softmax_rows", shape.embed_dim, trained=False)

    def module(self, model: ModelSpec, layer: int) -> nn.Module:
        import torch
        from torch import nn

        tokens = transformer(model).num_patches

        class Fixed(nn.Module):
            weight: Values

            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("weight", torch.empty(tokens, tokens))

            def forward(self, x: Values) -> Values:
                return self.weight @ x

        return Fixed()
