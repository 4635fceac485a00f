"""An image encoder and a word encoder that end in one space.

Source: Radford et al. 2021 (CLIP), section 2 and the published code. Differs: GELU is exact, and no norm stands before
the image encoder's first block.

Shapes: B batch, V captions per image, L words, D width of the words, K outputs.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitbench.model.encoder_blocks import EncoderBlock
from vitbench.model.layers import LayerNorm
from vitbench.model.sizes import known, transformer
from vitbench.model.vit import PooledEncoder
from vitbench.spec.trial import ModelSpec

LARGEST_SCALE = math.log(100)


def rows_of(table: Tensor, numbers: Tensor) -> Tensor:
    """The rows `[..., D]` of a table at `numbers [...]`.

    They are picked by a product with ones and zeros: the gradient of a lookup differs from run to run on a GPU.
    """
    one_hot = numbers.unsqueeze(-1) == torch.arange(len(table), device=numbers.device)
    return one_hot.to(table.dtype) @ table


class WordEncoder(nn.Module):
    """Captions `[B, L]` -> the last word's vector, projected: `[B, K]`."""

    def __init__(self, words: ModelSpec, vocab_size: int, outputs: int) -> None:
        super().__init__()
        shape = transformer(words)
        self.embed = nn.Parameter(torch.empty(vocab_size, shape.embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, shape.num_tokens, shape.embed_dim))
        self.blocks = nn.ModuleList(EncoderBlock(words, layer) for layer in range(shape.depth))
        self.norm = LayerNorm(shape.embed_dim, words.norm_eps)
        self.proj = nn.Linear(shape.embed_dim, outputs, bias=False)

    def forward(self, captions: Tensor) -> Tensor:
        x = rows_of(self.embed, captions) + self.pos_embed
        for block in self.blocks:
            x = block(x, None)
        out: Tensor = self.proj(self.norm(x)[:, -1])
        return out


class ImageTextEncoder(PooledEncoder):
    """Images and V captions each -> vectors `[B, 1 + V, K]` of length 1, the image's times the learned scale.

    So the products of the first row with the others are the logits.
    """

    def __init__(
        self, model: ModelSpec, patch_embed: nn.Module, words: ModelSpec, vocab_size: int, outputs: int
    ) -> None:
        super().__init__(model, patch_embed)
        self.image_proj = nn.Linear(known(model.embed_dim), outputs, bias=False)
        self.text = WordEncoder(words, vocab_size, outputs)
        self.logit_scale = nn.Parameter(torch.empty(1))

    def forward(self, images: Tensor, captions: Tensor) -> Tensor:
        """`captions [B, V, L]`: the numbers of their words."""
        pixels = self.image_proj(self.pooled(self.forward_features(images)))
        words = self.text(captions.flatten(0, 1)).unflatten(0, captions.shape[:2])
        scale = self.logit_scale.clamp(max=LARGEST_SCALE).exp()
        return torch.cat(
            [scale * F.normalize(pixels.float(), dim=-1).unsqueeze(1), F.normalize(words.float(), dim=-1)], 1
        )
