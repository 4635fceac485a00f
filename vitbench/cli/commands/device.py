"""Which device and how many processes a run gets."""

from __future__ import annotations

import os
import re
from pathlib import Path

from vitbench.base.errors import InputError
from vitbench.engines.options import num_cores


def choose_device(asked: str) -> str:
    """`cpu`, `cuda`, `cuda:1` or `mps`; `auto` takes what is there. Never a silent fall to the CPU.

    Raises InputError where the asked device is not there.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", asked):
        raise InputError(f"--device {asked}: allowed are auto, cpu, cuda, cuda:N, mps")
    if asked == "cpu" or (asked == "auto" and not _may_have_accelerator()):
        return "cpu"
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if asked == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("--device mps: this machine has no Metal device; try --device cpu")
        return asked
    if not torch.cuda.is_available():
        raise InputError(f"--device {asked}: torch sees no CUDA device here; try --device cpu")
    index = int(asked.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise InputError(f"--device {asked}: there are {torch.cuda.device_count()} CUDA devices, numbered from 0")
    return asked


def _may_have_accelerator() -> bool:
    """A look that costs nothing: only where it says yes is torch asked."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists() or os.uname().sysname == "Darwin"


def likely_device() -> str:
    """The device that `auto` is going to find, said without loading torch."""
    return "cuda" if _may_have_accelerator() else "cpu"


def choose_num_jobs(jobs: int | None, device: str, threads: int) -> int:
    """Processes at work: as asked, else one a core on a CPU (with `threads` each), one on an accelerator."""
    if jobs is not None:
        if jobs < 1:
            raise InputError(f"--jobs {jobs}: at least 1")
        return jobs
    return max(1, num_cores() // threads) if device == "cpu" else 1


def choose_num_workers(asked: int | None, device: str, jobs: int) -> int:
    """Processes that read images which do not fit in memory: as asked, else a core each beside an accelerator, none
    on a CPU, where the cores train.

    Raises InputError where several trials run at once, as their processes may not start others.
    """
    if asked is None:
        return 0 if device == "cpu" or jobs > 1 else max(1, num_cores() - 1)
    if asked and jobs > 1:
        raise InputError(f"--workers {asked}: not with {jobs} trials at once; add --jobs 1, or leave it out")
    return asked
