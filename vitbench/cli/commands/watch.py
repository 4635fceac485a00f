"""`vitbench watch`: show the live view of a run that is active in another shell. Only reads."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from rich.console import Console

from vitbench.base.errors import InputError
from vitbench.base.signals import Interrupted, stoppable
from vitbench.cli.commands.prepare import read_run
from vitbench.report.live.pace import Pace
from vitbench.report.live.progress import RunState
from vitbench.report.live.view import LiveView
from vitbench.store.event_log import EventReader, is_alive, live_logs
from vitbench.store.events import Began, Ended, Event, Planned
from vitbench.store.rows import read_records

POLL_SECONDS = 0.25
SILENT_SECONDS = 900.0
"""A run on another host counts as dead after this much silence."""


def watch(names: Collection[str], root: Path, console: Console) -> int:
    """Show the active run in `root` (one of `names`, if given) until it ends, and return its exit code.

    Ctrl-C stops watching, not the run. Raises InputError if no run is active.
    """
    logs = [path for path in live_logs(root) if not names or _last_run(path) in names]
    if not logs:
        subject = f"{', '.join(names)} is not running" if names else "no run is active"
        raise InputError(f"{root}: {subject}. Use `vitbench status --results {root}` to see its progress.")
    if len(logs) > 1:
        console.print(f"{len(logs)} commands run in {root}; watching {_last_run(logs[0])}", soft_wrap=True)
    with stoppable():
        try:
            return Watcher(logs[0], root, console).follow()
        except Interrupted:
            console.print("stopped watching; the run continues")
            return 0


def _last_run(path: Path) -> str:
    """The experiment that an event log's command is at."""
    reader = EventReader(path)
    began = [event.run for _, event in reader.read() if isinstance(event, Began)]
    reader.close()
    return began[-1] if began else ""


class Watcher:
    """Follows one event log: each experiment that its command begins gets a live view."""

    def __init__(self, path: Path, root: Path, console: Console) -> None:
        self._path, self._root, self._console = path, root, console
        self._reader = EventReader(path)
        self._pace = Pace()
        self._view: LiveView | None = None

    def follow(self) -> int:
        """Show events until the command ends or dies; return the exit code."""
        heard, caught_up = time.monotonic(), False
        try:
            while True:
                alive = self._path.exists() and is_alive(self._path)
                event, caught_up = self._take(caught_up), True
                if isinstance(event, Ended):
                    return self._close(f"the run ended with exit code {event.exit_code}", event.exit_code)
                heard = time.monotonic() if event else heard
                if not alive or time.monotonic() - heard > SILENT_SECONDS:
                    cause = "the run was killed" if not alive else "the run has been silent for too long"
                    return self._close(f"{cause}; finished trials are kept; run the same command again to resume", 3)
                time.sleep(POLL_SECONDS)
        finally:
            self._stop()
            self._reader.close()

    def _take(self, caught_up: bool) -> Event | None:
        """Apply new events and return the last one. Events from before the watching print nothing."""
        last = None
        for at, event in self._reader.read():
            last = event
            if isinstance(event, Began):
                self._begin(event)
            if isinstance(event, Planned) and self._view is not None:
                self._view.recall(self._records(self._view.state.place))
            if self._view is not None:
                (self._view if caught_up else self._view.state.apply)(event, at)
        if self._view is not None:
            self._view.__enter__()
        return last

    def _begin(self, event: Began) -> None:
        self._stop()
        state = RunState(read_run(self._root / event.run), self._pace)
        self._view = LiveView(self._console, state, clock=time.time)

    def _records(self, place: Began | None) -> list[dict[str, Any]]:
        """The records that the run had when it made its plan."""
        path = self._root / place.run / "records.jsonl" if place else None
        return read_records(path) if path and path.is_file() else []

    def _stop(self) -> None:
        if self._view is not None:
            self._view.__exit__(None, None, None)

    def _close(self, line: str, code: int) -> int:
        self._stop()
        hint = f"use `vitbench status --results {self._root}` to see its progress"
        self._console.print(f"{line}; {hint}", highlight=False, soft_wrap=True)
        return code
