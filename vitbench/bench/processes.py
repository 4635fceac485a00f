"""A command as a whole: its seconds from start to end, and the most memory that its processes held together."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitbench.errors import VitbenchError

SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class Took:
    """What a command took: wall-clock and processor seconds, and the memory that its processes held together."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    output: str


def measure(command: Sequence[str], environment: Mapping[str, str]) -> Took:
    """Run a command to its end in a session of its own. Raises VitbenchError with its last lines where it fails."""
    started, before = time.perf_counter(), _children_seconds()
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_SECONDS):
            peak[0] = max(peak[0], _session_mib(process.pid))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    out, err = process.communicate()
    seconds = time.perf_counter() - started
    cpu_seconds = _children_seconds() - before
    over.set()
    watcher.join()
    if process.returncode:
        last = "\n".join(err.strip().splitlines()[-3:])
        raise VitbenchError(f"{' '.join(command)[:200]}: exit {process.returncode}\n{last}")
    return Took(seconds, cpu_seconds, peak[0], out)


def _session_mib(session: int) -> float:
    """Private memory of all processes of a session, in MiB (of a fork, also what it still shares); libraries and shared
    memory left out. 0 where the system does not tell.
    """
    pages = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                _, held, shared, *_ = (folder / "statm").read_text().split()
                pages += int(held) - int(shared)
        except (OSError, ValueError, IndexError):
            continue  # It ended meanwhile.
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _children_seconds() -> float:
    """Processor seconds of all children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
