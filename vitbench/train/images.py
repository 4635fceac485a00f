"""The images of one data spec on the training device, as uint8, with what standardises them.

n images, C channels, H side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitbench.data import DataOptions, ImageData, channel_stats, open_images, partition, resident
from vitbench.spec import DataSpec


@dataclass(frozen=True)
class Images:
    """Training and test images `uint8 [n, C, H, H]` on the device; labels on the CPU, as the data set numbers them."""

    train: Tensor
    test: Tensor
    train_labels: np.ndarray
    test_labels: np.ndarray
    mean: Tensor
    std: Tensor
    num_classes: int
    fingerprint: str

    def standardise(self, unit: Tensor) -> Tensor:
        """Images in [0, 1] `[..., C, H, H]` to zero mean and unit deviation, as measured on the training images."""
        return (unit - self.mean) / self.std


@dataclass(frozen=True)
class Members:
    """Which images one trial uses; `classes` lists the trained classes, and labels are positions in it."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    classes: np.ndarray


_cache: dict[tuple[str, int, str], Images] = {}


def load_images(spec: DataSpec, options: DataOptions, device: torch.device) -> Images:
    """The images of a resolved spec; kept for the next trial on the same data, size and device."""
    assert spec.img_size is not None
    key = (spec.name, spec.img_size, str(device))
    if key not in _cache:
        _cache.clear()
        _cache[key] = _to_device(open_images(spec.name, options), spec.img_size, device)
    return _cache[key]


def _to_device(data: ImageData, img_size: int, device: torch.device) -> Images:
    def pixels(images: np.ndarray) -> Tensor:
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)

    train = resident(data.train, img_size)
    mean, std = channel_stats(train)
    shape = (-1, 1, 1)
    return Images(
        train=pixels(train),
        test=pixels(resident(data.test, img_size)),
        train_labels=data.train.labels,
        test_labels=data.test.labels,
        mean=torch.tensor(mean, dtype=torch.float32, device=device).view(shape),
        std=torch.tensor(std, dtype=torch.float32, device=device).view(shape),
        num_classes=data.facts.num_classes,
        fingerprint=data.facts.fingerprint,
    )


def members(images: Images, spec: DataSpec, seed: int) -> Members:
    """The images of one trial: train and validation by seed, and the test images of the trained classes."""
    part = partition(images.train_labels, seed, spec)
    classes = np.arange(images.num_classes) if spec.classes is None else np.asarray(sorted(spec.classes))
    test = np.flatnonzero(np.isin(images.test_labels, classes))
    return Members(part.train, part.val, test, classes)
