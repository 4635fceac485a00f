"""Principal components of the patch projection's filters, and their smoothness.

Source: Dosovitskiy et al. 2021, s4.5, Fig. 7 left.
Shapes: D filters (embed_dim), C channels, P patch side, K = min(D, C P P) components.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

HALF_NYQUIST = 0.25
"""Cycles per pixel; a sampled image has frequencies up to 0.5 along an axis."""
SPECTRUM_SIDE = 64
"""Filters are padded with zeros to this side, so that a patch of 4 pixels has more than three frequencies."""


def principal_filters(weight: Floats) -> tuple[Floats, Floats]:
    """Components `[K, C, P, P]` of unit length, leading first, and their shares of the variance `[K]`, in [0, 1].

    `weight` is `[D, C, P, P]`. Its D filters are the samples, and their mean is subtracted (principal components).
    """
    flat = weight.reshape(len(weight), -1)
    _, size, directions = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    power = size**2
    return directions.reshape(-1, *weight.shape[1:]), power / max(float(power.sum()), 1e-300)


def num_components(shares: Floats, total_share: float = 0.9) -> int:
    """The number of leading components with at least `total_share` of the variance."""
    return int(np.searchsorted(np.cumsum(shares), total_share - 1e-12) + 1)


def low_frequency_share(filters: Floats) -> Floats:
    """Share of the spectral energy below half the Nyquist radius, `[K]` in [0, 1], of filters `[K, C, P, P]`."""
    energy, radius = _spectrum(filters)
    return np.asarray(energy[:, radius < HALF_NYQUIST].sum(axis=1) / energy.sum(axis=(1, 2)))


def spectral_centroid(filters: Floats) -> Floats:
    """Mean radial frequency in cycles per pixel, weighted by energy, `[K]`, of filters `[K, C, P, P]`."""
    energy, radius = _spectrum(filters)
    return np.asarray((energy * radius).sum(axis=(1, 2)) / energy.sum(axis=(1, 2)))


def leading_smoothness(weight: Floats) -> float:
    """Low-frequency share in percent, mean over the leading quarter of the components of `weight [D, C, P, P]`."""
    components, _ = principal_filters(weight)
    leading = components[: max(1, len(components) // 4)]
    return 100.0 * float(low_frequency_share(leading).mean())


def _spectrum(filters: Floats) -> tuple[Floats, Floats]:
    """Energy `[K, S, S]` summed over channels, and the radius `[S, S]` of each frequency, cycles per pixel."""
    energy = (np.abs(np.fft.fft2(filters, s=(SPECTRUM_SIDE, SPECTRUM_SIDE))) ** 2).sum(axis=1)
    axis = np.fft.fftfreq(SPECTRUM_SIDE)
    return energy, np.hypot(axis[:, None], axis[None, :])
