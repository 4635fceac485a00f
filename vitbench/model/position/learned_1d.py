"""One learned vector per raster index of a patch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from vitbench.model.mechanisms import Position
from vitbench.model.sizes import transformer
from vitbench.model.tensors import SCHEMES, Tensor
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    import torch


class LearnedPosition(Position):
    """Learned vectors that are added to the tokens; the class token has one of its own, unless `no_embed_class`.

    Source: Dosovitskiy et al. 2021, App. D.4.
    """

    gives: ClassVar[frozenset[str]] = frozenset({"positions", "subset"})
    absolute: ClassVar[bool] = True

    def reads(self, model: ModelSpec) -> frozenset[str]:
        return frozenset({"pos_placement", *(["no_embed_class"] if model.class_token else [])})

    def class_row(self, model: ModelSpec) -> bool:
        return transformer(model).class_position


class Learned1d(LearnedPosition):
    """A table of all places."""

    name: ClassVar[str] = "learned_1d"

    def tables(self, model: ModelSpec) -> tuple[Tensor, ...]:
        shape, init = transformer(model), SCHEMES[model.weight_init].position
        rows, first = (1, shape.num_places, shape.embed_dim), int(shape.class_position)
        return (Tensor("pos_embed", rows, init, decay=False, resample="grid", prefix_rows=first),)

    def added(self, owner: Any, model: ModelSpec, device: torch.device) -> torch.Tensor:
        table: torch.Tensor = owner.pos_embed
        return table
