"""What one look into one network gives, and the images that it may ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from vitbench.data import DataOptions
from vitbench.inspection.network import Subject
from vitbench.inspection.pictures import Pictures, choose_pictures

Row = dict[str, Any]


@dataclass(frozen=True)
class Findings:
    """Named numbers (one a network each: what claims read), the rows of a table, and arrays for the figure."""

    metrics: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """The images of one look, read when they are asked for."""

    subject: Subject
    images: str | None
    limit: int
    options: DataOptions

    @cached_property
    def test(self) -> Pictures:
        """The images that are looked at."""
        return choose_pictures(self.subject, self.images, self.limit, self.options)

    @cached_property
    def fit(self) -> Pictures:
        """Training images, twice as many, on which probes are fitted."""
        return choose_pictures(self.subject, self.images, 2 * self.limit, self.options, fit=True)


Look = Callable[[Subject, Shown], Findings]
"""Raises InputError, in one line, where the network has nothing of the kind."""
