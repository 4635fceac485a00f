"""Predictions of a masked-patch model, drawn into the images.

Source: Dosovitskiy et al. 2021, App. B.1.2, the three targets; the drawing is ours.
Shapes: B images, N patches, P patch size, C channels, S side in pixels, g cells per side of a down-sampled patch.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from vitbench.train.losses import cells as cells_side
from vitbench.train.objectives.masked_patch import MaskedPatch

LEVELS = 8
"""Colour levels per channel; a class is painted in the middle of its level."""


def colours(classes: Tensor, in_chans: int) -> Tensor:
    """The colour `[..., C]` in [0, 1] in the middle of each class's level.

    A class is a number in base 8 with one digit per channel, the first channel's digit first.
    """
    digits = [classes // LEVELS ** (in_chans - 1 - channel) % LEVELS for channel in range(in_chans)]
    return (torch.stack(digits, dim=-1) + 0.5) / LEVELS


def painted(predicted: Tensor, objective: MaskedPatch, patch_px: int, mean: Tensor, std: Tensor) -> Tensor:
    """Predictions `[B, N, out]` as patches in [0, 1], `[B, N, P, P, C]`.

    `mean` and `std` (`[C, 1, 1]`) undo the standardisation of the `pixels` target.
    """
    in_chans = len(mean)
    if objective.target == "pixels":
        pixels = rearrange(predicted, "b n (p q c) -> b n p q c", p=patch_px, q=patch_px)
        return (pixels * std.flatten() + mean.flatten()).clamp(0, 1)
    cells = rearrange(predicted, "b n (t k) -> b n t k", k=LEVELS**in_chans).argmax(dim=-1)
    side = 1 if objective.target == "mean_colour" else cells_side(patch_px)
    colour = rearrange(colours(cells, in_chans), "b n (y x) c -> b n y x c", y=side)
    line = torch.arange(patch_px) * side // patch_px
    return colour[:, :, line][:, :, :, line]


def with_patches(images: Tensor, patches: Tensor, chosen: Tensor) -> Tensor:
    """Images `[B, C, S, S]` in which the `chosen` patches (bool `[B, N]`) come from `patches [B, N, P, P, C]`."""
    size, side = patches.shape[2], images.shape[-1] // patches.shape[2]
    original = rearrange(images, "b c (y p) (x q) -> b (y x) p q c", p=size, q=size)
    combined = torch.where(chosen[:, :, None, None, None], patches.to(original), original)
    return rearrange(combined, "b (y x) p q c -> b c (y p) (x q)", y=side)
