"""What a running command leaves for other shells to watch: its events, one line of JSON each, in `events/` of the
results root. Each process writes a file of its own and removes it at its end; nothing is locked.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

from vitbench.store.events import Ended, Event, Finished, Progress, from_line, to_line

PROGRESS_SECONDS = 1.0
"""A running trial writes at most one reading in this time."""


def folder_of(root: Path) -> Path:
    """Where the live_logs of a results root lie."""
    return root / "events"


class EventLog:
    """A listener of events and a context manager: within it, the command's events are on the disk.

    It is a convenience: where the disk refuses a line, the run goes on without.
    """

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = folder_of(root) / f"{socket.gethostname()}-{os.getpid()}.jsonl"
        self.exit_code = 1
        self._clock = clock
        self._file: IO[str] | None = None
        self._last: dict[str, float] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> EventLog:
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for path in dead_logs(self.path.parent.parent):
                path.unlink(missing_ok=True)
            self._file = self.path.open("w", buffering=1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self(Ended(self.exit_code))
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
                self.path.unlink(missing_ok=True)
                self.path.parent.rmdir()

    def __call__(self, event: Event) -> None:
        """Writes an event's line; readings of a trial only now and then."""
        now = self._clock()
        with self._lock:
            if isinstance(event, Progress):
                if now - self._last.get(event.trial_id, float("-inf")) < PROGRESS_SECONDS:
                    return
                self._last[event.trial_id] = now
            elif isinstance(event, Finished):
                self._last.pop(event.trial_id, None)
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self._file.write(to_line(event, now) + "\n")


def is_alive(path: Path) -> bool:
    """Does the process that writes this event log live? Of another host it is taken to."""
    host, _, pid = path.stem.rpartition("-")
    return host != socket.gethostname() or not pid.isdigit() or is_running(int(pid))


def is_running(pid: int) -> bool:
    """Is there a process of this number on this machine? Where that cannot be told it is taken to be."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


class EventReader:
    """The events of one event_log as they come; what was already read is not read again, a torn last line waits."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open()
        self._torn = ""

    def read(self) -> Iterator[tuple[float, Event]]:
        """(time, event) of the lines that are new; lines that are no events are passed over."""
        *lines, self._torn = (self._torn + self._file.read()).split("\n")
        for line in lines:
            with contextlib.suppress(ValueError):
                yield from_line(line)

    def close(self) -> None:
        """Lets the file go."""
        self._file.close()


def live_logs(root: Path) -> list[Path]:
    """The live_logs of commands that run now, the oldest name first."""
    return sorted(path for path in folder_of(root).glob("*.jsonl") if is_alive(path))


def dead_logs(root: Path) -> list[Path]:
    """The live_logs of processes of this machine that are no longer there, the oldest name first."""
    return sorted(path for path in folder_of(root).glob("*.jsonl") if not is_alive(path))
