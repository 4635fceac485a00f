"""A command as a whole: its seconds from start to end, and the most memory that its processes held together."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitbench.base.errors import VitbenchError

SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class CommandCost:
    """What a command took: wall-clock seconds; processor seconds and memory of all its processes, sampled."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    output: str


def measure(command: Sequence[str], environment: Mapping[str, str]) -> CommandCost:
    """Run a command to its end in a session of its own. Raises VitbenchError with its last lines where it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    peak, spent, over = [0.0], dict[int, float](), threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_SECONDS):
            held = 0.0
            for pid, seconds, mib in _session(process.pid):
                spent[pid], held = seconds, held + mib
            peak[0] = max(peak[0], held)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    out, err = process.communicate()
    seconds = time.perf_counter() - started
    over.set()
    watcher.join()
    if process.returncode:
        last = "\n".join(err.strip().splitlines()[-3:])
        raise VitbenchError(f"{' '.join(command)[:200]}: exit {process.returncode}\n{last}")
    return CommandCost(seconds, sum(spent.values()), peak[0], out)


def _session(session: int) -> Iterator[tuple[int, float, float]]:
    """Id, processor seconds and private MiB of every process of a session, whoever waits for it; libraries and shared
    memory are left out, and what a fork still shares counts in each. Nothing where the system does not tell.
    """
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                _, held, shared, *_ = (folder / "statm").read_text().split()
                pages, ticks = int(held) - int(shared), int(fields[11]) + int(fields[12])
                yield int(folder.name), ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        except (OSError, ValueError, IndexError):
            continue  # It ended meanwhile.
