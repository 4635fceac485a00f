"""The two-dimensional discrete cosine transform (DCT-II, orthonormal) of every patch of an image.

Shapes: B batch, C channels, N patches of P x P pixels, K frequencies.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from vitbench.model.sparse_attention import Constant


def basis(size: int) -> list[list[float]]:
    """The matrix `[P, P]` whose row k is the cosine of frequency k; its rows are orthonormal."""
    scale = [(1 if k == 0 else 2) / size for k in range(size)]
    return [
        [math.sqrt(scale[k]) * math.cos(math.pi * (2 * n + 1) * k / (2 * size)) for n in range(size)]
        for k in range(size)
    ]


def zigzag(size: int) -> list[tuple[int, int]]:
    """All (row, column) frequencies in JPEG's order: diagonal by diagonal, the direction changing, from (0, 0)."""
    cells = [(row, column) for row in range(size) for column in range(size)]
    return sorted(cells, key=lambda cell: (sum(cell), cell[0] if sum(cell) % 2 else cell[1]))


class PatchCosines(nn.Module):
    """Images `[B, C, Y P, X P]` -> coefficients `[B, N, C, K]` of the given frequencies; it has no state."""

    def __init__(self, patch_size: int, frequencies: list[tuple[int, int]]) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.cosines = Constant(basis(patch_size))
        self.places = Constant([row * patch_size + column for row, column in frequencies])

    def forward(self, images: Tensor) -> Tensor:
        p, cosines = self.patch_size, self.cosines.at(images).to(images.dtype)
        patches = rearrange(images, "b c (y p) (x q) -> b (y x) c p q", p=p, q=p)
        return (cosines @ patches @ cosines.T).flatten(-2)[..., self.places.at(images)]

    def waves(self) -> Tensor:
        """The pattern `[K, P, P]` of each frequency."""
        cosines = self.cosines.values
        return torch.einsum("kp,lq->klpq", cosines, cosines).flatten(0, 1)[self.places.values]
