"""Remove information from images: blank or shuffle cells, remove frequencies, scramble local phases.

Images are in [0, 1]. Every draw is an argument, so that all arms and seeds get the same damaged images.
Source: Naseer et al. 2021 (dropped and shuffled patches); phase scrambling as a proxy of stylised images.
Shapes: B images, C channels, S side in pixels, k cells per side.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor


def cell_of_pixel(side_px: int, cells: int) -> Tensor:
    """The raster index of each pixel's cell, `[S, S]`; cells differ by a pixel if k does not divide S."""
    line = torch.arange(side_px) * cells // side_px
    return line[:, None] * cells + line[None, :]


def drop_cells(images: Tensor, dropped: Tensor, fill: Tensor) -> Tensor:
    """Images `[B, C, S, S]` whose cells `dropped` (bool `[B, k k]`) show `fill` (`[C, 1, 1]`) instead."""
    cells = round(dropped.shape[1] ** 0.5)
    mask = dropped[:, cell_of_pixel(images.shape[-1], cells)].unsqueeze(1)
    return torch.where(mask, fill, images)


def first_of(order: Tensor, ratio: float) -> Tensor:
    """Bool `[B, k k]`: in each row, the round(ratio k k) cells with the smallest values of `order`."""
    count = round(ratio * order.shape[1])
    return order.argsort(dim=1, stable=True).argsort(dim=1) < count


def contrast(images: Tensor, cells: int) -> Tensor:
    """Variance of the pixels in each cell, `[B, k k]`: a saliency without a model, so all arms lose the same cells."""
    index = cell_of_pixel(images.shape[-1], cells).flatten()
    one_hot = torch.nn.functional.one_hot(index, cells * cells).to(images.dtype)
    flat = images.mean(dim=1).flatten(1)
    count = one_hot.sum(dim=0)
    mean = flat @ one_hot / count
    return (flat**2) @ one_hot / count - mean**2


def shuffle_cells(images: Tensor, order: Tensor, shift_px: int = 0) -> Tensor:
    """Images `[B, C, S, S]` whose cell i shows cell `order[b, i]` (`[B, k k]`, k divides S).

    `shift_px` moves the cells to the right and down, around the edge, so that they do not align with a model's patches.
    """
    cells = round(order.shape[1] ** 0.5)
    moved = images.roll((-shift_px, -shift_px), dims=(2, 3))
    pieces = rearrange(moved, "b c (y p) (x q) -> b (y x) c p q", y=cells, x=cells)
    index = repeat(order, "b n -> b n c p q", c=pieces.shape[2], p=pieces.shape[3], q=pieces.shape[4])
    mixed = rearrange(pieces.gather(1, index), "b (y x) c p q -> b c (y p) (x q)", y=cells)
    return mixed.roll((shift_px, shift_px), dims=(2, 3))


def low_pass(images: Tensor, share: float) -> Tensor:
    """Images without the radial frequencies of `share` x Nyquist and above, clamped to [0, 1]."""
    return _keep(images, _radius(images.shape[-1]) < share / 2).clamp(0, 1)


def high_pass(images: Tensor, share: float) -> Tensor:
    """Images without the radial frequencies below `share` x Nyquist, around each image's mean, clamped to [0, 1]."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return (mean + _keep(images, _radius(images.shape[-1]) >= share / 2)).clamp(0, 1)


def scramble_phase(images: Tensor, draws: Tensor) -> Tensor:
    """Images whose cells keep the amplitudes of their spectra and get the phases of white noise, clamped to [0, 1].

    `draws [B, S, S]` in [0, 1) is the noise, the same for all channels, so that colours are kept. Images and noise are
    cut into k x k cells, where k is the largest of 4, 3, 2 and 1 that divides S.
    """
    cells = next(k for k in (4, 3, 2, 1) if images.shape[-1] % k == 0)
    spectra, noise = (
        torch.fft.fft2(rearrange(x, "b c (y p) (x q) -> b c y x p q", y=cells, x=cells))
        for x in (images, draws.unsqueeze(1).to(images.dtype))
    )
    turned = spectra.abs() * torch.exp(1j * noise.angle())
    turned[..., 0, 0] = spectra[..., 0, 0]  # Each cell keeps its mean.
    back: Tensor = rearrange(torch.fft.ifft2(turned).real, "b c y x p q -> b c (y p) (x q)")
    return back.clamp(0, 1)


def _radius(side_px: int) -> Tensor:
    """Radial frequency in cycles per pixel, `[S, S]`."""
    axis = torch.fft.fftfreq(side_px)
    return torch.hypot(axis[:, None], axis[None, :])


def _keep(images: Tensor, mask: Tensor) -> Tensor:
    kept: Tensor = torch.fft.ifft2(torch.fft.fft2(images) * mask.to(images.device)).real
    return kept
