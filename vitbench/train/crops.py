"""Crops of random size that objectives compare: each a function of (seed, view, epoch, index).

E stacked trials, B batch, C channels.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitbench.base.seeding import uniforms
from vitbench.model.objective import MemberBatch

MAX_ASPECT = 4 / 3


def crop_boxes(batch: MemberBatch, view: int, least: float, most: float) -> np.ndarray:
    """Boxes `[B, 4]` (left, top, right, bottom) of one view, as shares of the image's sides.

    The area is uniform from `least` to `most` of the image's, the aspect log-uniform from 3:4 to 4:3 of its own.
    Source: Szegedy et al. 2015, section 6. Differs: a crop that is too long is shortened to the image's side.
    """
    draws = np.zeros((len(batch.index), 4))
    for epoch in np.unique(batch.epoch):
        chosen = batch.epoch == epoch
        draws[chosen] = uniforms(batch.seed, f"crop/{view}", int(epoch), batch.index[chosen], 4)
    across, down, share, shape = draws.T
    area, aspect = least + (most - least) * share, MAX_ASPECT ** (2 * shape - 1)
    width, height = np.minimum(1, np.sqrt(area * aspect)), np.minimum(1, np.sqrt(area / aspect))
    left, top = across * (1 - width), down * (1 - height)
    return np.stack([left, top, left + width, top + height], axis=1).astype(np.float32)


def zoomed(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The boxes `[E, B, 4]` of images `[E, B, C, H, W]`, resized to `size` (height, width) bilinearly."""
    flat = images.flatten(0, 1)
    left, top, right, bottom = boxes.flatten(0, 1).to(flat.dtype).unbind(1)
    zero = torch.zeros_like(left)
    rows = torch.stack([right - left, zero, left + right - 1], dim=1)
    columns = torch.stack([zero, bottom - top, top + bottom - 1], dim=1)
    grid = F.affine_grid(torch.stack([rows, columns], dim=1), [*flat.shape[:2], *size], align_corners=False)
    out = F.grid_sample(flat, grid, padding_mode="border", align_corners=False)
    return out.view(*images.shape[:3], *size)
