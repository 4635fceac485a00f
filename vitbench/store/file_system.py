"""What the file system under a results root can do: locks between processes and hosts, hard links, renames, fsync."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vitbench.base.contained import open_lock, open_to_read
from vitbench.base.durable import sync_folder
from vitbench.base.errors import ResultsError

PROBE = ".vitbench-doctor"
"""How names of files begin that are tried and removed."""
HELD = f"{PROBE}.lock"
SECOND_PROCESS = """
import fcntl, sys
with open(sys.argv[1]) as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(0)
sys.exit("a lock excludes nobody")
"""


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder inside `folder` to try things in; it is removed afterwards. Raises OSError if it cannot be made."""
    with tempfile.TemporaryDirectory(prefix=f"{PROBE}-", dir=folder) as name:
        yield Path(name)


def try_locks(folder: Path) -> None:
    """Raise OSError if a lock of this process does not exclude another process of this host."""
    path = folder / "lock"
    path.touch()
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        words = [sys.executable, "-I", "-S", "-c", SECOND_PROCESS, str(path)]
        second = subprocess.run(words, capture_output=True, text=True, check=False)
    if second.returncode:
        raise OSError(second.stderr.strip().splitlines()[-1])


def try_links(folder: Path) -> None:
    """Raise OSError if a file cannot have a second name."""
    file = folder / "linked"
    file.touch()
    os.link(file, folder / "link")


def try_rename(folder: Path) -> None:
    """Raise OSError if a rename does not replace a file."""
    new, old = folder / "new", folder / "old"
    new.write_text("new")
    old.write_text("old")
    os.replace(new, old)
    if old.read_text() != "new" or new.exists():
        raise OSError("a renamed file does not replace another")


def sync_seconds(folder: Path) -> float:
    """Seconds of one durable write."""
    began = time.monotonic()
    with (folder / "synced").open("w") as file:
        file.write("x")
        file.flush()
        os.fsync(file.fileno())
        sync_folder(folder)
    return time.monotonic() - began


@contextmanager
def holding(root: Path, seconds: float) -> Iterator[None]:
    """Hold a lock in the root that says who holds it and until when, for `held_elsewhere` on another host."""
    path = root / HELD
    with open_lock(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            file.truncate(0)
            file.write(json.dumps({"host": socket.gethostname(), "until": time.time() + seconds}).encode())
            os.fsync(file.fileno())
            yield
        finally:
            path.unlink(missing_ok=True)


def held_elsewhere(root: Path) -> tuple[str, bool] | None:
    """(host, does its lock exclude this process) of another process in `holding`; None if there is none."""
    unread = (FileNotFoundError, ResultsError, ValueError, KeyError, TypeError)
    with suppress(*unread), open_to_read(root / HELD) as file:
        holder = json.loads(file.read(1000))
        if float(holder["until"]) < time.time():
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return str(holder["host"]), True
        return str(holder["host"]), False
    return None


def require_locks(root: Path) -> None:
    """Raise ResultsError if several commands cannot share this root, because locks do not work there."""
    with scratch(root) as folder:
        try:
            try_locks(folder)
        except OSError as error:
            raise ResultsError(
                f"{root}: locks do not work here ({error.strerror or error}), so --shard commands would train one "
                "trial twice; choose --results on another file system, or give each command a root of its own"
            ) from error
