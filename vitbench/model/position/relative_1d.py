"""Logits of the query with a learned vector per raster offset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from vitbench.model.mechanisms import Position
from vitbench.model.sizes import transformer
from vitbench.model.tensors import SCHEMES, Tensor
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    import torch


class Relative1d(Position):
    """One table of raster offsets per layer, shared by its heads; the class token is one step before the first patch.

    Source: Dosovitskiy et al. 2021, App. D.4.
    """

    name: ClassVar[str] = "relative_1d"
    needs: ClassVar[frozenset[str]] = frozenset({"attention_maps"})
    gives: ClassVar[frozenset[str]] = frozenset({"positions"})
    offsets: ClassVar[Mapping[str, str]] = {"rel_pos": "raster"}

    def reads(self, model: ModelSpec) -> frozenset[str]:
        return frozenset({"relative_clip", *(["no_embed_class"] if model.class_token else [])})

    def problems(self, model: ModelSpec) -> list[str]:
        return clip_problems(model, transformer(model).num_places - 1)

    def attention_tables(self, model: ModelSpec) -> tuple[Tensor, ...]:
        shape, init = transformer(model), SCHEMES[model.weight_init].position
        return (Tensor("rel_pos", (table_rows(model, shape.num_places), shape.head_dim), init, decay=False),)

    def macs(self, model: ModelSpec) -> int:
        shape = transformer(model)
        return shape.num_places**2 * shape.embed_dim

    def bias(self, attention: Any, model: ModelSpec, q: torch.Tensor) -> torch.Tensor:
        import torch

        from vitbench.model.placing import offset_logits, placed, spread

        shape = transformer(model)
        places = torch.arange(shape.num_places, device=q.device)
        logits = offset_logits(placed(q, shape), attention.rel_pos, places, places)
        return spread(spread(logits, shape), shape, -1)


def table_rows(model: ModelSpec, length: int) -> int:
    """Rows of a table of the offsets along `length` places, clipped at `relative_clip`."""
    return 2 * min(model.relative_clip or length, length - 1) + 1


def clip_problems(model: ModelSpec, largest: int) -> list[str]:
    """That `relative_clip` is above the largest offset."""
    if model.relative_clip is None or model.relative_clip <= largest:
        return []
    return [f"model.relative_clip: {model.relative_clip} is above the largest offset of this grid, {largest}"]
