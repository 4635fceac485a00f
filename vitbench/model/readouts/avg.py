"""The mean of the patches as the image's feature vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from vitbench.model.mechanisms import Readout
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    import torch


class AveragePool(Readout):
    """The mean over the patches; prefix tokens are left out.

    Source: Dosovitskiy et al. 2021, App. D.3.
    """

    name: ClassVar[str] = "avg"

    def reads(self, model: ModelSpec) -> frozenset[str]:
        return frozenset({"final_norm"})

    def pooled(self, tokens: torch.Tensor, num_prefix: int, module: Any) -> torch.Tensor:
        return tokens[:, num_prefix:].mean(dim=1)

    def timm(self, model: ModelSpec) -> dict[str, Any] | str:
        return {"global_pool": "avg"}
