"""Ctrl-C and SIGTERM: both stop a run cleanly, and both can be resumed by the same command."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(BaseException):
    """SIGTERM arrived."""


class Interrupted(BaseException):
    """Ctrl-C arrived. Not KeyboardInterrupt, which the command-line library would report as its own."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Within it, the first SIGTERM or SIGINT raises; a second one ends the process at once."""

    def stop(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Terminated if number == signal.SIGTERM else Interrupted

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
