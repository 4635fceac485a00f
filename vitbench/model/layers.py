"""The layers that the encoder and the readouts share: norm, MLP, attention's product, dropout, stochastic depth.

Shapes: B batch, T tokens, D embed_dim, H heads, K head_dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """LayerNorm; the default epsilon is that of vit_jax and of timm's ViT."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__(dim, eps=eps)


class RmsNorm(nn.Module):
    """Tokens `[..., D]` divided by the root of their mean square, then scaled per channel.

    Source: Zhang and Sennrich 2019; as in iGPT's code (Chen et al. 2020).
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.empty(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        mean_square = x.float().square().mean(-1, keepdim=True)
        return (x * torch.rsqrt(mean_square + self.eps)).to(x.dtype) * self.weight


class GroupNorm(nn.GroupNorm):
    """Tokens `[B, T, D]` of each image, normalised over tokens and channels together, then scaled per channel.

    Source: Yu et al. 2022 (PoolFormer), section 3. Its epsilon, 1e-5, is torch's default.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(1, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x.transpose(1, 2))
        return out.transpose(1, 2)


class LayerScale(nn.Module):
    """A learned factor per channel. Source: Touvron et al. 2021 (CaiT), section 2; the state name is timm's."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(dim))

    def forward(self, branch: Tensor) -> Tensor:
        return branch * self.gamma


def dropout(rate: float) -> nn.Module:
    """Dropout, or nothing at rate 0, so that a model without it draws no random numbers."""
    return nn.Dropout(rate) if rate > 0 else nn.Identity()


class Mlp(nn.Module):
    """Two layers with GELU between, dropout after each: `[..., D]` -> `[..., D]`.

    Differs: GELU is exact, as in timm, unless `approximate`; vit_jax uses its tanh approximation.
    """

    def __init__(self, dim: int, hidden: int, drop_rate: float, *, approximate: bool = False) -> None:
        super().__init__()
        self.gelu = "tanh" if approximate else "none"
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.drop(self.fc2(self.drop(F.gelu(self.fc1(x), approximate=self.gelu))))
        return out


class StochasticDepth(nn.Module):
    """In training, drops a residual branch for a share of the images and scales up the others; draws on the device."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return branch
        draws = torch.rand(branch.shape[0], *[1] * (branch.dim() - 1), device=branch.device)
        return branch * (draws >= self.rate).to(branch.dtype) / (1 - self.rate)


def depth_rates(drop_path_rate: float, num_blocks: int) -> list[float]:
    """Stochastic depth's rate per block, from 0 at the first linearly to `drop_path_rate` at the last."""
    return [drop_path_rate * block / max(1, num_blocks - 1) for block in range(num_blocks)]


def probabilities(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """Attention `[B, H, T, T]` of scaled queries and keys `[B, H, T, K]`; `bias` is added to the logits."""
    logits = q @ k.transpose(-2, -1)
    return (logits if bias is None else logits + bias).softmax(dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Values `[B, H, T, K]` averaged with the attention of scaled queries.

    On a CPU the products are written out: the fused kernel has no batching rule there, so a stack of models would
    run it one by one, and at up to 65 tokens it is no faster (measured, torch 2.15).
    """
    if q.device.type == "cpu":
        return probabilities(q, k, bias) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)


class PatchProjection(nn.Module):
    """Images `[B, C, Y p, X p]` -> tokens `[B, Y X, D]`: a convolution whose stride is its kernel, then any norm.

    It runs as the matrix product that it is: so it stacks (vmap) without a grouped convolution.
    """

    def __init__(self, in_width: int, dim: int, patch_size: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_width, dim, patch_size, stride=patch_size)
        self.norm = norm or nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        p = self.patch_size
        patches = rearrange(images, "b c (y p) (x q) -> b (y x) (c p q)", p=p, q=p)
        out: Tensor = self.norm(F.linear(patches, self.proj.weight.flatten(1), self.proj.bias))
        return out


class OverlappingProjection(nn.Module):
    """Images `[B, C, Y p, X p]` -> tokens `[B, Y X, D]`: a convolution of stride p and kernel 2 p - 1."""

    def __init__(self, in_width: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_width, dim, 2 * patch_size - 1, stride=patch_size, padding=patch_size // 2)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = rearrange(self.proj(images), "b d y x -> b (y x) d")
        return out


class MergeOverlapping(OverlappingProjection):
    """Tokens `[B, 2 Y 2 X, D]` of a grid -> tokens `[B, Y X, D']`, each of which sees 3 x 3 of them."""

    def __init__(self, rows: int, in_width: int, dim: int) -> None:
        super().__init__(in_width, dim, 2)
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(rearrange(x, "b (y x) d -> b d y x", y=self.rows))


class MergePatches(nn.Module):
    """Tokens `[B, 2 Y 2 X, D]` of a grid -> tokens `[B, Y X, D']`, each made of 2 x 2 of them.

    The four parts stand in the order of Swin's code: down the first column, then down the second.
    """

    def __init__(self, rows: int, in_width: int, dim: int, norm_eps: float) -> None:
        super().__init__()
        self.rows = rows
        self.norm = LayerNorm(4 * in_width, norm_eps)
        self.reduction = nn.Linear(4 * in_width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        fours = rearrange(x, "b (y p x q) d -> b (y x) (q p d)", y=self.rows // 2, p=2, q=2)
        out: Tensor = self.reduction(self.norm(fours))
        return out
