"""One encoder over the words of a caption and the patches of an image.

Source: Kim et al. 2021 (ViLT), section 3 and the published code.

Shapes: B batch, L words, N patches, T tokens (words, prefix tokens, patches), D embed_dim, V words of the vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitbench.model.image_text import rows_of
from vitbench.model.layers import LayerNorm, dropout
from vitbench.model.sizes import known
from vitbench.model.vit import Encoder
from vitbench.spec.trial import ModelSpec

TEXT, IMAGE = 0, 1
"""Rows of the modality embedding."""


class Fused(NamedTuple):
    """What the network says of a caption and an image; leading axes are those of its output.

    `match [..., 2]`: logits of no and yes. `words [..., L, V]`: logits of each word. `text [..., L, D]` and
    `patches [..., N, D]`: the encoded tokens.
    """

    match: Tensor
    words: Tensor
    text: Tensor
    patches: Tensor


def parts(outputs: Tensor, num_words: int, vocab_size: int, width: int) -> Fused:
    """The parts of the network's output `[..., 2 + L V + L D + N D]`."""
    sizes = [2, num_words * vocab_size, num_words * width]
    match, words, text, patches = torch.split(outputs, [*sizes, outputs.shape[-1] - sum(sizes)], dim=-1)
    head = outputs.shape[:-1]
    return Fused(
        match,
        words.reshape(*head, num_words, vocab_size),
        text.reshape(*head, num_words, width),
        patches.reshape(*head, -1, width),
    )


class WordEmbedding(nn.Module):
    """Captions `[B, L]` -> tokens `[B, L, D]`: word and position, normalised. Source: Devlin et al. 2019 (BERT)."""

    def __init__(self, model: ModelSpec, vocab_size: int, num_words: int) -> None:
        super().__init__()
        width = known(model.embed_dim)
        self.embed = nn.Parameter(torch.empty(vocab_size, width))
        self.pos_embed = nn.Parameter(torch.empty(1, num_words, width))
        self.norm = LayerNorm(width, model.norm_eps)
        self.drop = dropout(model.drop_rate)

    def forward(self, captions: Tensor) -> Tensor:
        out: Tensor = self.drop(self.norm(rows_of(self.embed, captions) + self.pos_embed))
        return out


class WordHead(nn.Module):
    """Encoded words `[B, L, D]` -> logits `[B, L, V]`. Source: Devlin et al. 2019; weights of words are not shared."""

    def __init__(self, model: ModelSpec, vocab_size: int) -> None:
        super().__init__()
        width = known(model.embed_dim)
        self.transform = nn.Linear(width, width)
        self.norm = LayerNorm(width, model.norm_eps)
        self.decoder = nn.Linear(width, vocab_size)

    def forward(self, words: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.norm(F.gelu(self.transform(words))))
        return out


class FusedEncoder(Encoder):
    """Images `[B, C, H, W]` and captions `[B, L]` -> what `parts` takes apart, `[B, 2 + L V + L D + N D]`."""

    def __init__(self, model: ModelSpec, patch_embed: nn.Module, vocab_size: int, num_words: int) -> None:
        super().__init__(model, patch_embed)
        width = known(model.embed_dim)
        self.num_words = num_words
        self.text = WordEmbedding(model, vocab_size, num_words)
        self.modality_embed = nn.Parameter(torch.empty(2, width))
        self.pooler = nn.Linear(width, width)
        self.match_head = nn.Linear(width, 2)
        self.word_head = WordHead(model, vocab_size)

    def fused(self, images: Tensor, captions: Tensor) -> Tensor:
        """Encoded tokens `[B, T, D]`: words, then prefix tokens and patches."""
        words = self.text(captions) + self.modality_embed[TEXT]
        image = self.placed_tokens(self.patch_embed(images)) + self.modality_embed[IMAGE]
        out: Tensor = self.fc_norm(self.layers(torch.cat([words.to(image.dtype), image], dim=1)))
        return out

    def forward(self, images: Tensor, captions: Tensor) -> Tensor:
        tokens = self.fused(images, captions)
        words, patches = tokens[:, : self.num_words], tokens[:, self.num_words + self.num_prefix_tokens :]
        match = self.match_head(torch.tanh(self.pooler(tokens[:, 0])))
        return torch.cat([part.flatten(1).float() for part in (match, self.word_head(words), words, patches)], dim=1)
