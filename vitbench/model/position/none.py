"""No position encoding: permuting the patches permutes the tokens."""

from __future__ import annotations

from typing import Any, ClassVar

from vitbench.model.mechanisms import Position
from vitbench.spec.trial import ModelSpec


class NoPosition(Position):
    """Nothing is added."""

    name: ClassVar[str] = "none"
    gives: ClassVar[frozenset[str]] = frozenset({"subset"})
    fixed: ClassVar[bool] = True

    def timm(self, model: ModelSpec) -> dict[str, Any] | str:
        return {"pos_embed": "none", "no_embed_class": True}
