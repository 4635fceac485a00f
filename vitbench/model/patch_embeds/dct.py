"""Patches as frequencies: the coefficients of each patch's cosine transform are projected to a token.

Without `keep` a linear layer on all coefficients has the functions of a linear layer on the pixels, and starts with the
same mean and covariance; only the optimiser tells them apart. No source: an idea from JPEG.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from vitbench.model.mechanisms import PatchEmbed
from vitbench.model.patch_embeds.patchify import flat_projection, grid_problems
from vitbench.model.sizes import known, pixel_grid
from vitbench.model.tensors import Tensor
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    from torch import nn


class CosinePatches(PatchEmbed):
    """The `keep` lowest frequencies of every channel in JPEG's zig-zag order, None: all; orthonormal DCT-II."""

    name: ClassVar[str] = "dct"
    gives: ClassVar[frozenset[str]] = frozenset({"patches"})
    keep: Annotated[int, Field(ge=1)] | None = None

    def problems(self, model: ModelSpec) -> list[str]:
        problems, pixels = grid_problems(model) + transform_problems(self.name, model), known(model.patch_size) ** 2
        if self.keep is not None and self.keep >= pixels:
            problems.append(f"model.stem: dct of {pixels} pixels keeps fewer than {pixels} frequencies, or no `keep`")
        return problems

    def num_coefficients(self, model: ModelSpec) -> int:
        return self.keep or known(model.patch_size) ** 2

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        yield from flat_projection(model, known(model.in_chans) * self.num_coefficients(model))

    def macs(self, model: ModelSpec) -> dict[str, int]:
        return transform_macs(model)

    def module(self, model: ModelSpec) -> nn.Module:
        import torch
        from torch import nn

        from vitbench.model.cosine_transform import PatchCosines, zigzag

        size, count, channels = known(model.patch_size), self.num_coefficients(model), known(model.in_chans)
        width = known(model.embed_dim)

        class CosineProjection(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.cosines = PatchCosines(size, zigzag(size)[:count])
                self.proj = nn.Linear(channels * count, width)

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                out: torch.Tensor = self.proj(self.cosines(images).flatten(-2))
                return out

            def filters(self) -> torch.Tensor:
                """The projection as filters of pixels, `[D, C, P, P]`."""
                weight = self.proj.weight.view(width, channels, count)
                return torch.einsum("dck,kpq->dcpq", weight, self.cosines.waves().to(weight))

        return CosineProjection()


def transform_problems(name: str, model: ModelSpec) -> list[str]:
    """That the patches are too small to have frequencies."""
    size = known(model.patch_size)
    if size > 2:
        return []
    return [f"model.stem: {name} of patches of {size} px is sums and differences of pixels; set patch_size 3 or more"]


def transform_macs(model: ModelSpec) -> dict[str, int]:
    """Multiply-adds of the transform by rows and columns, per image; it could be part of the weights, and is not."""
    return {"cosines": 2 * known(model.patch_size) * known(model.in_chans) * pixel_grid(model).area}
