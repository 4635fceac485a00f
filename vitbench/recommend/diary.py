"""One recommendation on the disk: its settings, the time that it has used, what it asked, and who looked at the test
images."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from vitbench.base.contained import exists, open_lock, read_text
from vitbench.base.durable import make_folder, replace_durably
from vitbench.base.errors import CheckError, ResultsError
from vitbench.base.signals import Stopped, ask

FILE = "recommend.json"
SAVE_SECONDS = 2.0


class TimeUp(Stopped):
    """The budget's time is over."""

    number = signal.SIGALRM


class Diary:
    """What a recommendation keeps in its results root; the file is replaced in one step at every change."""

    def __init__(self, root: Path, settings: Mapping[str, Any]) -> None:
        """Open or begin. Raises ResultsError if the root holds a recommendation with other settings."""
        self.path = root / FILE
        self.content: dict[str, Any] = {"settings": dict(settings), "used_seconds": 0.0, "journal": []}
        if exists(self.path):
            try:
                before = json.loads(read_text(self.path))
                written = {**before["settings"]}
                self.content = before
            except (ValueError, KeyError, TypeError) as error:
                raise ResultsError(f"{self.path}: cannot be read ({error}); use another --results") from error
            differing = [key for key in settings if written.get(key) != settings[key]]
            if differing:
                key = differing[0]
                raise ResultsError(
                    f"{root}: holds a recommendation with {key} {written.get(key)}, not {settings[key]}; "
                    "repeat its command, or choose another --results"
                )

    def note(self, **changes: Any) -> None:
        """Keep some values."""
        self.content |= changes
        self.save()

    def save(self) -> None:
        """Write the file."""
        make_folder(self.path.parent)
        replace_durably(self.path, json.dumps(self.content, indent=1, sort_keys=True).encode() + b"\n")


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Within the block no other recommendation works in this root. Raises ResultsError."""
    make_folder(root)
    with open_lock(root / "recommend.lock") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ResultsError(f"{root}: another vitbench recommend is working here; wait, or use --results") from error
        except OSError:  # No working locks on this disk: trials have their own rule for two writers.
            pass
        yield


class Clock:
    """Time used by all sessions of a recommendation; a thread saves it, so that a killed session counts too."""

    def __init__(self, diary: Diary, budget: float, began: float | None = None) -> None:
        """`began`: when this session began, by `time.monotonic()`; None: now."""
        self.diary, self.budget = diary, budget
        self._before = float(diary.content["used_seconds"])
        self._began = time.monotonic() if began is None else began
        self._closed = threading.Event()
        self._lock = threading.Lock()

    @property
    def used(self) -> float:
        """Seconds used so far."""
        return self._before + time.monotonic() - self._began

    def left(self, reserved: float = 0.0) -> float:
        """Seconds of the budget that are left beside what is reserved."""
        return self.budget - reserved - self.used

    def __enter__(self) -> Clock:
        threading.Thread(target=self._keep, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self.note()

    def note(self, **changes: Any) -> None:
        """Keep the time used, and other values with it."""
        with self._lock:
            self.diary.note(used_seconds=round(self.used, 1), **changes)

    def _keep(self) -> None:
        while not self._closed.wait(SAVE_SECONDS):
            with contextlib.suppress(Exception):
                self.note()

    @contextlib.contextmanager
    def until(self, reserved: float) -> Iterator[None]:
        """Raise TimeUp within the block once only the reserved seconds are left."""

        def stop(_number: int, _frame: FrameType | None) -> None:
            ask(TimeUp())

        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, max(0.01, self.left(reserved)))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)


class Looks:
    """Who read the test images of a data set for a recommendation; kept beside the cached facts, by fingerprint."""

    def __init__(self, cache: Path, fingerprint: str) -> None:
        self.path = cache / "test_looks" / f"{fingerprint[:32]}.json"

    def earlier(self, root: Path) -> list[dict[str, str]]:
        """The looks of other recommendations."""
        return [look for look in self._read() if look.get("root") != str(root.resolve())]

    def refuse(self, root: Path, data: str) -> None:
        """Raise CheckError if another recommendation looked."""
        if earlier := self.earlier(root):
            first = earlier[0]
            raise CheckError(
                f"--test-once: the test images of {data} were read before: by {first.get('who')} at "
                f"{first.get('when')}, for {first.get('root')} ({self.path})"
            )

    def add(self, root: Path, what: str) -> None:
        """Note a look before it happens."""
        looks = self._read()
        here = str(root.resolve())
        if any(look.get("root") == here for look in looks):
            return
        who = f"{_user()} on {socket.gethostname()}"
        when = datetime.now(UTC).isoformat(timespec="seconds")
        looks.append({"who": who, "when": when, "root": here, "what": what})
        make_folder(self.path.parent)
        replace_durably(self.path, json.dumps(looks, indent=1).encode() + b"\n")

    def _read(self) -> list[dict[str, str]]:
        if not exists(self.path):
            return []
        try:
            looks = json.loads(read_text(self.path))
        except ValueError as error:
            raise ResultsError(f"{self.path}: cannot be read ({error}); restore it from a copy") from error
        return [look for look in looks if isinstance(look, dict)]


def _user() -> str:
    with contextlib.suppress(Exception):
        return getpass.getuser()
    return f"user {os.getuid()}"
