"""The interface through which training and evaluation read images, and which images a trial uses.

n images, E stacked trials, M images per trial, b images of one piece, C channels, H height, W width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from vitbench.data import ImageData, Split, partition
from vitbench.data.types import Floats
from vitbench.spec.trial import DataSpec
from vitbench.train.augment import Augment
from vitbench.train.sampling import Batch, Cut, Order

TrainOrTest = Literal["train", "test"]
Raw = tuple[list[Batch], Tensor, Tensor]
"""One micro-batch: a batch for each stacked trial; on the device pixels `uint8 [E b, C, ...]` and draws `[E b, L]`."""
Micro = tuple[list[Batch], Tensor]
"""The same with augmented images in [0, 1], `[E, b, C, H, W]`."""


class Feed(ABC):
    """Training images, step by step: read here, augmented by `unit`, which is part of the device's program."""

    crops: ClassVar[bool] = False
    """Whether `unit` crops, so that other draws give another view of the same pixels."""

    @abstractmethod
    def raw(self, step: int) -> Iterator[Raw]:
        """The micro-batches of a step."""

    @abstractmethod
    def unit(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """Augmented images in [0, 1], `[E b, C, H, W]`."""

    def __call__(self, step: int) -> Iterator[Micro]:
        """The micro-batches of a step, augmented."""
        for batches, pixels, draws in self.raw(step):
            unit = self.unit(pixels, draws)
            yield batches, unit.view(len(batches), -1, *unit.shape[1:])

    @abstractmethod
    def close(self) -> None:
        """Stop reading in advance; asking for another step starts it again."""


@dataclass(frozen=True, kw_only=True)
class ImageSource(ABC):
    """Labels on the CPU, as the data set numbers them; pixels on the device, when they are needed.

    `train_groups` (equal for equal images), `train_val` (the user's own validation images) and `train_rank` (the place
    in file order) and the columns are those of a `Split`.
    """

    train_labels: np.ndarray
    train_groups: np.ndarray | None = None
    train_val: np.ndarray | None = None
    train_rank: np.ndarray | None = None
    test_labels: np.ndarray
    train_columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    test_columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    mean: Tensor
    std: Tensor
    num_classes: int
    fingerprint: str

    def standardise(self, unit: Tensor) -> Tensor:
        """Images in [0, 1] `[..., C, H, W]` to zero mean and unit deviation, as measured on the training images."""
        return (unit - self.mean) / self.std

    def columns(self, part: TrainOrTest, names: Collection[str], index: np.ndarray) -> dict[str, np.ndarray]:
        """The named columns, as far as the data have them, of images `index [B]`: `[B, ...]` each."""
        columns = self.train_columns if part == "train" else self.test_columns
        return {name: values[index] for name, values in columns.items() if name in names}

    @abstractmethod
    def read(self, part: TrainOrTest, index: np.ndarray, batch: int) -> Iterator[Tensor]:
        """Images `index [E, M]` in [0, 1], as they are, in pieces `[E, b, C, H, W]` of `batch`; the last is partial."""

    @abstractmethod
    def feed(self, orders: Sequence[Order], augment: Augment, cut: Cut) -> Feed:
        """The training images of E trials, step by step."""


def source_fields(data: ImageData, statistics: tuple[Floats, Floats], device: torch.device) -> dict[str, Any]:
    """The fields of `ImageSource`; `statistics` are mean and standard deviation per channel."""
    mean, std = (torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1) for values in statistics)
    return {
        "train_labels": data.train.labels,
        "train_groups": data.train.groups,
        "train_val": data.train.val,
        "train_rank": data.train.rank,
        "test_labels": data.test.labels,
        "train_columns": data.train.columns,
        "test_columns": data.test.columns,
        "mean": mean,
        "std": std,
        "num_classes": data.facts.num_classes,
        "fingerprint": data.facts.fingerprint,
    }


@dataclass(frozen=True)
class Members:
    """Which images one trial uses; `classes` lists the trained classes, and labels are positions in it."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    classes: np.ndarray


def members(images: ImageSource, spec: DataSpec, seed: int) -> Members:
    """The images of one trial: train and validation by seed, and the test images of the trained classes."""
    labelled = Split(images.train_labels, groups=images.train_groups, val=images.train_val, rank=images.train_rank)
    part = partition(labelled, seed, spec)
    classes = np.arange(images.num_classes) if spec.labels is None else np.asarray(sorted(spec.labels))
    test = np.flatnonzero(np.isin(images.test_labels, classes))
    return Members(part.train, part.val, test, classes)


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor on the device; the copy is asynchronous."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
