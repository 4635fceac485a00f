"""Adversarial patch: one small picture that makes a classifier err at any place, by projected gradient ascent.

Source: Brown et al. 2017 (adversarial patch); Naseer et al. 2021 (the same for ViTs).
Shapes: B images, C channels, S side in pixels, s side of the patch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

BATCH = 64


def paste(images: Tensor, patch: Tensor, corners: Tensor) -> Tensor:
    """Images `[B, C, S, S]` with `patch [C, s, s]` at `corners [B, 2]` (top, left); differentiable in the patch."""
    side, full = patch.shape[-1], images.shape[-1]
    line = torch.arange(full, device=images.device)
    rows, columns = (line[None] - corners[:, axis, None].to(line) for axis in (0, 1))
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None, :]
    shown = patch[:, rows.clamp(0, side - 1)[:, :, None], columns.clamp(0, side - 1)[:, None, :]].transpose(0, 1)
    return torch.where(inside.unsqueeze(1), shown, images)


def random_corners(num: int, side_px: int, patch_px: int, generator: torch.Generator) -> Tensor:
    """Corners `[num, 2]` at which the whole patch lies inside the image."""
    return torch.randint(0, side_px - patch_px + 1, (num, 2), generator=generator)


def has_gradient(logits: Callable[[Tensor], Tensor], images: Tensor) -> bool:
    """False if a network looks pixels up, as entries of a palette, so that its answers change in jumps."""
    pixels = images[:1].clone().requires_grad_(True)
    with torch.enable_grad():
        answers = logits(pixels)
        return answers.requires_grad and torch.autograd.grad(answers.sum(), pixels, allow_unused=True)[0] is not None


def universal_patch(
    logits: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, patch_px: int, num_steps: int, seed: int
) -> Tensor:
    """The patch `[C, s, s]` in [0, 1] that raises the loss most on `images` in [0, 1] with `labels [B]`.

    Sign-gradient steps shrink linearly from 0.1, on batches with new random places, and are projected onto [0, 1].
    Evaluate the patch on other images.
    """
    generator = torch.Generator().manual_seed(seed)
    patch = torch.rand((images.shape[1], patch_px, patch_px), generator=generator).to(images)
    for number in range(num_steps):
        picked = torch.randperm(len(images), generator=generator)[:BATCH]
        corners = random_corners(len(picked), images.shape[-1], patch_px, generator)
        patch.requires_grad_(True)
        with torch.enable_grad():
            loss = F.cross_entropy(logits(paste(images[picked], patch, corners)), labels[picked])
            (gradient,) = torch.autograd.grad(loss, patch)
        size = 0.1 * (1 - number / num_steps)
        patch = (patch.detach() + size * gradient.sign()).clamp(0, 1)
    return patch.detach()
