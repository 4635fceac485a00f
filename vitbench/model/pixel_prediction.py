"""Transformers that read pixels as entries of a palette, and that predict them.

Source: Chen et al. 2020 (iGPT), section 3 and the published code.

Shapes: B batch, C channels, N pixels, T tokens, D embed_dim, K entries of the palette.
"""

from __future__ import annotations

import torch
from einops import reduce
from torch import Tensor, nn

from vitbench.model.sizes import known
from vitbench.model.vit import Encoder
from vitbench.spec.trial import ModelSpec


class ColourEmbedding(nn.Module):
    """Images `[B, C, H, W]` -> tokens `[B, N, D]`: the vector of the palette's entry nearest to each pixel.

    Vectors are picked by a product with ones and zeros: the gradient of a lookup differs from run to run on a GPU.
    """

    palette: Tensor
    log_share: Tensor

    def __init__(self, model: ModelSpec, num_colours: int, has_start: bool) -> None:
        super().__init__()
        width, self.patch_size = known(model.embed_dim), known(model.patch_size)
        self.register_buffer("palette", torch.empty(num_colours, known(model.in_chans)))
        self.register_buffer("log_share", torch.empty(num_colours))
        self.embed = nn.Parameter(torch.empty(num_colours, width))
        self.start = nn.Parameter(torch.empty(1, 1, width)) if has_start else None

    def colours(self, images: Tensor) -> Tensor:
        """The entry of every pixel, `[B, N]`: the nearest one, the first one of a tie."""
        side = self.patch_size
        pixels = reduce(images.float(), "b c (y p) (x q) -> b (y x) c", "mean", p=side, q=side)
        distances = (pixels[:, :, :1] - self.palette[:, 0]) ** 2
        for channel in range(1, pixels.shape[2]):
            distances = distances + (pixels[:, :, channel : channel + 1] - self.palette[:, channel]) ** 2
        return distances.argmin(-1)

    def one_hot(self, colours: Tensor) -> Tensor:
        """`[B, N, K]`: 1 at the entry of each pixel, else 0."""
        entries = torch.arange(len(self.palette), device=colours.device)
        return (colours.unsqueeze(-1) == entries).to(self.embed.dtype)

    def forward(self, images: Tensor) -> Tensor:
        return self.embedded(self.colours(images))

    def embedded(self, colours: Tensor) -> Tensor:
        """Tokens `[B, N, D]` of entries `[B, N]`; with a start token the last entry is left out."""
        tokens = self.one_hot(colours) @ self.embed
        if self.start is None:
            return tokens
        return torch.cat([self.start.to(tokens.dtype).expand(len(tokens), -1, -1), tokens[:, :-1]], dim=1)


class PixelPredictor(Encoder):
    """Images, and for BERT which pixels are `hidden` -> nats per pixel, `[B, N, 2]`.

    The first number is the network's, the second one that of the palette's shares in the training images. With
    `after_pool` the final norm acts on every token, as it later does on their mean, so that its weights carry over.
    """

    patch_embed: ColourEmbedding

    def __init__(self, model: ModelSpec, patch_embed: nn.Module, num_colours: int) -> None:
        super().__init__(model, patch_embed)
        self.pixel_head = nn.Linear(known(model.embed_dim), num_colours, bias=False)

    def forward(self, images: Tensor, hidden: Tensor | None = None) -> Tensor:
        """`hidden [B, N]`: pixels whose vector is replaced by zeros."""
        colours = self.patch_embed.colours(images)
        log_p, right = self.logits(colours, hidden).float().log_softmax(-1), self.patch_embed.one_hot(colours)
        return -torch.stack([(log_p * right).sum(-1), (self.patch_embed.log_share * right).sum(-1)], dim=-1)

    def logits(self, colours: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Logits `[B, N, K]` of the pixels whose entries are `colours [B, N]`."""
        tokens = self.patch_embed.embedded(colours)
        if hidden is not None:
            tokens = tokens * (hidden == 0).unsqueeze(-1).to(tokens.dtype)
        out: Tensor = self.pixel_head(self.fc_norm(self.encode(tokens)[:, self.num_prefix_tokens :]))
        return out
