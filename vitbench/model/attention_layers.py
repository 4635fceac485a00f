"""Self-attention and attention pooling. State names are timm's.

Shapes: B batch, T tokens, N patches, D embed_dim, H heads, K head_dim.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from vitbench.model.layers import LayerNorm, Mlp, attend, dropout, probabilities
from vitbench.model.mechanisms import position_of
from vitbench.model.placing import Rotation, register, rotate
from vitbench.model.sizes import Transformer, transformer
from vitbench.spec.trial import ModelSpec


class Attention(nn.Module):
    """Multi-head self-attention `[B, T, D]` -> `[B, T, D]`, with relative or rotary positions where chosen."""

    def __init__(self, model: ModelSpec) -> None:
        super().__init__()
        self.model, self.position, self.shape = model, position_of(model), (shape := transformer(model))
        self.qkv = nn.Linear(shape.embed_dim, 3 * shape.embed_dim, bias=model.qkv_bias)
        self.proj = nn.Linear(shape.embed_dim, shape.embed_dim)
        self.drop = dropout(model.drop_rate)
        register(self, self.position.attention_tables(model))

    def forward(self, x: Tensor, turn: Rotation | None) -> Tensor:
        q, k, v = self._queries_keys_values(x, turn)
        mixed = attend(q, k, v, self.bias(q))
        out: Tensor = self.drop(self.proj(rearrange(mixed, "b h t k -> b t (h k)")))
        return out

    def probabilities(self, x: Tensor, turn: Rotation | None) -> Tensor:
        """How much each query attends to each key, `[B, H, T, T]`."""
        q, k, _ = self._queries_keys_values(x, turn)
        return probabilities(q, k, self.bias(q))

    def bias(self, q: Tensor) -> Tensor | None:
        """What is added to the logits `[B, H, T, T]` of scaled queries."""
        return self.position.bias(self, self.model, q)

    def _queries_keys_values(self, x: Tensor, turn: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Each `[B, H, T, K]`; queries are scaled by K^-0.5, so relative logits are too (Shaw et al. 2018, eq. 5)."""
        q, k, v = rearrange(self.qkv(x), "b t (s h k) -> s b h t k", s=3, h=self.shape.num_heads).unbind(0)
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        return q * q.shape[-1] ** -0.5, k, v


class AttentionPool(nn.Module):
    """One learned query attends to the patches, then a residual MLP: `[B, N, D]` -> `[B, D]`; timm's state names."""

    def __init__(self, shape: Transformer) -> None:
        super().__init__()
        dim, self.shape = shape.embed_dim, shape
        self.latent = nn.Parameter(torch.empty(1, 1, dim))
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm = LayerNorm(dim)
        self.mlp = Mlp(dim, shape.mlp_dim, 0.0)

    def forward(self, patches: Tensor) -> Tensor:
        heads = self.shape.num_heads
        query = self.q(self.latent) * self.shape.head_dim**-0.5
        q = rearrange(query, "b t (h k) -> b h t k", h=heads).expand(len(patches), -1, -1, -1)
        k, v = rearrange(self.kv(patches), "b t (s h k) -> s b h t k", s=2, h=heads).unbind(0)
        pooled: Tensor = self.proj(rearrange(attend(q, k, v, None), "b h t k -> b t (h k)"))
        out: Tensor = pooled + self.mlp(self.norm(pooled))
        return out.squeeze(1)
