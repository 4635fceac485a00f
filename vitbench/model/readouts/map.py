"""Attention pooling: one learned query attends to the patches.

Source: Zhai et al. 2022. State names are timm's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from vitbench.model.mechanisms import Readout
from vitbench.model.sizes import divisors, known, transformer
from vitbench.model.tensors import SCHEMES, Tensor, affine, mlp, norm
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import nn


class AttentionPooling(Readout):
    """A query, keys and values of the patches, a projection, then a residual MLP."""

    name: ClassVar[str] = "map"

    def reads(self, model: ModelSpec) -> frozenset[str]:
        return frozenset({"final_norm", "num_heads", "mlp_ratio"})

    def problems(self, model: ModelSpec) -> list[str]:
        width, heads = known(model.embed_dim), known(model.num_heads)
        if width % heads == 0 or "num_heads" in _mixer_reads(model):
            return []
        return [f"model.num_heads: {heads} does not divide embed_dim {width}; {divisors(width)} do"]

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        for tensor in self._tensors(model):
            yield replace(tensor, role="readout").at("attn_pool", "readout")

    def _tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        shape, scheme = transformer(model), SCHEMES[model.weight_init]
        width, linear = shape.embed_dim, (scheme.linear, "zeros")
        yield Tensor("latent", (1, 1, width), "lecun_normal", decay=True)
        yield from affine("q", (width, width), linear, 1)
        yield from affine("kv", (2 * width, width), linear, shape.num_patches)
        yield from affine("proj", (width, width), linear, 1)
        yield from norm("norm", width)
        yield from mlp("mlp.", (width, shape.mlp_dim), scheme, 1)

    def macs(self, model: ModelSpec) -> dict[str, int]:
        pooled = transformer(model).num_patches * transformer(model).embed_dim
        return {"attn_pool.scores": pooled, "attn_pool.values": pooled}

    def module(self, model: ModelSpec) -> nn.Module:
        from vitbench.model.attention_layers import AttentionPool

        return AttentionPool(transformer(model))

    def pooled(self, tokens: torch.Tensor, num_prefix: int, module: Any) -> torch.Tensor:
        out: torch.Tensor = module(tokens[:, num_prefix:])
        return out

    def timm(self, model: ModelSpec) -> dict[str, Any] | str:
        return {"global_pool": "map"}


def _mixer_reads(model: ModelSpec) -> frozenset[str]:
    """The fields that the token mixer reads: it reports their problems itself."""
    from vitbench.model.mechanisms import token_mixer_of

    return token_mixer_of(model).reads(model)
