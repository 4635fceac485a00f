"""Where a trial stands on a claim's x axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from vitbench.stats.table import Row

_AXES: Mapping[str, Callable[[Row], float]] = {
    "log2_images": lambda row: math.log2(row["result"]["num_train_images"]),
    "log2_train_flops": lambda row: math.log2(row["result"]["train_flops"]),
    "log2_params": lambda row: math.log2(row["result"]["num_params"]),
    "log2_grid_side": lambda row: math.log2(row["grid_side"]),
    "depth": lambda row: float(row["depth"]),
}


def axis_value(row: Row, axis: str) -> float | None:
    """x of an ok trial; None of any other, whose counts may never have been written."""
    return _AXES[axis](row) if row["status"] == "ok" else None
