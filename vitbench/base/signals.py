"""Ctrl-C, SIGTERM and SIGHUP: each stops a run cleanly, and the same command resumes it.

A stop is raised wherever the program is, except inside `held()` (a training): there it waits until that has been saved.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class Stopped(BaseException):
    """A signal asked this process to stop."""

    number = signal.SIGTERM

    @property
    def exit_code(self) -> int:
        """As a shell reports a process that a signal ended."""
        return 128 + self.number


class Terminated(Stopped):
    """SIGTERM arrived."""


class Interrupted(Stopped):
    """Ctrl-C arrived. Not KeyboardInterrupt, which the command-line library would report as its own."""

    number = signal.SIGINT


class HungUp(Stopped):
    """SIGHUP arrived: the terminal was closed, or the connection was lost."""

    number = signal.SIGHUP


STOPS: dict[int, type[Stopped]] = {kind.number: kind for kind in (Terminated, Interrupted, HungUp)}


@dataclass
class _State:
    """The stop that was requested of this process, and whether it has to wait."""

    held: bool = False
    requested: Stopped | None = None


_state = _State()


def ask(stop: Stopped) -> None:
    """Stop this process: at once by raising `stop`, or at the end of `held()`."""
    if not _state.held:
        raise stop
    _state.requested = stop


@contextmanager
def held() -> Iterator[Callable[[], bool]]:
    """Hold back a stop within the block, and raise it at the end. Yields a function: was a stop requested?"""
    _state.held = True
    try:
        yield lambda: _state.requested is not None
    finally:
        _state.held = False
        requested, _state.requested = _state.requested, None
        if requested is not None:
            raise requested


@contextmanager
def stoppable() -> Iterator[None]:
    """Within the block the first signal requests a stop; a second SIGTERM or Ctrl-C ends the process and its children.

    A second SIGHUP does nothing: a shell that ends passes the signal on to jobs that the kernel has told already. Where
    SIGHUP is ignored (nohup), it stays ignored.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        # Python's own handler would wait for a library's call to return; only children to be ended are worth that.
        second = _end if multiprocessing.active_children() else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else second)
        ask(STOPS[number]())

    before = {number: signal.signal(number, stop) for number in _numbers()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _numbers() -> list[int]:
    """The signals that stop this process."""
    return [number for number in STOPS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def _end(number: int, _frame: FrameType | None) -> None:
    for child in multiprocessing.active_children():
        child.kill()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def obey_parent() -> None:
    """For a child process: leave Ctrl-C to the parent; the first SIGTERM or SIGHUP requests a stop.

    Later ones are ignored: a signal to the process group reaches a child twice, directly and through its parent.
    """

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        ask(Terminated())

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in _numbers():
        if number != signal.SIGINT:
            signal.signal(number, stop)


@contextmanager
def obeying_scheduler() -> Iterator[None]:
    """For a task of a scheduler: within the block the first SIGINT, SIGTERM or SIGHUP requests a stop.

    Later ones are ignored, because a scheduler repeats its signal. The handlers of the scheduler come back afterwards.
    """

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in STOPS:
            signal.signal(number, signal.SIG_IGN)
        ask(Terminated())

    with keeping_handlers():
        for number in STOPS:
            signal.signal(number, stop)
        yield


@contextmanager
def keeping_handlers() -> Iterator[None]:
    """Restore this process's handlers of stop signals after the block: a library may set its own."""
    before = {number: signal.getsignal(number) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: not set from Python, so it cannot be restored.
                signal.signal(number, handler)
