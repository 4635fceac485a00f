"""What a GPU is doing, in a line under the live view."""

from __future__ import annotations

import contextlib
from collections.abc import Callable


def gauge_of(device: str) -> Callable[[], str] | None:
    """A reader of the GPU's memory, and of its use where nvidia-ml-py is installed; None on any other device."""
    if not device.startswith("cuda"):
        return None
    import torch

    index = int(device.partition(":")[2] or 0)
    use = _use_of(index)

    def read() -> str:
        free, total = torch.cuda.mem_get_info(index)
        return f"{torch.cuda.get_device_name(index)}: {(total - free) / 2**30:.1f} of {total / 2**30:.1f} GiB{use()}"

    return read


def _use_of(index: int) -> Callable[[], str]:
    """A reader of the GPU's use in percent; of nothing where nvidia-ml-py is not installed or finds no driver."""
    try:
        import pynvml  # type: ignore[import-not-found, unused-ignore]

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    except Exception:  # whatever keeps it from being read, the run goes on without
        return lambda: ""

    def read() -> str:
        with contextlib.suppress(pynvml.NVMLError):
            return f", {pynvml.nvmlDeviceGetUtilizationRates(handle).gpu}% in use"
        return ""

    return read
