"""The class token as the image's feature vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from vitbench.model.mechanisms import Readout
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    import torch


class ClassToken(Readout):
    """The first token.

    Source: Dosovitskiy et al. 2021, section 3.1.
    """

    name: ClassVar[str] = "token"
    needs: ClassVar[frozenset[str]] = frozenset({"class_token"})

    def reads(self, model: ModelSpec) -> frozenset[str]:
        """A LayerNorm acts on each token alone, so picking one commutes with it: `after_pool` changes nothing."""
        return frozenset() if model.final_norm == "after_pool" else frozenset({"final_norm"})

    def problems(self, model: ModelSpec) -> list[str]:
        if model.class_token:
            return []
        return ["model.global_pool: token reads the class token; set class_token: true, or avg or map"]

    def pooled(self, tokens: torch.Tensor, num_prefix: int, module: Any) -> torch.Tensor:
        return tokens[:, 0]

    def timm(self, model: ModelSpec) -> dict[str, Any] | str:
        return {"global_pool": "token"}
