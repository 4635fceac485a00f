"""The machine that a trial runs on, as its record describes it."""

from __future__ import annotations

import contextlib
import functools
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory of the process on the CPU, of the allocator on a GPU."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def device_name(device: str) -> str:
    """The device in words: a GPU's name, or the processor's kind, vector instructions and maker.

    Equal names mean equal bits: the instructions and the maker decide which kernels torch and its libraries use.
    """
    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(torch.device(device))})"
    parts = (platform.machine(), torch.backends.cpu.get_cpu_capability(), _cpu_maker())
    return f"{device} ({', '.join(part for part in parts if part)})"


@functools.cache
def _cpu_maker() -> str:
    """The maker of the processor as Linux states it, GenuineIntel say; empty elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("vendor_id"):
                return line.partition(":")[2].strip()
    return ""


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the packages that can change a number."""
    installed = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "numpy", "vitbench", "pillow", "scikit-learn"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


@functools.cache
def checkout() -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the checkout that this code runs from; (None, None) for an installed package."""
    folder = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    if git("ls-files", "--error-unmatch", __file__) is None:
        return None, None
    return git("rev-parse", "--short=12", "HEAD"), bool(git("status", "--porcelain"))
