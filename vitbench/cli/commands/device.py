"""Choose the device and the number of processes of a run."""

from __future__ import annotations

import os
import re
from pathlib import Path

from vitbench.base.errors import InputError
from vitbench.cli.commands.run_options import RunOptions
from vitbench.engines.options import num_cores
from vitbench.engines.ray_options import (
    RAY_ENGINE,
    RayOptions,
    check_address,
    check_commit,
    gpus_of,
    refuse_without_ray,
    require_ray,
)


def choose_devices(name: str) -> tuple[str, tuple[int, ...]]:
    """The device of each trial process, and the GPUs that the processes share out; none where all use one device.

    `cuda:all` and `cuda:0,2` name several GPUs. A process then sees only its own GPU, so its device is `cuda`.
    """
    numbers = name.removeprefix("cuda:")
    if not re.fullmatch(r"cuda:(all|\d+(,\d+)+)", name):
        return choose_device(name), ()
    count = _num_gpus(name)
    gpus = tuple(range(count)) if numbers == "all" else tuple(int(number) for number in numbers.split(","))
    if len(set(gpus)) < len(gpus):
        raise InputError(f"--device {name}: a GPU stands twice")
    if max(gpus) >= count:
        raise InputError(f"--device {name}: there are {count} CUDA devices, numbered from 0")
    return ("cuda", gpus) if len(gpus) > 1 else (f"cuda:{gpus[0]}", ())


def _num_gpus(name: str) -> int:
    """The number of GPUs that torch sees. Raises InputError if there is none."""
    import torch

    if not torch.cuda.is_available():
        raise InputError(f"--device {name}: torch sees no CUDA device here; try --device cpu")
    return torch.cuda.device_count()


def choose_device(name: str) -> str:
    """`cpu`, `cuda`, `cuda:1` or `mps`; `auto` takes the best device of this machine.

    Raises InputError if the named device is missing: a run never falls back to the CPU in silence.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise InputError(f"--device {name}: allowed are auto, cpu, cuda, cuda:N, cuda:N,M, cuda:all, mps")
    if name == "cpu" or (name == "auto" and not _may_have_accelerator()):
        return "cpu"
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("--device mps: this machine has no Metal device; try --device cpu")
        return name
    count = _num_gpus(name)
    if int(name.partition(":")[2] or 0) >= count:
        raise InputError(f"--device {name}: there are {count} CUDA devices, numbered from 0")
    return name


def _may_have_accelerator() -> bool:
    """A cheap look for an accelerator, so that torch is loaded only if there may be one."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists() or os.uname().sysname == "Darwin"


def likely_device() -> str:
    """The device that `auto` will probably choose, without loading torch."""
    return "cuda" if _may_have_accelerator() else "cpu"


def choose_num_jobs(jobs: int | None, device: str, threads: int, num_gpus: int = 1) -> int:
    """Number of trial processes: --jobs, else one per `threads` cores on a CPU, and one on an accelerator.

    Of several GPUs each gets that many.
    """
    if jobs is not None:
        if jobs < 1:
            raise InputError(f"--jobs {jobs}: at least 1")
        return jobs * num_gpus
    return max(1, num_cores() // threads) if device == "cpu" else num_gpus


def shard_of(text: str | None) -> tuple[int, int]:
    """The part of the trials to begin with and the number of parts, from `I/N`; counted from 0. Raises InputError."""
    if text is None:
        return 0, 1
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    part, num_parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= num_parts:
        raise InputError(f"--shard {text}: allowed is I/N with I from 1 to N, for example 2/8")
    return part - 1, num_parts


def choose_cluster(options: RunOptions) -> RayOptions | None:
    """The cluster of `--engine ray`; None for other engines. Raises InputError; starts and joins nothing."""
    if options.engine != RAY_ENGINE:
        refuse_without_ray(options.ray_address, options.gpus_per_trial, options.commit)
        return None
    require_ray()
    cpus = options.threads + (options.workers or 0)
    return RayOptions(
        address=check_address(options.ray_address or "local"),
        gpus_per_trial=gpus_of(options.gpus_per_trial, options.device),
        cpus_per_trial=cpus,
        commit=check_commit(options.commit or "driver"),
        num_jobs=options.jobs,
        num_local_cpus=cpus * choose_num_jobs(options.jobs, "cpu", cpus),
    )


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
