"""Patches that do not overlap, each projected to a token."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from vitbench.model.mechanisms import PatchEmbed
from vitbench.model.sizes import divisors, known, pixel_grid, pixel_words, transformer
from vitbench.model.tensors import Tensor, affine, norm
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    from torch import nn


class Patchify(PatchEmbed):
    """A convolution whose stride is its kernel; with `norm`, LayerNorm follows, as in Swin.

    Source: Dosovitskiy et al. 2021, section 3.1.
    """

    name: ClassVar[str] = "patchify"
    gives: ClassVar[frozenset[str]] = frozenset({"patches"})
    norm: bool = False

    def problems(self, model: ModelSpec) -> list[str]:
        return grid_problems(model)

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        yield from projection(model, known(model.in_chans), known(model.patch_size))
        if self.norm:
            yield from norm("norm", known(model.embed_dim))

    def module(self, model: ModelSpec) -> nn.Module:
        from vitbench.model.layers import LayerNorm, PatchProjection

        width = known(model.embed_dim)
        after = LayerNorm(width, model.norm_eps) if self.norm else None
        return PatchProjection(known(model.in_chans), width, known(model.patch_size), after)

    def timm(self, model: ModelSpec) -> dict[str, Any] | str:
        return f"model.stem {self.text()}; its ViT has no norm after the projection" if self.norm else {}


def grid_problems(model: ModelSpec) -> list[str]:
    """That the patch size does not divide the images."""
    common, patch = math.gcd(*pixel_grid(model)), known(model.patch_size)
    if common % patch == 0:
        return []
    return [f"model.patch_size: {patch} does not divide images of {pixel_words(model)} px; {divisors(common)} do"]


def projection(model: ModelSpec, in_width: int, kernel: int) -> Iterator[Tensor]:
    """The projection of `kernel` x `kernel` cells to embed_dim."""
    shape = transformer(model)
    inits = _inits(model, in_width * kernel**2)
    yield from affine("proj", (shape.embed_dim, in_width, kernel, kernel), inits, shape.num_patches)


def flat_projection(model: ModelSpec, in_width: int) -> Iterator[Tensor]:
    """The projection of vectors of `in_width` numbers, one per token, to embed_dim; it starts as that of patches."""
    shape = transformer(model)
    yield from affine("proj", (shape.embed_dim, in_width), _inits(model, in_width), shape.num_patches)


def _inits(model: ModelSpec, fan_in: int) -> tuple[str, str]:
    bound = f"uniform:{fan_in**-0.5:.6g}"
    return (bound, bound) if model.weight_init == "timm" else ("lecun_normal", "zeros")
