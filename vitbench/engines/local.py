"""Trials one after another in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vitbench.engines.attempt import OUT_OF_MEMORY, execute_locked
from vitbench.engines.options import Emit, Options
from vitbench.events import Warned
from vitbench.plan import Trial


def run(trials: Sequence[Trial], options: Options, emit: Emit) -> Iterator[str]:
    """The ids of trials as they are committed; a trial that another process is at work on is passed over."""
    for trial in trials:
        try:
            ran = execute_locked(trial, options, emit)
        except OUT_OF_MEMORY as error:
            emit(Warned(f"out of memory on trial {trial.trial_id}; left missing ({error})"))
            continue
        if ran:
            yield trial.trial_id
