"""Common corruptions of images in [0, 1]: noise, blur (torchvision's), JPEG (Pillow's).

Differs: Hendrycks & Dietterich 2019 (ImageNet-C) have 15 kinds. These are the three that need no further library. The
levels 1, 2 and 3 are ours, and the blur is scaled with the image's side.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

NOISE_SD = (0.05, 0.1, 0.2)
BLUR_SHARE = (1 / 56, 1 / 28, 1 / 14)
"""Standard deviation of the blur as a share of the side: half a pixel, 1 and 2 pixels on 28."""
JPEG_QUALITY = (50, 20, 8)


def gaussian_noise(images: Tensor, level: int, seed: int) -> Tensor:
    """Images with normal noise on every value, clamped to [0, 1]."""
    draws = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + NOISE_SD[level - 1] * draws.to(images)).clamp(0, 1)


def gaussian_blur(images: Tensor, level: int, seed: int) -> Tensor:
    """Images smoothed with a Gaussian."""
    from torchvision.transforms.v2 import functional

    sigma = BLUR_SHARE[level - 1] * images.shape[-1]
    kernel = min(2 * round(3 * sigma) + 1, images.shape[-1] - 1 + images.shape[-1] % 2)
    blurred: Tensor = functional.gaussian_blur(images, [kernel, kernel], [sigma, sigma])
    return blurred


def jpeg(images: Tensor, level: int, seed: int) -> Tensor:
    """Images after JPEG compression."""
    from PIL import Image

    out = []
    for pixels in (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(
            file, "jpeg", quality=JPEG_QUALITY[level - 1]
        )
        out.append(torch.from_numpy(np.array(Image.open(file))).reshape(pixels.shape))
    return torch.stack(out).permute(0, 3, 1, 2).to(images) / 255


CORRUPTIONS: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "noise": gaussian_noise,
    "blur": gaussian_blur,
    "jpeg": jpeg,
}
"""Each takes images `[B, C, S, S]`, a level and a seed."""
