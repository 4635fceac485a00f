"""The masked autoencoder: an encoder that sees some of the patches, and a small decoder that paints the others.

Source: He et al. 2022, section 3. State names are those of the published code.

Shapes: B batch, N patches, V visible patches, T tokens (prefix tokens first), D embed_dim of the encoder, Q embed_dim
of the decoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitbench.model.encoder_blocks import EncoderBlock
from vitbench.model.layers import LayerNorm
from vitbench.model.mechanisms import position_of
from vitbench.model.placing import spread
from vitbench.model.sizes import known, transformer
from vitbench.model.vit import Encoder
from vitbench.spec.trial import ModelSpec


class MaskedAutoencoder(Encoder):
    """Images and the rank of each patch -> a prediction for every patch, `[B, N, out]`.

    Patches of the ranks 0 to V - 1 are visible. With `masks_encoded` the encoder sees mask tokens in place of the
    others, as BERT does; otherwise only the decoder does.
    """

    def __init__(
        self, model: ModelSpec, patch_embed: nn.Module, decoder: ModelSpec, num_visible: int, masks_encoded: bool
    ) -> None:
        super().__init__(model, patch_embed)
        width, shape = known(decoder.embed_dim), transformer(decoder)
        self.num_visible, self.masks_encoded = num_visible, masks_encoded
        mask_width = known(model.embed_dim) if masks_encoded else width
        self.mask_token = nn.Parameter(torch.empty(1, 1, mask_width))
        self.decoder_embed = nn.Linear(known(model.embed_dim), width)
        self.decoder, self.decoder_shape = decoder, shape
        self.decoder_blocks = nn.ModuleList(EncoderBlock(decoder, layer) for layer in range(shape.depth))
        self.decoder_norm = LayerNorm(width, decoder.norm_eps)
        self.decoder_pred = nn.Linear(width, known(model.patch_size) ** 2 * known(model.in_chans))

    def forward(self, images: Tensor, rank: Tensor) -> Tensor:
        """`rank [B, N]`: the place of each patch in the order in which patches stay visible, a permutation."""
        patches = self.patch_embed(images)
        if self.masks_encoded:
            hidden = (rank >= self.num_visible).unsqueeze(-1)
            return self.decode(self.encode(torch.where(hidden, self.mask_token.to(patches.dtype), patches)))
        tokens = self.layers(self.visible(self.placed_tokens(patches), rank))
        return self.decode(tokens, rank)

    def visible(self, tokens: Tensor, rank: Tensor) -> Tensor:
        """The prefix tokens and the visible patches of `tokens [B, T, D]`, in the order of their ranks."""
        prefix, patches = tokens[:, : self.num_prefix_tokens], tokens[:, self.num_prefix_tokens :]
        return torch.cat([prefix, _picked(patches, rank.argsort(dim=1)[:, : self.num_visible])], dim=1)

    def decode(self, tokens: Tensor, rank: Tensor | None = None) -> Tensor:
        """Predictions `[B, N, out]` of encoded tokens; with `rank` mask tokens take the places of hidden patches."""
        x = self.decoder_embed(self.fc_norm(tokens))
        if rank is not None:
            prefix, patches = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
            masks = self.mask_token.to(x.dtype).expand(len(x), rank.shape[1] - self.num_visible, -1)
            x = torch.cat([prefix, _picked(torch.cat([patches, masks], dim=1), rank)], dim=1)
        x = x + self.decoder_positions(x.device)
        for block in self.decoder_blocks:
            x = block(x, None)
        out: Tensor = self.decoder_pred(self.decoder_norm(x[:, self.num_prefix_tokens :]))
        return out

    def decoder_positions(self, device: torch.device) -> Tensor:
        """What is added to the decoder's tokens, `[1, T, Q]`."""
        positions = position_of(self.decoder).added(self, self.decoder, device)
        assert positions is not None
        return spread(positions, self.decoder_shape)


def _picked(patches: Tensor, index: Tensor) -> Tensor:
    """The patches `[B, N, D]` at `index [B, V]`, each at most once, so that no two gradients meet."""
    return patches.gather(1, index.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))
