"""The Vision Transformer: patches, encoder, readout, head; and its variant that predicts masked patches.

Source: Dosovitskiy et al. 2021, section 3.1; App. B.1.2 for masked patch prediction. State names are timm's.
Differs: dropout follows the positions, attention's projection and both MLP layers, as in vit_jax, and is not at the
head (timm's `drop_rate` is the head's alone).

Shapes: B batch, C channels, N patches, T tokens (class token, distillation token, registers, patches), D embed_dim,
H heads, K head_dim, P patch size, L layers.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from vitbench.model.encoder_blocks import EncoderBlock, SideBySide, encoder_blocks, token_norm
from vitbench.model.layers import dropout
from vitbench.model.mechanisms import position_of, readout_of, stage_models
from vitbench.model.parameters import position_tables
from vitbench.model.placing import Rotation, register, spread
from vitbench.model.sizes import conv_stem_widths, known, norm_groups, transformer
from vitbench.spec.trial import ModelSpec

MASKED, REPLACED = 1, 2
"""Actions on a patch that change its embedding: the mask token, or another patch's embedding."""


class ConvStemLayers(nn.Module):
    """Images `[B, C, H, W]` -> tokens `[B, N, D]` by 3x3 stride-2 convolutions, then a 1x1.

    Source: Xiao et al. 2021, section 3. Differs: GroupNorm in place of BatchNorm, so that no image depends on the
    others of its batch. Remove one block to keep the compute equal.
    """

    def __init__(self, model: ModelSpec) -> None:
        super().__init__()
        width, layers = known(model.in_chans), []
        for out in conv_stem_widths(model):
            parts = {
                "conv": nn.Conv2d(width, out, 3, stride=2, padding=1, bias=False),
                "norm": nn.GroupNorm(norm_groups(out), out),
                "act": nn.ReLU(),
            }
            layers.append(nn.Sequential(OrderedDict(parts)))
            width = out
        self.stem = nn.Sequential(*layers)
        self.proj = nn.Conv2d(width, known(model.embed_dim), 1)

    def forward(self, images: Tensor) -> Tensor:
        tokens = rearrange(self.stem(images), "b c y x -> b (y x) c")
        return F.linear(tokens, self.proj.weight.flatten(1), self.proj.bias)


