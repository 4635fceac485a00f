"""The images of one spec: resident on the training device as uint8, or streamed if they do not fit.

n images, E stacked trials, M images per trial, b images of one piece, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vitbench.data import (
    DataOptions,
    Facts,
    ImageData,
    channel_stats,
    fits_in_memory,
    open_images,
    resident,
    with_prepared,
)
from vitbench.spec.trial import DataSpec, TrialSpec
from vitbench.train import shared_images
from vitbench.train.augment import Augment, pad
from vitbench.train.image_source import Feed, ImageSource, Raw, TrainOrTest, on_device, source_fields
from vitbench.train.sampling import Cut, Order, all_draws, all_indices, micro_batches
from vitbench.train.shared_images import Fields
from vitbench.train.streamed import Loader, open_stream

TENSORS = ("train", "test", "mean", "std")
"""The fields of `Images` that are tensors."""


@dataclass(frozen=True, kw_only=True)
class Images(ImageSource):
    """Images that are resident on the device, `uint8 [n, C, H, W]`."""

    train: Tensor
    test: Tensor

    def read(self, part: TrainOrTest, index: np.ndarray, batch: int) -> Iterator[Tensor]:
        pixels = self.train if part == "train" else self.test
        for start in range(0, index.shape[1], batch):
            picked = torch.tensor(index[:, start : start + batch], device=pixels.device)
            yield pixels[picked].float() / 255

    def feed(self, orders: Sequence[Order], augment: Augment, cut: Cut) -> Feed:
        assert not augment.resized, "crops of many sizes are cut from the files: such images are streamed"
        return _ResidentFeed(pad(self.train, augment.level), orders, augment, cut)


@dataclass(frozen=True)
class _ResidentFeed(Feed):
    """Crops of images on the device; images are padded once, not per batch."""

    crops: ClassVar[bool] = True
    padded: Tensor
    orders: Sequence[Order]
    augment: Augment
    cut: Cut

    def raw(self, step: int) -> Iterator[Raw]:
        device = self.padded.device
        for batches in micro_batches(self.orders, step, self.cut):
            index = on_device(all_indices(batches), device)
            yield batches, self.padded[index], on_device(all_draws(batches), device)

    def unit(self, pixels: Tensor, draws: Tensor) -> Tensor:
        return self.augment(pixels, draws)

    def close(self) -> None:
        """Nothing to stop."""


_cache: dict[tuple[object, ...], ImageSource] = {}


def open_source(spec: TrialSpec, options: DataOptions, device: torch.device) -> ImageSource:
    """The images of a resolved spec, streamed if its crops are cut from the files; else as `load_images`."""
    return load_images(spec.data, options, device, originals=Augment.of(spec).resized)


def load_images(spec: DataSpec, options: DataOptions, device: torch.device, *, originals: bool = False) -> ImageSource:
    """The images of a resolved spec; cached for the next trial on the same data, size and device.

    Streamed if they do not fit in memory, if `options.stream` is set, or if the `originals` are needed; on a CPU also
    if they are prepared for this size, as all processes then share one copy. Streamed and resident images give the
    same numbers.
    """
    assert spec.img_size is not None
    key = (spec.name, spec.img_size, spec.in_chans, str(device), options.stream or originals, options.num_workers)
    if key not in _cache:
        _cache.clear()
        can_share = device.type == "cpu" and not (options.stream or originals)
        _cache[key] = (_shared if can_share else _opened)(spec, options, device, originals)
    return _cache[key]


def _shared(spec: DataSpec, options: DataOptions, device: torch.device, originals: bool) -> ImageSource:
    """As `_opened`; resident images are those that the trial processes of a command share."""
    opened: list[ImageSource] = []

    def read() -> Fields | None:
        opened.append(_opened(spec, options, device, originals))
        return _fields(opened.pop()) if isinstance(opened[0], Images) else None

    fields = shared_images.shared.fields(spec, read)
    return opened[0] if fields is None else Images(**{name: _tensor(value, name) for name, value in fields.items()})


def _fields(images: ImageSource) -> Fields:
    """The fields of resident images, tensors as arrays."""
    values = {field.name: getattr(images, field.name) for field in dataclasses.fields(Images)}
    return {name: value.numpy() if isinstance(value, Tensor) else value for name, value in values.items()}


def _tensor(value: Any, name: str) -> Any:
    return torch.from_numpy(value) if name in TENSORS else value


def _opened(spec: DataSpec, options: DataOptions, device: torch.device, originals: bool) -> ImageSource:
    """The images of a resolved spec, read from their files."""
    assert spec.img_size is not None
    data = open_images(spec.name, options)
    data = data if spec.in_chans is None else data.with_channels(spec.in_chans)
    prepared = with_prepared(data, spec.img_size, options)
    shards = prepared.train.shards
    is_shared = device.type == "cpu" and shards is not None and not shards.is_whole
    if options.stream or originals or is_shared or not _fits(data.facts, spec.img_size, device):
        whole = with_prepared(data, None, options) if originals else data
        return open_stream(Loader(whole, prepared, spec.img_size, options.num_workers, device), options)
    return _to_device(prepared, spec.img_size, device)


def _fits(facts: Facts, img_size: int | tuple[int, int], device: torch.device) -> bool:
    """True if the images fit in the memory of this machine and of the device."""
    if not fits_in_memory(facts, img_size):
        return False
    on_gpu = device.type == "cuda"
    return not on_gpu or fits_in_memory(facts, img_size, torch.cuda.get_device_properties(device).total_memory)


def _to_device(data: ImageData, img_size: int | tuple[int, int], device: torch.device) -> Images:
    def pixels(images: np.ndarray) -> Tensor:
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)

    train = resident(data.train, img_size)
    statistics = channel_stats(train)
    return Images(
        train=pixels(train),
        test=pixels(resident(data.test, img_size)),
        **source_fields(data, statistics, device),
    )
