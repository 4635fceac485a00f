"""`vitbench watch`: the live view of a run that goes on elsewhere: another shell, the background. Reads only."""

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
"""A run on another host, of which nothing was heard for so long, is taken to be gone."""


def watch(names: Collection[str], root: Path, console: Console) -> int:
    """Show the run that goes on in `root` (of `names`, where there are any) until it ends; its exit code.

    Ctrl-C ends the watching and leaves the run alone. Raises InputError where nothing runs.
    """
    found = [path for path in live_logs(root) if not names or _last_run(path) in names]
    if not found:
        what = ", ".join(names) or "nothing"
        raise InputError(f"{root}: {what} does not run now; `vitbench status --results {root}` says how far things are")
    if len(found) > 1:
        console.print(f"{len(found)} commands run in {root}; this is the one in {_last_run(found[0])}", soft_wrap=True)
    with stoppable():
        try:
            return Watcher(found[0], root, console).follow()
        except Interrupted:
            console.print("no longer watching; the run goes on")
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
        """Show events until the command ends or is gone; the exit code."""
        heard, caught_up = time.monotonic(), False
        try:
            while True:
                alive = self._path.exists() and is_alive(self._path)
                found, caught_up = self._take(caught_up), True
                if isinstance(found, Ended):
                    return self._close(f"the run ended with exit code {found.exit_code}", found.exit_code)
                heard = time.monotonic() if found else heard
                if not alive or time.monotonic() - heard > SILENT_SECONDS:
                    gone = "the run was killed" if not alive else "nothing was heard of the run for a while"
                    return self._close(f"{gone}; finished trials are kept, the same command goes on", 3)
                time.sleep(POLL_SECONDS)
        finally:
            self._stop()
            self._reader.close()

    def _take(self, caught_up: bool) -> Event | None:
        """Takes what is new; the last event of it. What happened before the watching began is not told line by line."""
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
        """The records that the run itself knew when it made its plan."""
        path = self._root / place.run / "records.jsonl" if place else None
        return read_records(path) if path and path.is_file() else []

    def _stop(self) -> None:
        if self._view is not None:
            self._view.__exit__(None, None, None)

    def _close(self, line: str, code: int) -> int:
        self._stop()
        hint = f"`vitbench status --results {self._root}` says how far things are"
        self._console.print(f"{line}; {hint}", highlight=False, soft_wrap=True)
        return code
