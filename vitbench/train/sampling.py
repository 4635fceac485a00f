"""Which images make up a batch, and the draws that augment them: pure functions of (seed, epoch, image index).

Batches are cut from the endless sequence of epoch permutations, so no training batch is partial.
B batch, n training images of a trial, L lanes (independent draws of one image).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vitbench.base.seeding import permutation, uniforms

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BELOW_ONE = np.float32(1 - 2**-24)


@dataclass(frozen=True)
class Batch:
    """Image indices `[B]`, the epoch of each `[B]` (its views, if there are several), and draws in [0, 1) `[B, L]`."""

    index: Ints
    epoch: Ints
    draws: Floats

    def take(self, rows: Ints) -> Batch:
        """The images at `rows` of the batch."""
        return Batch(self.index[rows], self.epoch[rows], self.draws[rows])


class Order:
    """The endless training order of one trial; `batch(step)` depends on the step alone, so resuming needs no state.

    `streams` gives the number of draws per image from each random stream, in the order of a batch's columns. With
    `repeats` R an epoch has 1 / R of the images, R times each with draws of their own: repeated augmentation. The views
    of an image stand 1 / R of a batch apart, so that MixUp mixes different images. Each round of views counts as an
    epoch in the draws.
    """

    def __init__(self, seed: int, members: Ints, batch_size: int, streams: Mapping[str, int], repeats: int = 1) -> None:
        self.seed, self.members, self.batch_size, self.streams = seed, members, batch_size, streams
        self.repeats = repeats
        self._epochs: dict[int, tuple[Ints, Ints, Floats]] = {}

    def _epoch(self, epoch: int) -> tuple[Ints, Ints, Floats]:
        """Order `[n]`, rounds `[n]` and draws `[n, L]` of one epoch; the last two epochs are kept."""
        if epoch not in self._epochs:
            order, views = self._repeated(permutation(self.seed, "order", epoch, self.members))
            rounds = epoch * self.repeats + views
            columns = [self._draws(stream, rounds, order, n) for stream, n in self.streams.items() if n]
            draws = np.concatenate(columns, axis=1) if columns else np.zeros((len(order), 0))
            kept = {e: v for e, v in self._epochs.items() if e == epoch - 1}
            self._epochs = {**kept, epoch: (order, rounds, draws)}
        return self._epochs[epoch]

    def _repeated(self, order: Ints) -> tuple[Ints, Ints]:
        """The first images of `order [n]`, each several times, and the number of each view `[n]`."""
        if self.repeats == 1:
            return order, np.zeros_like(order)
        size = max(1, self.batch_size // self.repeats)
        groups = [order[first : first + size] for first in range(0, len(order), size)]
        images = np.concatenate([np.tile(group, self.repeats) for group in groups])
        views = np.concatenate([np.repeat(np.arange(self.repeats), len(group)) for group in groups])
        return images[: len(order)], views[: len(order)]

    def _draws(self, stream: str, rounds: Ints, order: Ints, num: int) -> Floats:
        """Draws `[n, num]` of one stream."""
        draws = np.empty((len(order), num))
        for number in np.unique(rounds):
            rows = rounds == number
            draws[rows] = uniforms(self.seed, stream, int(number), order[rows], num)
        return draws

    def batch(self, step: int) -> Batch:
        """The batch of step 0, 1, ..."""
        position, missing = step * self.batch_size, self.batch_size
        parts: list[tuple[Ints, Ints, Floats]] = []
        while missing:
            epoch, start = divmod(position, len(self.members))
            order, rounds, draws = self._epoch(epoch)
            here = slice(start, start + missing)
            parts.append((order[here], rounds[here], draws[here]))
            position, missing = position + len(order[here]), missing - len(order[here])
        index, epochs, all_draws = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Batch(index, epochs, all_draws)


@dataclass(frozen=True)
class Cut:
    """How a step's batch is cut: into `num_micro` micro-batches, and each of them into the shares of processes.

    With `has_partner` a share begins with the image before it (for the first share: the last of the micro-batch), which
    MixUp and CutMix mix into the share's first image.
    """

    num_micro: int = 1
    rank: int = 0
    num_processes: int = 1
    has_partner: bool = False

    def rows(self, batch_size: int) -> Iterator[Ints]:
        """The rows of this process in each micro-batch."""
        for rows in np.array_split(np.arange(batch_size), self.num_micro):
            share = np.array_split(rows, self.num_processes)[self.rank]
            before = rows[(share[:1] - rows[0] - 1) % len(rows)]
            yield np.concatenate([before, share]) if self.has_partner else share


def micro_batches(orders: Sequence[Order], step: int, cut: Cut) -> Iterator[list[Batch]]:
    """A step's batches, one per stacked trial, as this process gets them."""
    batches = [order.batch(step) for order in orders]
    for rows in cut.rows(orders[0].batch_size):
        yield [batch.take(rows) for batch in batches]


def all_indices(batches: Sequence[Batch]) -> Ints:
    """Image indices of all stacked trials, `[E B]`."""
    return np.concatenate([batch.index for batch in batches])


def all_draws(batches: Sequence[Batch]) -> npt.NDArray[np.float32]:
    """Draws of all stacked trials, `[E B, L]`; those that rounding would take to 1 stay below it."""
    return np.minimum(np.concatenate([batch.draws for batch in batches]).astype(np.float32), BELOW_ONE)
