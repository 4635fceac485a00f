"""Gaussian diffusion: the schedule of noise, noisy images, and sampling without further noise (DDIM) with guidance.

Source: Ho et al. 2020 (DDPM), section 2; Song et al. 2021 (DDIM), equation 12; Ho and Salimans 2022 for guidance.

Shapes: E stacked trials, B batch, C channels. Images are in [-1, 1] here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from vitbench.base.seeding import hash_indices
from vitbench.data.types import Floats, Ints

NUM_TIMESTEPS = 1000
FIRST_BETA, LAST_BETA = 1e-4, 2e-2

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The noise in images, at time steps, given classes."""


def signal_shares(device: torch.device | None = None) -> Tensor:
    """The share of an image's variance that is left after each time step, `[T]`: products of 1 - beta."""
    betas = torch.linspace(FIRST_BETA, LAST_BETA, NUM_TIMESTEPS, dtype=torch.float64, device=device)
    return (1 - betas).cumprod(0).float()


def normals(seed: int, stream: str, epoch: int, index: Ints, count: int) -> Floats:
    """Standard normal draws `[n, count]` for image indices `[n]`: a function of (seed, stream, epoch, index)."""
    lanes = (count + 1) // 2
    places = index[:, None] * lanes + np.arange(lanes)
    first, second = (hash_indices(seed, stream, epoch, places, lane) >> np.uint64(11) for lane in (0, 1))
    radius = np.sqrt(-2 * np.log((first.astype(np.float64) + 0.5) * 2.0**-53))
    angle = 2 * np.pi * second.astype(np.float64) * 2.0**-53
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :count].astype(np.float32)


def noisy(images: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """Images `[E, B, C, H, W]` after time steps `[E, B]`."""
    share = signal_shares(images.device)[timestep].view(*timestep.shape, 1, 1, 1)
    return share.sqrt() * images + (1 - share).sqrt() * noise


def guided(predict: Predict, guidance: float, no_class: int) -> Predict:
    """The prediction without a class, moved by `guidance` times its difference to that with the class; 1: the latter.

    Differs: all channels are guided; the published code leaves the fourth channel of its latent images out.
    """
    if guidance == 1.0:
        return predict

    def moved(images: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        without = predict(images, timestep, torch.full_like(label, no_class))
        return without + guidance * (predict(images, timestep, label) - without)

    return moved


def sample(predict: Predict, noise: Tensor, label: Tensor, num_steps: int) -> Tensor:
    """Images in [-1, 1] from noise `[..., B, C, H, W]` for classes `[..., B]`, in `num_steps` evenly spaced time steps.

    It draws nothing: equal noise gives equal images. Each step's guess of the image is cut to [-1, 1].
    """
    shares, images = signal_shares(noise.device), noise
    steps = torch.linspace(NUM_TIMESTEPS - 1, 0, num_steps).round().long().tolist()
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        share, after = shares[step], shares.new_ones(()) if following is None else shares[following]
        eps = predict(images, torch.full_like(label, step), label)
        clean = ((images - (1 - share).sqrt() * eps) / share.sqrt()).clamp(-1, 1)
        eps = (images - share.sqrt() * clean) / (1 - share).sqrt()
        images = after.sqrt() * clean + (1 - after).sqrt() * eps
    return images


def linear_error(images: Tensor) -> float:
    """The mean squared error of the best linear prediction of the noise, a mean over time steps.

    `images [n, C, H, W]` in [-1, 1] have the covariance from which it follows: in the direction of an eigenvalue v of
    it, and with the share a of the signal left, it is a v / (a v + 1 - a).
    """
    variances = torch.linalg.eigvalsh(torch.cov(images.flatten(1).double().T, correction=0)).clamp(min=0)
    share = signal_shares().double().unsqueeze(1)
    return float((share * variances / (share * variances + 1 - share)).mean())
