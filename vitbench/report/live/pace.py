"""How long trials take, learnt while they run: seconds by kind of trial, and from them the time that work will take.

FLOPs alone mislead: a tiny model, or one that validates often, takes more seconds per FLOP than a large one.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vitbench.store.events import Work

Kind = tuple[str, float, int]
"""What trials that cost alike have in common: arm, training FLOPs, steps."""

PRIOR_TRIALS = 0.2
"""Trials that the seconds per FLOP of all kinds together count for, beside those that a kind has of its own."""
LEAST_SHARE = 0.005
"""No time left is told before this share of the work is done in this session: one batch says nothing."""


def counted(work: Iterable[Work]) -> Counter[Kind]:
    """Numbers of trials by kind."""
    out: Counter[Kind] = Counter()
    for part in work:
        out[part.arm, part.train_flops, part.num_steps] += part.num_trials
    return out


@dataclass
class Durations:
    """Durations by kind: how many, and their sum in seconds."""

    by_kind: dict[Kind, tuple[int, float]] = field(default_factory=dict)

    def add(self, kind: Kind, seconds: float) -> None:
        """Takes one trial."""
        num, total = self.by_kind.get(kind, (0, 0.0))
        self.by_kind[kind] = num + 1, total + seconds

    @property
    def per_flop(self) -> float | None:
        """Seconds per FLOP of all kinds together; None before the first trial."""
        flops = sum(kind[1] * num for kind, (num, _) in self.by_kind.items())
        return sum(total for _, total in self.by_kind.values()) / flops if flops else None

    def mean(self, kind: Kind) -> float | None:
        """Seconds of a trial of the kind; None where there was none."""
        num, total = self.by_kind.get(kind, (0, 0.0))
        return total / num if num else None


class Pace:
    """Durations seen so far and the work done in this session; one is shared by all experiments of a suite.

    What a trial costs: the mean of its kind in this session, shrunk to what earlier sessions say of the kind (at this
    session's speed: a machine is now busier, now idler), else to the seconds per FLOP of all. Only proportions count:
    how fast the work goes is measured, the work done in this session over the time since its first trial began.
    """

    def __init__(self) -> None:
        self._earlier, self._session = Durations(), Durations()
        self._done: Counter[Kind] = Counter()
        self._began: float | None = None
        self._num_slots = 1

    def recall(self, kind: Kind, seconds: float) -> None:
        """Learns from a trial of an earlier session."""
        self._earlier.add(kind, seconds)

    def start(self, now: float, num_running: int) -> None:
        """A trial began and `num_running` are at work; the first of the session starts its clock."""
        self._began = now if self._began is None else self._began
        self._num_slots = max(self._num_slots, num_running)

    def finish(self, kind: Kind, seconds: float | None) -> None:
        """A trial of this session came to its end, after `seconds` where that tells what its kind takes."""
        self._done[kind] += 1
        if seconds is not None:
            self._session.add(kind, seconds)

    def elapsed(self, now: float) -> float:
        """Seconds since the first trial of this session began."""
        return 0.0 if self._began is None else now - self._began

    def costs(self, kinds: Iterable[Kind]) -> dict[Kind, float]:
        """What a trial of each kind costs: seconds, or FLOPs while no duration is known."""
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
        """This session's seconds for one of earlier sessions, over the kinds that both have seen."""
        both = [(part, self._earlier.mean(kind)) for kind, part in self._session.by_kind.items()]
        pairs = [(num, total, before) for (num, total), before in both if before is not None]
        return sum(total for _, total, _ in pairs) / sum(num * before for num, _, before in pairs) if pairs else 1.0

    def total(self, work: Mapping[Kind, float]) -> float:
        """What so many trials (or shares of one) of each kind cost together."""
        costs = self.costs(work)
        return sum(num * costs[kind] for kind, num in work.items())

    def left(self, work: Mapping[Kind, int], running: Sequence[tuple[Kind, float]], now: float) -> float | None:
        """Seconds until `work` is done, of which the trials in `running` have done a share; None while unknown."""
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
        """When the last of the trials ends; each waiting one, in the runner's order, takes the first free slot."""
        slots = [*running, *([0.0] * max(0, self._num_slots - len(running)))]
        heapq.heapify(slots)
        for cost in waiting:
            heapq.heapreplace(slots, slots[0] + cost)
        return max(slots)
