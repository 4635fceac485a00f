"""Trials one after another in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vitbench.engines.attempt import execute_locked
from vitbench.engines.options import Emit, Options
from vitbench.plan import Trial


def run(trials: Sequence[Trial], options: Options, emit: Emit) -> Iterator[str]:
    """The ids of trials as they are committed; a trial that another process is at work on is passed over."""
    for trial in trials:
        if execute_locked(trial, options, emit):
            yield trial.trial_id
