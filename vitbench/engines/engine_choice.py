"""Which engine runs a list of trials, and why: a pure function that needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitbench.base.errors import InputError
from vitbench.engines.stacks import stacks
from vitbench.plan.trials import Trial

ENGINES = ("auto", "local", "workers", "fused")


@dataclass(frozen=True)
class EngineChoice:
    """An engine by name, its number of trial processes, and the reason."""

    engine: str
    num_jobs: int
    reason: str

    def words(self) -> str:
        """One line for people."""
        processes = f", {self.num_jobs} processes" if self.num_jobs > 1 else ""
        return f"engine: {self.engine}{processes} ({self.reason})"


def check(engine: str, jobs: int | None, recompute: bool = False) -> None:
    """Raise InputError for an unknown engine, and for options that the engine does not support."""
    if engine not in ENGINES:
        raise InputError(f"--engine {engine}: allowed are {', '.join(ENGINES)}")
    if engine in ("local", "fused") and (jobs or 1) > 1:
        raise InputError(f"--jobs {jobs}: --engine {engine} uses one process; omit --engine or use --engine workers")
    if engine == "fused" and recompute:
        raise InputError("--recompute does not work on stacked trials; omit --engine fused")


def choose_engine(requested: str, device: str, num_jobs: int, trials: Sequence[Trial]) -> EngineChoice:
    """The engine for `trials` on a device, with `num_jobs` trial processes available; `requested` overrides it.

    A GPU runs trials of equal shapes as a stack, because small models leave it idle between launches. A CPU runs one
    process per core: there a stack is slower than its members one by one, except for the tiniest models.
    """
    if requested == "workers":
        return EngineChoice("workers", num_jobs, "as requested")
    if requested in ("local", "fused"):
        return EngineChoice(requested, 1, "as requested")
    if device == "cpu" and num_jobs > 1:
        return EngineChoice("workers", num_jobs, "one per core: stacks are slower on a CPU, docs/PERFORMANCE.md")
    if device == "cpu":
        return EngineChoice("local", 1, "one process requested, or one core")
    if num_jobs > 1:
        return EngineChoice("workers", num_jobs, "several processes requested")
    candidates = stacks(trials)
    largest = max(map(len, candidates), default=0)
    if largest < 2:
        return EngineChoice("local", 1, "no two trials have equal shapes, so nothing can be stacked")
    return EngineChoice("fused", 1, f"{len(trials)} trials in {len(candidates)} stacks of up to {largest} trials")
