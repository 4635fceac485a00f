"""Trials, one after another, in this process."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from vitbench.engines.execute import OUT_OF_MEMORY, execute_locked, free_memory
from vitbench.engines.options import MAX_LOSSES, Emit, Options, lost
from vitbench.plan.trials import Trial


def run(trials: Sequence[Trial], options: Options, emit: Emit) -> Generator[str, None, None]:
    """Yield the ids of trials as they are committed; skip trials that another process is running."""
    for trial in trials:
        if _attempt(trial, options, emit):
            yield trial.trial_id


def _attempt(trial: Trial, options: Options, emit: Emit) -> bool:
    """True if the trial was committed. Repeat it if memory runs out or a process is lost."""
    for loss in range(1, MAX_LOSSES + 1):
        try:
            return execute_locked(trial, options, emit)
        except OUT_OF_MEMORY as error:
            what = f"out of memory on trial {trial.trial_id} ({error})"
        free_memory()
        emit(lost(what, trial, loss))
    return False
