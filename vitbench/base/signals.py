"""Ctrl-C and SIGTERM: both stop a run cleanly, and both can be resumed by the same command.

A stop is raised where the program just is, but within `held()` (a training) it waits until that has been saved.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class Terminated(BaseException):
    """SIGTERM arrived."""


class Interrupted(BaseException):
    """Ctrl-C arrived. Not KeyboardInterrupt, which the command-line library would report as its own."""


@dataclass
class _Stop:
    """What was asked of this process, and whether it has to wait."""

    held: bool = False
    asked: Terminated | Interrupted | None = None


_stop = _Stop()


def ask(stop: Terminated | Interrupted) -> None:
    """Stop this process: at once by raising `stop`, or at the end of `held()`."""
    if not _stop.held:
        raise stop
    _stop.asked = stop


@contextmanager
def held() -> Iterator[Callable[[], bool]]:
    """Within it a stop is kept back; yields whether one was asked for, and raises that at its end."""
    _stop.held = True
    try:
        yield lambda: _stop.asked is not None
    finally:
        _stop.held = False
        asked, _stop.asked = _stop.asked, None
        if asked is not None:
            raise asked


@contextmanager
def stoppable() -> Iterator[None]:
    """Within it, the first SIGTERM or SIGINT asks to stop; a second one ends the process and its children at once."""

    def stop(number: int, _frame: FrameType | None) -> None:
        # Python's own handler would wait for a library's call to return; only children to be ended are worth that.
        signal.signal(number, _end if multiprocessing.active_children() else signal.SIG_DFL)
        ask(Terminated() if number == signal.SIGTERM else Interrupted())

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _frame: FrameType | None) -> None:
    for child in multiprocessing.active_children():
        child.kill()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def obey_parent() -> None:
    """For a child process: Ctrl-C is its parent's to answer; the first SIGTERM asks to stop, later ones say no more.

    A second one is no haste: it comes where the whole process group is sent what the parent sends, too.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        ask(Terminated())

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop)
