"""Readouts: how the tokens become one feature vector an image.

Source: Dosovitskiy et al. 2021, App. D.3, Fig. 9 (token and avg); Zhai et al. 2022 (map).
Shapes: B batch, T tokens, N patches, D embed_dim, H heads, K head_dim.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from vitbench.model.layers import LayerNorm, Mlp, attend
from vitbench.model.sizes import Transformer


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