class Encoder(nn.Module):
    """Images `[B, C, H, W]` -> tokens `[B, T, D]`: what classifying and predicting patches share."""

    def __init__(self, model: ModelSpec, patch_embed: nn.Module) -> None:
        super().__init__()
        self.model, self.position, self.shape = model, position_of(model), (shape := transformer(model))
        self.num_prefix_tokens = shape.num_prefix
        self.cls_token = nn.Parameter(torch.empty(1, 1, shape.embed_dim)) if shape.class_token else None
        self.dist_token = nn.Parameter(torch.empty(1, 1, shape.embed_dim)) if shape.dist_token else None
        registers = (1, shape.num_registers, shape.embed_dim)
        self.reg_token = nn.Parameter(torch.empty(registers)) if shape.num_registers else None
        register(self, position_tables(model, 0))
        self.patch_embed = patch_embed
        self.pos_drop = dropout(model.drop_rate)
        self.blocks = encoder_blocks(model)
        self.stages = stage_models(model)
        final_norm = token_norm(model, known(self.stages[-1].embed_dim))
        self.norm = final_norm if model.final_norm == "before_pool" else nn.Identity()
        self.fc_norm = final_norm if model.final_norm == "after_pool" else nn.Identity()
        self.recompute = False
        """Keep only what enters each block, and run it again in the backward pass: less memory, a third more time."""

    def forward_features(self, images: Tensor) -> Tensor:
        """Tokens `[B, T, D]` after the last block and, with `before_pool`, the final norm."""
        return self.encode(self.patch_embed(images))

    def encode(self, patches: Tensor) -> Tensor:
        """Tokens `[B, T, D]` of embedded patches `[B, N, D]`."""
        return self.layers(self.placed_tokens(patches))

    def placed_tokens(self, patches: Tensor) -> Tensor:
        """Tokens `[B, T, D]` that enter the first block: the prefix tokens and the patches, with their positions."""
        return self._placed(self._with_prefix(patches), 0)

    def layers(self, x: Tensor) -> Tensor:
        """All blocks and the final norm, on what enters the first block."""
        for layer, (step, turn) in enumerate(self._in_order(x.device)):
            x = self._placed(x, layer) if layer > 0 else x
            x = _replayed(step, x, turn) if self.recompute and torch.is_grad_enabled() else step(x, turn)
        out: Tensor = self.norm(x)
        return out

    def attention(self, images: Tensor) -> Tensor:
        """Attention probabilities of every layer, `[L, B, H, T, T]`; a class token is token 0."""
        x = self._with_prefix(self.patch_embed(images))
        maps = []
        for layer, (step, turn) in enumerate(self._in_order(images.device)):
            x = self._placed(x, layer)
            for block in step if isinstance(step, SideBySide) else (step,):
                assert isinstance(block, EncoderBlock)
                maps.append(block.token_mixer.probabilities(block.norm1(x), turn))  # type: ignore[operator]
            x = step(x, turn)
        return torch.stack(maps)

    def _in_order(self, device: torch.device) -> list[tuple[nn.Module, Rotation | None]]:
        """What runs one after the other, each block or blocks side by side, with its rotation."""
        width, steps = self.model.parallel, list(self.blocks)
        if width > 1:
            steps = [SideBySide(steps[first : first + width]) for first in range(0, len(steps), width)]
        return list(zip(steps, self._rotations(device)[::width], strict=True))

    def _rotations(self, device: torch.device) -> list[Rotation | None]:
        """The rotation of queries and keys in every block; blocks of one stage share it."""
        turns = [[self.position.rotation(stage, device)] * known(stage.depth) for stage in self.stages]
        return [turn for of_stage in turns for turn in of_stage]

    def positions(self, layer: int, device: torch.device) -> Tensor | None:
        """What is added to the tokens before block `layer`, `[1, T, D]`, or None."""
        placement = self.model.pos_placement
        if layer > 0 and placement == "stem":
            return None
        owner = self.blocks[layer] if layer > 0 and placement == "every_layer" else self
        positions = self.position.added(owner, self.model, device)
        return None if positions is None else spread(positions, self.shape)

    def _with_prefix(self, patches: Tensor) -> Tensor:
        prefix = [token for token in (self.cls_token, self.dist_token, self.reg_token) if token is not None]
        if not prefix:
            return patches
        tokens = [token.to(patches.dtype).expand(patches.shape[0], -1, -1) for token in prefix]
        return torch.cat([*tokens, patches], dim=1)

    def _placed(self, x: Tensor, layer: int) -> Tensor:
        """`x` with the positions of this layer, and, at the stem, the dropout that follows them."""
        positions = self.positions(layer, x.device)
        x = x if positions is None else x + positions
        return self.pos_drop(x) if layer == 0 else x


def _replayed(block: nn.Module, x: Tensor, turn: Rotation | None) -> Tensor:
    """`block(x, turn)`, computed again for the gradient; with the weights of this call, which a stack only lends."""
    names, weights = zip(*block.named_parameters(), strict=True)

    def run(x: Tensor, *weights: Tensor) -> Tensor:
        out: Tensor = functional_call(block, dict(zip(names, weights, strict=True)), (x, turn))
        return out

    out: Tensor = checkpoint(run, x, *weights, use_reentrant=False)
    return out


