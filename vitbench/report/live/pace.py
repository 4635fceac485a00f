"""Time left of a run, from the seconds that each kind of trial has taken so far.

FLOPs alone mislead: a tiny model, or one that validates often, takes more seconds per FLOP than a large one.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vitbench.store.events import Work

Kind = tuple[str, float, int]
"""Trials of one kind cost alike: arm, training FLOPs, steps."""

PRIOR_TRIALS = 0.2
"""Weight, in trials, of the estimate from all kinds beside the durations of the kind itself."""
LEAST_SHARE = 0.005
"""Show a time left only after this share of the work is done in this session: one batch says too little."""


def counted(work: Iterable[Work]) -> Counter[Kind]:
    """Numbers of trials by kind."""
    out: Counter[Kind] = Counter()
    for part in work:
        out[part.arm, part.train_flops, part.num_steps] += part.num_trials
    return out


@dataclass
class Durations:
    """Number of trials and sum of their seconds, by kind."""

    by_kind: dict[Kind, tuple[int, float]] = field(default_factory=dict)

    def add(self, kind: Kind, seconds: float) -> None:
        """Count one trial."""
        num, total = self.by_kind.get(kind, (0, 0.0))
        self.by_kind[kind] = num + 1, total + seconds

    @property
    def per_flop(self) -> float | None:
        """Seconds per FLOP of all kinds together; None before the first trial."""
        flops = sum(kind[1] * num for kind, (num, _) in self.by_kind.items())
        return sum(total for _, total in self.by_kind.values()) / flops if flops else None

    def mean(self, kind: Kind) -> float | None:
        """Mean seconds of a trial of the kind; None before the first."""
        num, total = self.by_kind.get(kind, (0, 0.0))
        return total / num if num else None


class Pace:
    """Durations so far and the work done in this session; all experiments of a suite share one.

    The cost of a trial is the mean of its kind in this session, shrunk towards the kind's mean in earlier sessions
    (scaled to this session's speed, since a machine is not always equally busy) or, without one, towards the seconds
    per FLOP of all kinds. Only proportions of costs matter: the speed is the work done in this session divided by the
    time since its first trial began.
    """

    def __init__(self) -> None:
        self._earlier, self._session = Durations(), Durations()
        self._done: Counter[Kind] = Counter()
        self._began: float | None = None
        self._num_slots = 1

    def recall(self, kind: Kind, seconds: float) -> None:
        """Learn from a trial of an earlier session."""
        self._earlier.add(kind, seconds)

    def start(self, now: float, num_running: int) -> None:
        """A trial began, and `num_running` trials run now; the first trial of the session starts its clock."""
        self._began = now if self._began is None else self._began
        self._num_slots = max(self._num_slots, num_running)

    def finish(self, kind: Kind, seconds: float | None) -> None:
        """A trial of this session ended; `seconds` is None if its duration says nothing about its kind."""
        self._done[kind] += 1
        if seconds is not None:
            self._session.add(kind, seconds)

    def elapsed(self, now: float) -> float:
        """Seconds since the first trial of this session began."""
        return 0.0 if self._began is None else now - self._began

    def costs(self, kinds: Iterable[Kind]) -> dict[Kind, float]:
        """Cost of a trial of each kind: seconds, or FLOPs while no duration is known."""
        per_flop = self._session.per_flop or self._earlier.per_flop or 1.0
        speed = self._speed()
        out = {}
        for kind in kinds:
            before = self._earlier.mean(kind)
            prior = kind[1] * per_flop if before is None else before * speed
            num, total = self._session.by_kind.get(kind, (0, 0.0))
            out[kind] = (total + PRIOR_TRIALS * prior) / (num + PRIOR_TRIALS)
        return out

    def _speed(self) -> float:
        """This session's seconds per second of earlier sessions, over the kinds that both have run."""
        both = [(part, self._earlier.mean(kind)) for kind, part in self._session.by_kind.items()]
        pairs = [(num, total, before) for (num, total), before in both if before is not None]
        return sum(total for _, total, _ in pairs) / sum(num * before for num, _, before in pairs) if pairs else 1.0

    def total(self, work: Mapping[Kind, float]) -> float:
        """Total cost of the given number of trials (or shares of a trial) of each kind."""
        costs = self.costs(work)
        return sum(num * costs[kind] for kind, num in work.items())

    def left(self, work: Mapping[Kind, int], running: Sequence[tuple[Kind, float]], now: float) -> float | None:
        """Seconds until `work` is done; `running`: (kind, share done) of the current trials. None while unknown."""
        costs, elapsed = self.costs([*work, *self._done, *(kind for kind, _ in running)]), self.elapsed(now)
        done = sum(costs[k] * n for k, n in self._done.items()) + sum(costs[k] * share for k, share in running)
        to_do = sum(costs[k] * n for k, n in work.items())
        if elapsed <= 0 or not done or done < LEAST_SHARE * (done + to_do):
            return None
        waiting = Counter(work)
        waiting.subtract(kind for kind, _ in running)
        rest = [costs[kind] for kind in sorted((+waiting).elements(), key=lambda kind: -kind[1])]
        return self._makespan([costs[k] * (1 - share) for k, share in running], rest) * elapsed * self._num_slots / done

    def _makespan(self, running: Sequence[float], waiting: Sequence[float]) -> float:
        """End of the last trial; each waiting trial, in the runner's order, takes the first free slot."""
        slots = [*running, *([0.0] * max(0, self._num_slots - len(running)))]
        heapq.heapify(slots)
        for cost in waiting:
            heapq.heapreplace(slots, slots[0] + cost)
        return max(slots)
