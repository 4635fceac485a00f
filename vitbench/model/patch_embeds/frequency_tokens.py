"""Frequencies as tokens: a token holds one coefficient of the cosine transforms of all patches.

Attention mixes frequencies then, and where a patch lies is a channel. No source. Channels of an image are joined in one
token, so that the grid of tokens is that of the frequencies, P x P.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from vitbench.model.mechanisms import PatchEmbed
from vitbench.model.patch_embeds.dct import transform_macs, transform_problems
from vitbench.model.patch_embeds.patchify import flat_projection, grid_problems
from vitbench.model.sizes import Grid, known, patch_grid
from vitbench.model.tensors import Tensor
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    from torch import nn


class FrequencyTokens(PatchEmbed):
    """P x P tokens, from the mean of each patch to its finest pattern; the weights belong to one number of patches."""

    name: ClassVar[str] = "frequency_tokens"
    spatial: ClassVar[bool] = False
    changes: ClassVar[frozenset[str]] = frozenset({"position"})

    def problems(self, model: ModelSpec) -> list[str]:
        return grid_problems(model) + transform_problems(self.name, model)

    def grid(self, model: ModelSpec) -> Grid:
        size = known(model.patch_size)
        return Grid(size, size)

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        yield from flat_projection(model, patch_grid(model).area * known(model.in_chans))

    def macs(self, model: ModelSpec) -> dict[str, int]:
        return transform_macs(model)

    def module(self, model: ModelSpec) -> nn.Module:
        import torch
        from einops import rearrange
        from torch import nn

        from vitbench.model.cosine_transform import PatchCosines

        frequencies = [
            (row, column) for row in range(known(model.patch_size)) for column in range(known(model.patch_size))
        ]
        in_width, width = patch_grid(model).area * known(model.in_chans), known(model.embed_dim)

        class FrequencyProjection(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.cosines = PatchCosines(known(model.patch_size), frequencies)
                self.proj = nn.Linear(in_width, width)

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                out: torch.Tensor = self.proj(rearrange(self.cosines(images), "b n c k -> b k (n c)"))
                return out

        return FrequencyProjection()
