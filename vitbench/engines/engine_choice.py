"""Which engine runs a list of trials, and why: a pure function that needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitbench.base.errors import InputError
from vitbench.engines.stacks import most_in_stack, stacks
from vitbench.plan.trials import Trial

ENGINES = ("auto", "local", "workers", "fused", "ray")


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


def check(engine: str, jobs: int | None, recompute: bool = False, num_gpus: int = 1) -> None:
    """Raise InputError for an unknown engine, and for options that the engine does not support."""
    if engine not in ENGINES:
        raise InputError(f"--engine {engine}: allowed are {', '.join(ENGINES)}")
    if engine == "local" and (jobs or 1) > 1:
        raise InputError(f"--jobs {jobs}: --engine local uses one process; omit --engine or use --engine workers")
    if engine == "local" and num_gpus > 1:
        raise InputError("--engine local uses one process, so one GPU; omit --engine or name one GPU, as cuda:0")
    if engine == "fused" and recompute:
        raise InputError("--recompute does not work on stacked trials; omit --engine fused")


def choose_engine(
    requested: str, device: str, num_jobs: int, trials: Sequence[Trial], num_gpus: int = 1
) -> EngineChoice:
    """The engine for `trials` on a device, with `num_jobs` trial processes available; `requested` overrides it.

    A GPU runs trials of equal shapes as a stack, because small models leave it idle between launches; of several GPUs
    each runs its own stacks. A CPU runs one process per core: there a stack is slower than its members one by one,
    except for the tiniest models.
    """
    if requested in ("workers", "fused"):
        return EngineChoice(requested, num_jobs, "as requested")
    if requested == "local":
        return EngineChoice("local", 1, "as requested")
    if device == "cpu" and num_jobs > 1:
        return EngineChoice("workers", num_jobs, "one per core: stacks are slower on a CPU, docs/PERFORMANCE.md")
    if device == "cpu":
        return EngineChoice("local", 1, "one process requested, or one core")
    if num_jobs > num_gpus:
        return EngineChoice("workers", num_jobs, "several processes requested")
    candidates = stacks(trials, most_in_stack(trials, num_gpus))
    largest = max(map(len, candidates), default=0)
    if largest < 2:
        engine = "workers" if num_jobs > 1 else "local"
        return EngineChoice(engine, num_jobs, "no two trials have equal shapes, so nothing can be stacked")
    return EngineChoice(
        "fused", num_jobs, f"{len(trials)} trials in {len(candidates)} stacks of up to {largest} trials"
    )
