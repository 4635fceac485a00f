"""Random erasing: a rectangle of an image shows noise or one colour, as a function of the image's draws.

B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ERASE_LANES = 6
"""Whether to erase, area, aspect, row, column, and the noise's seed."""
ERASED_AREA, ERASED_ASPECT = (0.02, 1 / 3), 0.3


def erase(pixels: Tensor, draws: Tensor, probability: float, mode: str) -> Tensor:
    """Standardised images `[B, C, H, W]` of which a share `probability` loses a rectangle, by draws `[B, 6]`.

    The rectangle has 2% to a third of the area and an aspect from 0.3 to 1 / 0.3. It shows normal noise (`pixel`), one
    normal colour (`rand`) or the mean colour (`const`). Source: Zhong et al. 2020, with timm's ranges.
    Differs: a rectangle that is too long is shortened to the image's side, where the originals draw again.
    """
    apply, area, aspect, down, across, noise = draws.unbind(1)
    height, width = pixels.shape[-2:]
    target = (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * area) * (height * width)
    ratio = torch.exp((2 * aspect - 1) * math.log(1 / ERASED_ASPECT))
    rows = (target * ratio).sqrt().round().clamp(1, height)
    columns = (target / ratio).sqrt().round().clamp(1, width)
    top, left = (down * (height - rows + 1)).floor(), (across * (width - columns + 1)).floor()
    box = torch.stack([top, top + rows, left, left + columns], dim=-1)
    hit = inside_boxes(box, height, width) & (apply < probability)[:, None, None]
    return torch.where(hit.unsqueeze(1), _fill(pixels, noise, mode), pixels)


def _fill(pixels: Tensor, noise: Tensor, mode: str) -> Tensor:
    """What erased pixels show, `[B, C, H, W]` or of a shape that expands to it: a function of `noise [B]`."""
    if mode == "const":
        return pixels.new_zeros(1)
    shape = pixels.shape[1:] if mode == "pixel" else (pixels.shape[1], 1, 1)
    place = torch.arange(math.prod(shape), device=pixels.device).view(1, *shape)
    bits = _hashed(place + (noise * 2**24).long().view(-1, 1, 1, 1) * 2**32)
    uniform = (bits.to(torch.float32) + 0.5) / 2**23
    return math.sqrt(2) * torch.erfinv(2 * uniform - 1)


def _hashed(x: Tensor) -> Tensor:
    """23 random bits for each int64, by SplitMix64's finaliser: the same on every device."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ _shifted(x, shift)) * factor
    return _shifted(x ^ _shifted(x, 31), 41)


def _shifted(x: Tensor, by: int) -> Tensor:
    """A logical shift to the right; torch's is arithmetic."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def inside_boxes(box: Tensor, height: int, width: int) -> Tensor:
    """Which pixels lie in the box, `[..., H, W]`, of boxes `[..., 4]` (top, bottom, left, right)."""
    top, bottom, left, right = box.unsqueeze(-2).unbind(-1)
    rows, columns = (torch.arange(length, device=box.device) for length in (height, width))
    return ((rows >= top) & (rows < bottom)).unsqueeze(-1) & ((columns >= left) & (columns < right)).unsqueeze(-2)
