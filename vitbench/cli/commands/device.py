"""Choose the device and the number of processes of a run."""

from __future__ import annotations

import os
import re
from pathlib import Path

from vitbench.base.errors import InputError
from vitbench.engines.options import num_cores


def choose_device(name: str) -> str:
    """`cpu`, `cuda`, `cuda:1` or `mps`; `auto` takes the best device of this machine.

    Raises InputError if the named device is missing: a run never falls back to the CPU in silence.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise InputError(f"--device {name}: allowed are auto, cpu, cuda, cuda:N, mps")
    if name == "cpu" or (name == "auto" and not _may_have_accelerator()):
        return "cpu"
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("--device mps: this machine has no Metal device; try --device cpu")
        return name
    if not torch.cuda.is_available():
        raise InputError(f"--device {name}: torch sees no CUDA device here; try --device cpu")
    index = int(name.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise InputError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, numbered from 0")
    return name


def _may_have_accelerator() -> bool:
    """A cheap look for an accelerator, so that torch is loaded only if there may be one."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists() or os.uname().sysname == "Darwin"


def likely_device() -> str:
    """The device that `auto` will probably choose, without loading torch."""
    return "cuda" if _may_have_accelerator() else "cpu"


def choose_num_jobs(jobs: int | None, device: str, threads: int) -> int:
    """Number of trial processes: --jobs, else one per `threads` cores on a CPU, and one on an accelerator."""
    if jobs is not None:
        if jobs < 1:
            raise InputError(f"--jobs {jobs}: at least 1")
        return jobs
    return max(1, num_cores() // threads) if device == "cpu" else 1


def choose_num_workers(num_workers: int | None, device: str, jobs: int) -> int:
    """Number of image-loading processes: --workers, else one per free core beside an accelerator, and 0 on a CPU.

    Raises InputError if several trials run at once: their processes cannot start more processes.
    """
    if num_workers is None:
        return 0 if device == "cpu" or jobs > 1 else max(1, num_cores() - 1)
    if num_workers and jobs > 1:
        raise InputError(
            f"--workers {num_workers}: works with one trial at a time, not {jobs}; add --jobs 1, or leave --workers out"
        )
    return num_workers
