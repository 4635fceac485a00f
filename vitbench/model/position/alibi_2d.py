"""Attention that fades with the distance on the grid: a fixed slope per head, nothing learned.

Source: Press et al. 2022 (ALiBi), whose slopes these are. Differs: the distance is Euclidean, between cells of the
grid; prefix tokens have no place, so that no penalty applies to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from vitbench.model.mechanisms import Position
from vitbench.model.sizes import transformer
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    import torch


class Alibi2d(Position):
    """Minus slope times distance in cells, added to the logits; head h of H has the slope 2^(-8 h / H), h from 1."""

    name: ClassVar[str] = "alibi_2d"
    needs: ClassVar[frozenset[str]] = frozenset({"attention_maps"})
    fixed: ClassVar[bool] = True

    def bias(self, attention: Any, model: ModelSpec, q: torch.Tensor) -> torch.Tensor:
        import torch
        import torch.nn.functional as F

        shape = transformer(model)
        y, x = (torch.arange(length, device=q.device, dtype=q.dtype) for length in shape.grid)
        cells = torch.cartesian_prod(y, x)
        distance = (cells.unsqueeze(1) - cells.unsqueeze(0)).square().sum(-1).sqrt()
        head = torch.arange(1, shape.num_heads + 1, device=q.device, dtype=q.dtype)
        slopes = 2.0 ** (-8.0 * head / shape.num_heads)
        return -slopes.view(1, -1, 1, 1) * F.pad(distance, (shape.num_prefix, 0, shape.num_prefix, 0))
