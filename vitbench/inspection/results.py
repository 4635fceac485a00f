"""The result of one analysis of one network, and the images that an analysis reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from vitbench.data import DataOptions
from vitbench.inspection.network import Subject
from vitbench.inspection.sample_images import Pictures, choose_pictures

Row = dict[str, Any]


@dataclass(frozen=True)
class Findings:
    """Numbers by name (one per network, which claims read), the rows of a table, and arrays for the figure."""

    metrics: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """The images of one analysis, read on first use."""

    subject: Subject
    images: str | None
    limit: int
    options: DataOptions

    @cached_property
    def test(self) -> Pictures:
        """Test images, the same for every network and seed."""
        return choose_pictures(self.subject, self.images, self.limit, self.options)

    @cached_property
    def fit(self) -> Pictures:
        """Training images for fitting probes: twice as many as test images."""
        return choose_pictures(self.subject, self.images, 2 * self.limit, self.options, fit=True)


Look = Callable[[Subject, Shown], Findings]
"""An analysis. Raises InputError, in one line, if it does not apply to the network."""
