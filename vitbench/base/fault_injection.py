"""Faults at places that a test chooses; without a test there are none.

`VITBENCH_FAULT=<point>[:n[:kind]]`, under `VITBENCH_TESTING=1`, meets the n-th passing (default 1) of a point in each
process. `kind` is a signal that the process sends itself (default KILL), or one of ERRORS, which is raised.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter
from collections.abc import Callable

ERRORS: dict[str, Callable[[], Exception]] = {
    "memory": lambda: MemoryError("planted"),
    "allocator": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: planted"),
    "space": lambda: OSError(errno.ENOSPC, "No space left on device"),
    "quota": lambda: OSError(errno.EDQUOT, "Disk quota exceeded"),
    "ours": lambda: RuntimeError("planted"),
}

_passed: Counter[str] = Counter()


def fault(point: str) -> None:
    """Do nothing, unless a test requests a fault at this passing of `point`."""
    if "VITBENCH_FAULT" not in os.environ or os.environ.get("VITBENCH_TESTING") != "1":
        return
    given = os.environ["VITBENCH_FAULT"].split(":")
    target, number, kind = (*given, *("1", "KILL")[len(given) - 1 :])
    _passed[point] += 1
    if point != target or _passed[point] != int(number):
        return
    if kind in ERRORS:
        raise ERRORS[kind]()
    os.kill(os.getpid(), signal.Signals[f"SIG{kind}"])