class PooledEncoder(Encoder):
    """An encoder with its readout."""

    def __init__(self, model: ModelSpec, patch_embed: nn.Module) -> None:
        super().__init__(model, patch_embed)
        self.readout = readout_of(model)
        self.attn_pool = self.readout.module(self.stages[-1])

    def pooled(self, tokens: Tensor) -> Tensor:
        """One normalised feature vector per image, `[B, D]`, of tokens `[B, T, D]`."""
        out: Tensor = self.fc_norm(self.readout.pooled(tokens, self.num_prefix_tokens, self.attn_pool))
        return out


class ViT(PooledEncoder):
    """Images `[B, C, H, W]` -> logits `[B, num_classes]`."""

    def __init__(self, model: ModelSpec, patch_embed: nn.Module) -> None:
        super().__init__(model, patch_embed)
        width = known(self.stages[-1].embed_dim)
        self.representation = nn.Linear(width, width) if model.head == "mlp_tanh" else None
        self.head = nn.Linear(width, known(model.num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits `[B, num_classes]` of encoded tokens, or the features `[B, D]` before the classifier."""
        features = self.pooled(tokens)
        if self.representation is not None:
            features = torch.tanh(self.representation(features))
        out: Tensor = features if pre_logits else self.head(features)
        return out

    def pre_logits(self, images: Tensor) -> Tensor:
        """Features `[B, D]` before the classifier."""
        return self.forward_head(self.forward_features(images), pre_logits=True)


class DistilledViT(ViT):
    """A ViT whose distillation token has a head of its own.

    Training gives the logits of both heads, `[B, 2, num_classes]`; evaluation their mean, `[B, num_classes]`.
    Source: Touvron et al. 2021 (DeiT), section 4. Differs: the mean is of logits, as in timm; the paper adds softmaxes.
    """

    def __init__(self, model: ModelSpec, patch_embed: nn.Module) -> None:
        super().__init__(model, patch_embed)
        self.head_dist = nn.Linear(known(model.embed_dim), known(model.num_classes))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.forward_features(images)
        logits = torch.stack([self.forward_head(tokens), self.head_dist(self.fc_norm(tokens[:, 1]))], dim=1)
        return logits if self.training else logits.mean(dim=1)


class MaskedPatchViT(Encoder):
    """Corrupted images -> a prediction for every patch, `[B, N, out]`.

    Source: Dosovitskiy et al. 2021, App. B.1.2. With `after_pool` the final norm acts on every patch, as it later
    does on their pooled vector, so that its weights carry over.
    """

    def __init__(self, model: ModelSpec, patch_embed: nn.Module, num_outputs: int) -> None:
        super().__init__(model, patch_embed)
        self.mask_token = nn.Parameter(torch.empty(1, 1, known(model.embed_dim)))
        self.mpp_head = nn.Linear(known(model.embed_dim), num_outputs)

    def forward(self, images: Tensor, action: Tensor, source: Tensor) -> Tensor:
        """`action [B, N]`: 0 intact, 1 mask token, 2 the embedding of patch `source [B, N]`, 3 unchanged."""
        patches = self.patch_embed(self._with_replaced_patches(images, action, source))
        mask = self.mask_token.to(patches.dtype)
        tokens = self.encode(torch.where((action == MASKED).unsqueeze(-1), mask, patches))
        out: Tensor = self.mpp_head(self.fc_norm(tokens[:, self.num_prefix_tokens :]))
        return out

    def _with_replaced_patches(self, images: Tensor, action: Tensor, source: Tensor) -> Tensor:
        """Images whose replaced patches show their source: equal to replacing embeddings, but no gradient is scattered
        (a scatter's sums on a GPU differ from run to run)."""
        p = known(self.model.patch_size)
        pixels = rearrange(images, "b c (y p) (x q) -> b (y x) (c p q)", p=p, q=p)
        other = pixels.gather(1, source.long().unsqueeze(-1).expand(-1, -1, pixels.shape[-1]))
        shown = torch.where((action == REPLACED).unsqueeze(-1), other, pixels)
        rows = images.shape[-2] // p
        return rearrange(shown, "b (y x) (c p q) -> b c (y p) (x q)", y=rows, p=p, q=p)
