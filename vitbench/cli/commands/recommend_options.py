"""The options of `vitbench recommend`, as one value, and their checks."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import Path

from vitbench.base.errors import InputError
from vitbench.cli.commands.prepare import slug
from vitbench.data import DataOptions
from vitbench.recommend.search import AIMS, Aim


@dataclass(frozen=True)
class RecommendOptions:
    """The options of `vitbench recommend`. `results` None: a folder of its own for these images and this aim."""

    data: str
    max_hours: float
    aim: Aim
    where: DataOptions
    results: Path | None = None
    img_size: int | None = None
    test_once: bool = False
    onnx: bool = False
    device: str = "auto"
    jobs: int | None = None
    quiet: bool = False

    @property
    def root(self) -> Path:
        """The results root."""
        if self.results is not None:
            return self.results
        return Path("results") / f"recommend-{slug(self.data)}{'' if self.aim == 'accuracy' else f'-{self.aim}'}"

    @property
    def seconds(self) -> float:
        """The budget in seconds."""
        return 3600.0 * self.max_hours

    @property
    def command(self) -> str:
        """The command that goes on with this recommendation."""
        words = ["vitbench", "recommend", "--data", self.data, "--max-hours", f"{self.max_hours:g}"]
        words += ["--for", self.aim] if self.aim != "accuracy" else []
        words += ["--test-once"] if self.test_once else []
        words += ["--onnx"] if self.onnx else []
        words += ["--img-size", str(self.img_size)] if self.img_size else []
        words += ["--results", str(self.results)] if self.results else []
        return shlex.join(words)


def aim_named(text: str) -> Aim:
    """The aim of `--for`. Raises InputError."""
    for aim in AIMS:
        if aim == text:
            return aim
    raise InputError(f"--for {text}: allowed are {', '.join(AIMS)}")


def check_hours(hours: float) -> float:
    """The budget of `--max-hours`. Raises InputError unless it is above 0 and finite."""
    if not (math.isfinite(hours) and hours > 0.0):
        raise InputError(f"--max-hours {hours:g}: needs a number above 0, such as 2 or 0.25")
    return hours
