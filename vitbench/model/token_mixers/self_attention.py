"""Multi-head self-attention, the paper's token mixer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from vitbench.model.mechanisms import TokenMixer, position_of
from vitbench.model.sizes import divisors, known, transformer
from vitbench.model.tensors import SCHEMES, Tensor, affine
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    from torch import nn


class SelfAttention(TokenMixer):
    """Every token attends to every token; state names are timm's.

    Source: Dosovitskiy et al. 2021, section 3.1.
    """

    name: ClassVar[str] = "attention"
    gives: ClassVar[frozenset[str]] = frozenset({"attention_maps", "subset"})
    slot: ClassVar[str] = "attn"

    def reads(self, model: ModelSpec) -> frozenset[str]:
        return frozenset({"num_heads", "qkv_bias"})

    def problems(self, model: ModelSpec) -> list[str]:
        width, heads = known(model.embed_dim), known(model.num_heads)
        if width % heads == 0:
            return []
        return [f"model.num_heads: {heads} does not divide embed_dim {width}; {divisors(width)} do"]

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        shape, scheme = transformer(model), SCHEMES[model.weight_init]
        width, tokens = shape.embed_dim, shape.num_tokens
        yield from affine("qkv", (3 * width, width), (scheme.qkv, "zeros"), tokens, bias=model.qkv_bias)
        yield from affine("proj", (width, width), (scheme.linear, "zeros"), tokens)

    def macs(self, model: ModelSpec, layer: int) -> dict[str, int]:
        return self.pair_macs(model, transformer(model).num_tokens ** 2)

    def pair_macs(self, model: ModelSpec, num_pairs: int) -> dict[str, int]:
        """Multiply-adds of scores and values for `num_pairs` pairs of query and key, and of the relative tables."""
        products, tables = num_pairs * transformer(model).embed_dim, position_of(model).macs(model)
        return {"scores": products, "values": products, **({"rel_pos": tables} if tables else {})}

    def module(self, model: ModelSpec, layer: int) -> nn.Module:
        from vitbench.model.attention_layers import Attention

        return Attention(model)

    def timm(self, model: ModelSpec) -> dict[str, Any] | str:
        return {"num_heads": model.num_heads, "qkv_bias": model.qkv_bias}


class PartialAttention(SelfAttention):
    """The base of mixers in which a patch attends to some of the patches only, and nothing else is a token."""

    gives: ClassVar[frozenset[str]] = frozenset({"attention_maps"})

    def problems(self, model: ModelSpec) -> list[str]:
        return super().problems(model) + self.prefix_problems(model)

    def timm(self, model: ModelSpec) -> dict[str, Any] | str:
        return f"model.token_mixer {self.text()}; its ViT attends to all tokens"
