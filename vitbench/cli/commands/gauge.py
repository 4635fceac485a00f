"""Memory and use of the GPU, for a line under the live view."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence


def gauge_of(device: str, gpus: Sequence[int] = ()) -> Callable[[], str] | None:
    """Return a function that reads the memory of the GPUs, and their use if nvidia-ml-py is installed.

    None without a GPU. `gpus`: those that the trial processes share out; empty: the one of `device`.
    """
    if not device.startswith("cuda"):
        return None
    gauges = [_gauge(index) for index in gpus or [int(device.partition(":")[2] or 0)]]
    return lambda: "; ".join(gauge() for gauge in gauges)


def _gauge(index: int) -> Callable[[], str]:
    import torch

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
