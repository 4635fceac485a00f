"""Which engine runs a list of trials, and why: a pure function of what is known before torch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitbench.base.errors import InputError
from vitbench.engines.stacks import stacks
from vitbench.plan.trials import Trial

ENGINES = ("auto", "local", "workers", "fused")


@dataclass(frozen=True)
class EngineChoice:
    """An engine by name, its processes, and the reason."""

    engine: str
    num_workers: int
    reason: str

    def words(self) -> str:
        """One line for people."""
        processes = f", {self.num_workers} processes" if self.num_workers > 1 else ""
        return f"engine: {self.engine}{processes} ({self.reason})"


def check(asked: str, jobs: int | None, recompute: bool = False) -> None:
    """Raises InputError where there is no such engine, or it cannot have so many processes, or cannot recompute."""
    if asked not in ENGINES:
        raise InputError(f"--engine {asked}: allowed are {', '.join(ENGINES)}")
    if asked in ("local", "fused") and (jobs or 1) > 1:
        raise InputError(f"--jobs {jobs}: --engine {asked} is one process; leave it out, or --engine workers")
    if asked == "fused" and recompute:
        raise InputError(
            "--recompute: computes the blocks of one trial again, not of a stack; leave out --engine fused"
        )


def choose_engine(asked: str, device: str, workers: int, trials: Sequence[Trial]) -> EngineChoice:
    """The engine for `trials` on a device with `workers` processes to have; `asked` overrides.

    On a GPU trials of equal shapes are stacked: small models leave it idle between launches. On a CPU every core has a
    process of its own: there a stack was slower than its members one by one for all but the tiniest models.
    """
    if asked == "workers":
        return EngineChoice("workers", workers, "as asked")
    if asked in ("local", "fused"):
        return EngineChoice(asked, 1, "as asked")
    if device == "cpu" and workers > 1:
        return EngineChoice("workers", workers, "a process a core: on a CPU stacks are slower, docs/PERFORMANCE.md")
    if device == "cpu":
        return EngineChoice("local", 1, "one process asked for, or one core")
    if workers > 1:
        return EngineChoice("workers", workers, "several processes asked for")
    made = stacks(trials)
    largest = max(map(len, made), default=0)
    if largest < 2:
        return EngineChoice("local", 1, "no two trials have equal shapes, so none can be stacked")
    return EngineChoice("fused", 1, f"{len(trials)} trials in {len(made)} stacks of up to {largest}, memory permitting")
