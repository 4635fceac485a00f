"""Machine details of a run: how trials are executed, not what they compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vitbench.data import DataOptions
from vitbench.events import Event

Emit = Callable[[Event], None]


@dataclass(frozen=True)
class Options:
    """Picklable, since workers receive it."""

    root: Path
    data: DataOptions
    device: str = "cpu"
    threads: int = 1
    engine: str = "local"
    keep: str = "final"
