"""One grid for all blocks, as in the ViT."""

from __future__ import annotations

from typing import Any, ClassVar

from vitbench.model.mechanisms import Stages
from vitbench.spec.trial import ModelSpec


class Flat(Stages):
    """Every block has the same grid and the same width."""

    name: ClassVar[str] = "flat"

    def models(self, model: ModelSpec) -> tuple[ModelSpec, ...]:
        return (model,)

    def timm(self, model: ModelSpec) -> dict[str, Any] | str:
        return {}
