"""The work that waits for a process or a node, and what becomes of lost trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from vitbench.engines.options import lost
from vitbench.engines.stacks import split
from vitbench.plan.trials import Trial
from vitbench.store.events import Warned


class WaitingWork:
    """Stacks and trials in order, the ids of trials that have not ended, and how often each trial was lost."""

    def __init__(self, works: Sequence[list[Trial]]) -> None:
        self.waiting = list(works)
        self.unfinished = {trial.trial_id for work in works for trial in work}
        self.losses: Counter[str] = Counter()

    def next(self) -> list[Trial] | None:
        """The first waiting work whose stages are finished."""
        for work in self.waiting:
            if all(self.unfinished.isdisjoint(trial.parents.values()) for trial in work):
                self.waiting.remove(work)
                return work
        return None

    def count_loss(self, trial: Trial, what: str) -> Warned:
        """Count a loss of a trial; what to say of it."""
        self.losses[trial.trial_id] += 1
        return lost(what, trial, self.losses[trial.trial_id])

    def repeat(self, trials: Iterable[Trial], told: Callable[[Trial], Warned], in_halves: bool = True) -> None:
        """Put lost trials back, except those of which `told`, called for each, says that they are given up.

        The trials of a stack come back in two halves, which need less memory.
        """
        again = []
        for trial in trials:
            if told(trial).given_up is None:
                again.append(trial)
            else:
                self.unfinished.discard(trial.trial_id)
        if again:
            self.waiting[:0] = split(again, -(-len(again) // 2) if in_halves else len(again))
