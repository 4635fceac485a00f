"""Tensors whose first values are measured on training images, such as a palette.

n images, C channels, H height, W width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vitbench.model.mechanisms import patch_embed_of
from vitbench.model.palette import Floats, TrainingPixels
from vitbench.spec.trial import ModelSpec
from vitbench.train.image_source import ImageSource

MOST_IMAGES = 2048
"""Training images that are read, evenly spaced in the set's order."""
BATCH = 512


def fitted_tensors(model: ModelSpec, images: ImageSource) -> dict[str, Tensor]:
    """{name in the model: values} on the CPU, a function of the model and of the set's training images.

    They are the same for every seed, like the mean and the deviation by which images are standardised; test images are
    never read. Nothing is read for a model without such tensors.
    """
    if model.family == "resnet":
        return {}

    def pixels() -> Floats:
        number = len(images.train_labels)
        index = np.linspace(0, number - 1, min(number, MOST_IMAGES)).round().astype(np.int64)
        parts = [images.standardise(unit[0]).cpu() for unit in images.read("train", index[None], BATCH)]
        return torch.cat(parts).numpy()

    def standardised(unit: Floats) -> Floats:
        return images.standardise(torch.from_numpy(unit).to(images.mean.device)).cpu().numpy()

    fitted = patch_embed_of(model).fitted(model, TrainingPixels(pixels, standardised))
    return {f"patch_embed.{name}": torch.from_numpy(values) for name, values in fitted.items()}
