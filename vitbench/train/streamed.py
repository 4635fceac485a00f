"""Images that are not resident on the device: loader processes decode, crop and resize them on demand.

Every image is a pure function of its file and its draws, and pieces return in the order of their requests; so neither
streaming nor the number of processes changes a bit. RandAugment, mixing and erasing follow on the device.

n images, E stacked trials, b images of one piece, C channels, H height, W width, L lanes of draws.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, count, islice, repeat

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, ImageData, centre_crop, cut, histogram, moments
from vitbench.data.catalog import cache_folder, write_aside
from vitbench.data.types import Ints, Pixels
from vitbench.train.augment import Augment, pad, resized_box
from vitbench.train.image_source import Feed, ImageSource, Raw, TrainOrTest, on_device, source_fields
from vitbench.train.sampling import Batch, Cut, Order, all_draws, all_indices, micro_batches

PIECE = 64
"""Images per piece of work; the pieces of a batch are shared among all processes."""
PIECES_AHEAD = 4
"""Pieces that each process prepares in advance."""
STATS_BATCH = 1024


@dataclass(frozen=True)
class ImageRequest:
    """Images `index [n]` of a split: cropped by `draws [n, L]`, or (None) by `centre_crop`."""

    part: TrainOrTest
    index: Ints
    draws: np.ndarray | None = None

    def pieces(self) -> list[ImageRequest]:
        """The request cut into pieces of at most PIECE images."""
        return [
            ImageRequest(
                self.part, self.index[s : s + PIECE], None if self.draws is None else self.draws[s : s + PIECE]
            )
            for s in range(0, len(self.index), PIECE)
        ]


class ImageDecoder(Dataset[Tensor | InputError]):
    """Decodes the images of a request; returns an unreadable image's error, since a loader process cannot raise it.

    Centre crops come from `centred`, which may be prepared for this size; crops of random sizes from `originals`.
    """

    def __init__(self, loader: Loader, augment: Augment | None) -> None:
        self.originals = {"train": loader.originals.train, "test": loader.originals.test}
        self.centred = {"train": loader.centred.train, "test": loader.centred.test}
        self.img_size, self.augment = loader.img_size, augment

    def __getitem__(self, request: ImageRequest) -> Tensor | InputError:
        """Pixels `uint8 [n, C, H, W]`."""
        try:
            images = [self._image(request, k) for k in range(len(request.index))]
        except InputError as error:
            return error
        stacked = np.stack([image.transpose(2, 0, 1) for image in images])
        pixels = torch.from_numpy(np.ascontiguousarray(stacked))
        if self.augment is None or request.draws is None or self.augment.resized:
            return pixels
        return self.augment.crop(pad(pixels, self.augment.level), torch.from_numpy(request.draws))

    def _image(self, request: ImageRequest, k: int) -> Pixels:
        """One image `[H, W, C]`: its centre crop, or its random crop where crops have random sizes."""
        row = int(request.index[k])
        if self.augment is None or request.draws is None or not self.augment.resized:
            return centre_crop(self.centred[request.part].read(row), self.img_size)
        image, draws = self.originals[request.part].read(row), request.draws[k]
        out = cut(image, resized_box(image.shape[0], image.shape[1], draws, self.augment.aspect), self.img_size)
        return out[:, ::-1] if self.augment.mirrors(draws) else out


def _leave_signals_alone(_worker: int) -> None:
    """Let the parent process alone answer Ctrl-C; a loader process ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def lost_loader(error: Exception) -> bool:
    """True if torch reports a killed loader process; torch raises this at any point of the main thread."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")


Pieces = DataLoader[Tensor | InputError]


def _delivered(loader: Pieces) -> Iterator[Tensor | InputError]:
    """The processes' results. Raises MemoryError if a process was killed, as happens when memory runs out."""
    try:
        yield from loader
    except (OSError, EOFError, RuntimeError) as error:
        if loader.num_workers == 0 or str(error).startswith("Caught "):  # A fault of what the process ran.
            raise
        raise MemoryError(f"an image-loading process was lost: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Loader:
    """Reads requests in advance, in `num_workers` processes (0: in this process).

    `centred` are the same images as `originals`, possibly prepared for `img_size`.
    """

    originals: ImageData
    centred: ImageData
    img_size: int | tuple[int, int]
    num_workers: int
    device: torch.device

    def load(self, requests: Iterable[ImageRequest], augment: Augment | None = None) -> Iterator[Tensor]:
        """The pixels `uint8 [n, C, H, W]` of every request, on the device, in order. Raises InputError."""
        lengths: deque[int] = deque()

        def pieces() -> Iterator[ImageRequest]:
            for request in requests:
                parts = request.pieces()
                lengths.append(len(parts))
                yield from parts

        loader: Pieces = DataLoader(
            ImageDecoder(self, augment),
            sampler=pieces(),
            batch_size=None,
            num_workers=self.num_workers,
            prefetch_factor=PIECES_AHEAD if self.num_workers else None,
            pin_memory=self.device.type == "cuda",
            # Forked, millions of file names are shared; a loader process never touches the device.
            multiprocessing_context="fork" if self.num_workers and sys.platform == "linux" else None,
            worker_init_fn=_leave_signals_alone,
            generator=torch.Generator(),  # Else it would draw from the generator that dropout draws from.
        )
        arriving = map(self._arrived, _delivered(loader))
        try:
            for first in arriving:
                yield torch.cat([first, *islice(arriving, lengths.popleft() - 1)])
        finally:
            del arriving  # Ends the processes at once; from the garbage collector it would take them seconds.

    def _arrived(self, piece: Tensor | InputError) -> Tensor:
        if isinstance(piece, InputError):
            raise piece
        return piece.to(self.device, non_blocking=True)


@dataclass(frozen=True, kw_only=True)
class StreamedImages(ImageSource):
    """Images that are read on demand."""

    loader: Loader

    def read(self, part: TrainOrTest, index: np.ndarray, batch: int) -> Iterator[Tensor]:
        chunks = [index[:, start : start + batch] for start in range(0, index.shape[1], batch)]
        pixels = self.loader.load(ImageRequest(part, piece.ravel()) for piece in chunks)
        for piece, images in zip(chunks, pixels, strict=True):
            yield images.view(*piece.shape, *images.shape[1:]).float() / 255

    def feed(self, orders: Sequence[Order], augment: Augment, cut: Cut) -> Feed:
        return _StreamedFeed(self.loader, orders, augment, cut)


class _StreamedFeed(Feed):
    """A feed that reads in advance; a request for another step than the next one starts it anew."""

    def __init__(self, loader: Loader, orders: Sequence[Order], augment: Augment, cut: Cut) -> None:
        self.loader, self.orders, self.augment, self.cut = loader, orders, augment, cut
        self.next_step = -1
        self.coming: Generator[Raw, None, None] | None = None

    def raw(self, step: int) -> Iterator[Raw]:
        if self.coming is None or step != self.next_step:
            self.close()
            steps = map(micro_batches, repeat(self.orders), count(step), repeat(self.cut))
            self.coming = _raw(self.loader, chain.from_iterable(steps), self.augment)
        self.next_step = step + 1
        return islice(self.coming, self.cut.num_micro)

    def unit(self, pixels: Tensor, draws: Tensor) -> Tensor:
        return self.augment.after_crop(pixels, draws)

    def close(self) -> None:
        if self.coming is not None:
            self.coming.close()
        self.coming = None


def _raw(loader: Loader, upcoming: Iterator[list[Batch]], augment: Augment) -> Generator[Raw, None, None]:
    """The micro-batches with their cropped images."""
    requested: deque[list[Batch]] = deque()

    def requests() -> Iterator[ImageRequest]:
        for batches in upcoming:
            requested.append(batches)
            yield ImageRequest("train", all_indices(batches), all_draws(batches))

    for pixels in loader.load(requests(), augment):
        batches = requested.popleft()
        yield batches, pixels, on_device(all_draws(batches), pixels.device)


def open_stream(loader: Loader, options: DataOptions) -> StreamedImages:
    """The images of a data set, read on demand, standardised by their exact statistics.

    These take one pass over the training images (of ImageNet some ten minutes on 16 cores), kept in the cache folder.
    """
    statistics = moments(_counts(loader, options))
    return StreamedImages(
        loader=loader,
        **source_fields(loader.originals, statistics, loader.device),
    )


def _counts(loader: Loader, options: DataOptions) -> Ints:
    """How often each level occurs in the training images' centre crops, `[C, 256]`; cached."""
    data, img_size = loader.originals, loader.img_size
    size = str(img_size) if isinstance(img_size, int) else "x".join(map(str, img_size))
    path = cache_folder(options) / "levels" / f"{data.facts.fingerprint[:32]}-{size}.json"
    with suppress(OSError, ValueError):
        cached = np.array(json.loads(path.read_text()), dtype=np.int64)
        if cached.shape == (data.facts.in_chans, 256):
            return cached
    everything = np.arange(len(data.train))
    requests = (ImageRequest("train", everything[s : s + STATS_BATCH]) for s in range(0, len(everything), STATS_BATCH))
    on_cpu = replace(loader, device=torch.device("cpu"))
    counts = np.zeros((data.facts.in_chans, 256), dtype=np.int64)
    for pixels in on_cpu.load(requests):
        counts += histogram(pixels.permute(0, 2, 3, 1).numpy())
    write_aside(json.dumps(counts.tolist()), path)
    return counts
