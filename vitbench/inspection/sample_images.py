"""Choose the images that analyses read: a fixed draw from the network's test images, or from another data set.

Shapes: n images, C channels, S side in pixels, N patches, P patch side.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from vitbench.base.errors import InputError
from vitbench.base.seeding import permutation
from vitbench.data import DataOptions, ImageData, Split, facts, find, open_images, resident
from vitbench.inspection.network import Subject


@dataclass(frozen=True)
class Pictures:
    """Images `uint8 [n, C, S, S]`, their labels `[n]`, their objects' boxes `[n, 4]` (None: unknown).

    `known_classes`: labels number the classes as the network's outputs do. `index [n]`: positions in the data set.
    `columns` are the others that the data set has, such as masks and captions, `[n, ...]` each.
    """

    pixels: Tensor
    labels: np.ndarray
    boxes: Tensor | None
    index: np.ndarray
    name: str
    known_classes: bool
    publishable: bool
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterator[tuple[slice, Tensor]]:
        """Images in [0, 1] in pieces of `size`, each with its slice."""
        for start in range(0, len(self), size):
            where = slice(start, min(start + size, len(self)))
            yield where, self.pixels[where].float() / 255

    def patches(self, patch_px: int) -> np.ndarray:
        """The patches of every image, float64 `[n, N, P P C]` in [0, 1]."""
        cut = rearrange(self.pixels, "n c (y p) (x q) -> n (y x) (p q c)", p=patch_px, q=patch_px)
        return cut.numpy().astype(np.float64) / 255


@functools.lru_cache(maxsize=2)
def _opened(name: str, options: DataOptions) -> ImageData:
    return open_images(name, options)


def choose_pictures(
    subject: Subject, images: str | None, limit: int, options: DataOptions, *, fit: bool = False
) -> Pictures:
    """At most `limit` test images (with `fit` training images, to fit probes on), the same for every network and seed.

    `images` is a data set's name or folder:PATH; without one the network's own. Raises InputError if these are
    missing, or are not of the size that the network takes.
    """
    name = images or subject.data
    if name is None:
        raise InputError(f"{subject.name}: does not record its images; name some with --images folder:PATH")
    is_training_set = subject.data is not None and find(name)[0] == find(subject.data)[0]
    _check_size(subject, name, options)
    data = _opened(name, options)
    split = (data.train if fit else data.test).with_channels(subject.in_chans)
    if split.in_chans != subject.in_chans:
        raise InputError(f"--images {name}: {split.in_chans} channels; {subject.name} takes {subject.in_chans}")
    members = np.arange(len(split))
    if is_training_set and subject.classes is not None:
        members = np.flatnonzero(np.isin(split.labels, subject.classes))
    index = permutation(0, "inspect/fit" if fit else "inspect", 0, members)[:limit]
    sample, labels = split.take(index), split.labels[index]
    if is_training_set and subject.classes is not None:
        labels = np.searchsorted(subject.classes, labels)
    return Pictures(
        torch.from_numpy(resident(sample, subject.img_size)).permute(0, 3, 1, 2).contiguous(),
        labels,
        _boxes(sample, subject),
        index,
        name,
        is_training_set,
        data.facts.pixels_publishable,
        sample.columns,
    )


def _check_size(subject: Subject, name: str, options: DataOptions) -> None:
    img_size = facts(name, options).img_size
    if img_size != subject.img_size and not subject.resizes:
        size = "of several sizes" if img_size is None else f"of {img_size} x {img_size} pixels"
        raise InputError(
            f"--images {name}: {size}; {subject.name} was trained on {subject.img_size} x {subject.img_size}"
        )


def _boxes(split: Split, subject: Subject) -> Tensor | None:
    """The objects' boxes; None if images were resized or boxes are unknown."""
    same = split.images is not None and split.images.shape[1] == subject.img_size
    return torch.from_numpy(split.boxes) if split.boxes is not None and same else None
