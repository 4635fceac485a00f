"""One trial on several processes: each takes its share of every batch, and gradients are summed once per step.

The sum is the gradient of the whole batch on every process, so that clipping, divergence and the optimizer agree
without further messages. Process 0 alone writes files. Every method but `share` and `next_work` is called by all
processes, in the same order.

E stacked trials (always 1 on several processes), M images, K classes.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

BACKEND = "cpu:gloo,cuda:nccl"
STEP_TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others within a trial: one may have to read all images for their statistics."""
WORK_TIMEOUT = timedelta(seconds=1)
"""How long a process that waits for work leaves signals unanswered."""
WORK, END = b"work", b"end"


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of one trial: this one's `rank`, from 0, and their number. By default there is one process."""

    rank: int = 0
    size: int = 1

    def share(self, index: np.ndarray) -> np.ndarray:
        """This process's part of images `[E, M]`; the parts of all processes, in order, are all images."""
        return np.array_split(index, self.size, axis=1)[self.rank]

    def sum(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over all processes, in place."""
        if self.size > 1:
            with _lost_process():
                dist.all_reduce(tensor)

    def any(self, condition: bool) -> bool:
        """True if `condition` holds in some process."""
        count = torch.tensor(float(condition))
        self.sum(count)
        return bool(count > 0)

    def joined(self, rows: Tensor, num_images: int) -> Tensor:
        """`[E, M, K]` of all images, from the `[E, m, K]` of each process's share."""
        if self.size == 1:
            return rows
        lengths = [len(part) for part in np.array_split(np.arange(num_images), self.size)]
        padded = rows.new_zeros(rows.shape[0], max(lengths), *rows.shape[2:])
        padded[:, : rows.shape[1]] = rows
        parts = [torch.empty_like(padded) for _ in lengths]
        with _lost_process():
            dist.all_gather(parts, padded)
        return torch.cat([part[:, :length] for part, length in zip(parts, lengths, strict=True)], dim=1)

    def from_first(self, tensor: Tensor) -> None:
        """Replace `tensor` by that of process 0, in place."""
        if self.size > 1:
            with _lost_process():
                dist.broadcast(tensor, 0)

    def object_from_first(self, value: Any) -> Any:
        """The `value` of process 0; it is pickled."""
        if self.size == 1:
            return value
        values = [value]
        with _lost_process():
            dist.broadcast_object_list(values, 0)
        return values[0]


ONE_PROCESS = ProcessGroup()


class StepSums:
    """All that the processes of a group sum in a step, in one tensor: gradients, loss, and how many want to stop."""

    def __init__(self, group: ProcessGroup, grad: Tensor) -> None:
        assert len(grad) == 1, "a stack trains in one process"
        self.group = group
        self.wants_stop: Callable[[], bool] = lambda: False
        self._sums = torch.zeros(grad.numel() + 2, device=grad.device)
        self.grad, self.loss = self._sums[:-2].view_as(grad), self._sums[-2:-1]
        self._stops = (torch.zeros(()), torch.zeros(()))

    def add_up(self) -> None:
        """Make gradients and loss those of the whole batch."""
        self._sums[-1] = float(self.wants_stop())
        self.group.sum(self._sums)
        self._stops = (self._stops[1], self._sums[-1].clone())

    @property
    def stop_agreed(self) -> bool:
        """True if a process wanted to stop one step ago; so the host never waits for the newest step."""
        return bool(self._stops[0] > 0)


@dataclass(frozen=True)
class JoinedGroup(ProcessGroup):
    """A group whose processes have met: through `store`, process 0 hands out the work, one after another."""

    store: Any = None
    names: Iterator[str] = field(default_factory=lambda: map("work/{}".format, itertools.count()))

    def announce(self, work: Any) -> None:
        """Process 0 gives the others work, or the end (None)."""
        self.store.set(next(self.names), END if work is None else WORK)
        if work is not None:
            self.object_from_first(work)

    def next_work(self) -> Any | None:
        """Wait for work of process 0; None at the end, or if process 0 is gone."""
        name = next(self.names)
        while True:
            try:
                self.store.wait([name], WORK_TIMEOUT)
                return None if self.store.get(name) == END else self.object_from_first(None)
            except dist.DistNetworkError:
                return None
            except dist.DistStoreError:  # Nothing yet.
                continue


_current: list[ProcessGroup] = [ONE_PROCESS]


def current() -> ProcessGroup:
    """The group of this process: that of `join`, or a group of one."""
    return _current[-1]


def join(store: Any, rank: int, size: int) -> JoinedGroup:
    """Meet the other processes at `store`, one of torch.distributed. Raises MemoryError if one does not come."""
    with _lost_process():
        group_store = dist.PrefixStore("group", store)  # type: ignore[attr-defined]
        backend = BACKEND if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=group_store, rank=rank, world_size=size, timeout=STEP_TIMEOUT)
    group = JoinedGroup(rank, size, store)
    _current.append(group)
    return group


@contextlib.contextmanager
def _lost_process() -> Iterator[None]:
    """MemoryError, which says nothing about the trial, in place of what torch raises when a process is gone."""
    try:
        yield
    except RuntimeError as error:
        line = f"{error}".splitlines()[0] if f"{error}" else type(error).__name__
        raise MemoryError(f"a process of the trial was lost: {line}") from error


def store_at(host: str, port: int, rank: int, size: int) -> Any:
    """The store of a group; process 0 serves it."""
    serves = rank == 0
    with _lost_process():
        return dist.TCPStore(host, port, size, serves, STEP_TIMEOUT, wait_for_workers=False)  # type: ignore[attr-defined]
