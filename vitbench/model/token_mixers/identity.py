"""No mixing at all: each token keeps to itself until the readout. A lower bound for every token mixer.

Source: Yu et al. 2022 (MetaFormer), Table 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from vitbench.model.mechanisms import TokenMixer
from vitbench.model.tensors import Tensor
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    from torch import nn


class NoMixing(TokenMixer):
    """The branch is the normalised token itself."""

    name: ClassVar[str] = "identity"

    def problems(self, model: ModelSpec) -> list[str]:
        return self.prefix_problems(model)

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        return iter(())

    def module(self, model: ModelSpec, layer: int) -> nn.Module:
        from torch import nn

        return nn.Identity()
