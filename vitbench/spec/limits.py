"""How many trials and seeds an experiment may have.

A file with more is a mistake or an attack: no experiment of the paper needs a fifth of it. A user who means it says so
once per command (`vitbench --max-trials N run ...`) or in VITBENCH_MAX_TRIALS, never in the file itself.
"""

from __future__ import annotations

from contextvars import ContextVar

DEFAULT_MAX_TRIALS = 10_000
LAST_SEED = 999
"""The last reporting seed; the tuning seeds of first-edition files come after it."""
WAY_OUT = "`vitbench --max-trials N` allows more"

_max_trials: ContextVar[int] = ContextVar("max_trials", default=DEFAULT_MAX_TRIALS)


def allow_trials(number: int) -> None:
    """Let the experiments of this command have up to so many trials."""
    _max_trials.set(number)


def max_trials() -> int:
    """The largest number of trials of one experiment."""
    return _max_trials.get()


def last_seed() -> int:
    """The last reporting seed: as many seeds as trials where more trials than usual are allowed."""
    return LAST_SEED if max_trials() <= DEFAULT_MAX_TRIALS else max_trials() - 1
