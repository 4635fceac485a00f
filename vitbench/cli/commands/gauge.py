"""Memory and use of the GPU, for a line under the live view."""

from __future__ import annotations

import contextlib
from collections.abc import Callable


def gauge_of(device: str) -> Callable[[], str] | None:
    """Return a function that reads the GPU's memory, and its use if nvidia-ml-py is installed; None without a GPU."""
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
    """Return a function that reads the GPU's use in percent, or an empty text without nvidia-ml-py."""
    try:
        import pynvml  # type: ignore[import-not-found, unused-ignore]

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    except Exception:  # the run works without this number, whatever the error is
        return lambda: ""

    def read() -> str:
        with contextlib.suppress(pynvml.NVMLError):
            return f", {pynvml.nvmlDeviceGetUtilizationRates(handle).gpu}% in use"
        return ""

    return read
