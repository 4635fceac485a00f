"""An MLP over the tokens as token mixer: each channel is a vector of patches that two layers transform.

Source: Tolstikhin et al. 2021 (MLP-Mixer), section 2. Differs: GELU is exact, as in timm. The weights belong to one
number of patches, so they cannot be interpolated to another grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from vitbench.model.mechanisms import TokenMixer
from vitbench.model.sizes import transformer
from vitbench.model.tensors import SCHEMES, Tensor, mlp
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor as Values
    from torch import nn


class TokenMlp(TokenMixer):
    """A hidden layer of `ratio` times the width D, as in the source (not of the number of patches)."""

    name: ClassVar[str] = "mlp"
    timm_class: ClassVar[str | None] = "mixer"
    ratio: Annotated[float, Field(gt=0.0, le=16.0)] = 0.5

    def problems(self, model: ModelSpec) -> list[str]:
        return self.prefix_problems(model)

    def hidden(self, model: ModelSpec) -> int:
        """Width of the hidden layer."""
        return max(1, round(self.ratio * transformer(model).embed_dim))

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        shape = transformer(model)
        widths = (shape.num_patches, self.hidden(model))
        return mlp("", widths, SCHEMES[model.weight_init], uses=shape.embed_dim)

    def module(self, model: ModelSpec, layer: int) -> nn.Module:
        from vitbench.model.layers import Mlp

        class AcrossTokens(Mlp):
            def forward(self, x: Values) -> Values:
                return super().forward(x.transpose(1, 2)).transpose(1, 2)

        return AcrossTokens(transformer(model).num_patches, self.hidden(model), model.drop_rate)
