"""The event log of a running command, for other shells to watch: one line of JSON per event, in `events/` of the
results root. Each process writes its own file and removes it at its end; nothing is locked.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

from vitbench.base.contained import check_folders, create, open_to_read
from vitbench.store.events import Ended, Event, Finished, Progress, from_line, to_line

PROGRESS_SECONDS = 1.0
"""A running trial writes at most one reading in this time."""
MAX_LINE = 1 << 20
"""Characters of a line; a longer one is skipped."""


def folder_of(root: Path) -> Path:
    """The folder of a results root's event logs. Raises ResultsError if a link leads to another place."""
    folder = root / "events"
    if folder.is_symlink():
        check_folders(root, folder)
    return folder


class EventLog:
    """A listener of events and a context manager: within it, the command's events are on the disk.

    The log is a convenience: if the disk refuses a line, the run continues without it.
    """

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self.root = root
        self.path = folder_of(root) / f"{socket.gethostname()}-{os.getpid()}.jsonl"
        self.exit_code = 1
        self._clock = clock
        self._file: IO[str] | None = None
        self._last: dict[str, float] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> EventLog:
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for path in dead_logs(self.root):
                path.unlink(missing_ok=True)
            self._file = io.TextIOWrapper(create(self.path), encoding="utf-8", write_through=True)
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
        """Write an event's line; of a trial's readings at most one per PROGRESS_SECONDS."""
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
    """True if the process that writes this log is running. Processes on other hosts are assumed to be running."""
    host, _, pid = path.stem.rpartition("-")
    return host != socket.gethostname() or not pid.isdigit() or is_running(int(pid))


def is_running(pid: int) -> bool:
    """True if a process of this number is running on this machine, or if that is unknown."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


class EventReader:
    """The events of one log as they arrive; a line is read once, and an incomplete last line waits for its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = io.TextIOWrapper(io.BufferedReader(open_to_read(path)), encoding="utf-8", errors="replace")
        self._torn = ""

    def read(self) -> Iterator[tuple[float, Event]]:
        """(time, event) of the lines that are new; lines that hold no event are skipped."""
        *lines, self._torn = (self._torn + self._file.read()).split("\n")
        self._torn = self._torn[: MAX_LINE + 1]
        for line in lines:
            with contextlib.suppress(ValueError):
                if len(line) <= MAX_LINE:
                    yield from_line(line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def live_logs(root: Path) -> list[Path]:
    """The logs of commands that are running, in order of their names."""
    return [path for path in _logs(root) if is_alive(path)]


def dead_logs(root: Path) -> list[Path]:
    """The logs of processes of this machine that are gone, in order of their names."""
    return [path for path in _logs(root) if not is_alive(path)]


def _logs(root: Path) -> list[Path]:
    """Regular files only: opening a pipe of this name would wait for its writer."""
    return sorted(path for path in folder_of(root).glob("*.jsonl") if stat.S_ISREG(path.lstat().st_mode))
