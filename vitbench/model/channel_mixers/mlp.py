"""Two layers with GELU between, the paper's channel mixer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from vitbench.model.mechanisms import ChannelMixer
from vitbench.model.sizes import known, transformer
from vitbench.model.tensors import SCHEMES, Tensor, mlp
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    from torch import nn


class MlpMixer(ChannelMixer):
    """Hidden width: `mlp_ratio` times embed_dim. `approximate`: GELU by a tanh, as in vit_jax and in DiT.

    Source: Dosovitskiy et al. 2021, section 3.1.
    """

    name: ClassVar[str] = "mlp"
    approximate: bool = False

    def reads(self, model: ModelSpec) -> frozenset[str]:
        return frozenset({"mlp_ratio"})

    def problems(self, model: ModelSpec) -> list[str]:
        if int(known(model.embed_dim) * known(model.mlp_ratio)) >= 1:
            return []
        return [f"model.mlp_ratio: {model.mlp_ratio} of embed_dim {model.embed_dim} is less than one unit"]

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        shape = transformer(model)
        yield from mlp("", (shape.embed_dim, shape.mlp_dim), SCHEMES[model.weight_init], shape.num_tokens)

    def module(self, model: ModelSpec) -> nn.Module:
        from vitbench.model.layers import Mlp

        shape = transformer(model)
        return Mlp(shape.embed_dim, shape.mlp_dim, model.drop_rate, approximate=self.approximate)

    def timm(self, model: ModelSpec) -> dict[str, Any] | str:
        return {"mlp_ratio": model.mlp_ratio, **({"act_layer": "gelu_tanh"} if self.approximate else {})}
