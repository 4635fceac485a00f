"""Which seeds a verdict is drawn from: a fixed number, declared looks, or a fixed design that was extended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vitbench.spec.experiment import Experiment
from vitbench.stats.looks import (
    DEFAULT_LOOKS,
    FIRST_EDITION,
    FIRST_EDITION_LOOKS,
    FIRST_EDITION_POWER,
    SPENDING_POWER,
    Schedule,
    fixed,
    schedule,
)

Reached = Callable[[int], bool]
"""Whether every arm of a claim has this many seeds."""


@dataclass(frozen=True)
class Design:
    """The schedule, the seeds at each look reached so far, the schedule of coming looks, and what to say of it."""

    plan: Schedule
    seeds: tuple[tuple[int, ...], ...]
    ahead: Schedule
    notes: tuple[str, ...]


def races(experiment: Experiment) -> bool:
    """Whether the experiment tunes by a race."""
    return experiment.tune is not None and experiment.tune.races


def rule(experiment: Experiment) -> str:
    """How arms are tuned and looks are spent, in words: verdicts are compared under one rule only."""
    if experiment.tune is None:
        return "untuned"
    return "race" if experiment.tune.races else "first edition: tuning seeds of their own"


def usual_looks(experiment: Experiment) -> Schedule:
    """The looks of a design that declares none. First-edition and untuned files keep those they were judged by."""
    return schedule(DEFAULT_LOOKS) if races(experiment) else FIRST_EDITION[FIRST_EDITION_LOOKS]


def spending_power(experiment: Experiment) -> float:
    """How the error is spent over declared looks: by the file's edition, never by its results."""
    looks = tuple(experiment.seeds.looks or ())
    first_edition = experiment.tune is not None or looks in FIRST_EDITION
    return FIRST_EDITION_POWER if first_edition and not races(experiment) else SPENDING_POWER


def design(experiment: Experiment, reached: Reached) -> Design:
    """The design of a claim whose arms have the seeds that `reached` says.

    Seeds between two looks wait. The first look is judged on what there is. A fixed design grown past a usual look is
    judged by the usual looks; looks beyond the declared maximum have the anytime-valid bound.
    """
    usual = usual_looks(experiment)
    seeds = experiment.seeds
    if seeds.chosen is not None and sorted(seeds.chosen) != list(range(len(seeds.chosen))):
        note = "exploratory: the seeds were picked by hand"
        return Design(fixed(max(2, len(seeds.chosen))), (tuple(sorted(seeds.chosen)),), usual, (note,))
    if seeds.looks is not None:
        plan = schedule(tuple(seeds.looks), tuple(seeds.extended), spending_power(experiment))
        reached_looks = _reached(plan, reached)
        beyond = len(reached_looks) > len(seeds.looks)
        note = f"extended beyond the declared maximum of {seeds.looks[-1]} seeds: error up to twice the stated level"
        return Design(plan, reached_looks, plan, (note,) if beyond else ())
    num = len(seeds.first())
    if any(num < look and reached(look) for look in usual.looks):
        note = (
            f"extended after a verdict at n = {num}: judged by looks {', '.join(map(str, usual.looks))}, error up to 9%"
        )
        return Design(usual, _reached(usual, reached), usual, (note,))
    return Design(fixed(max(2, num)), (tuple(range(num)),), usual, ())


def _reached(plan: Schedule, reached: Reached) -> tuple[tuple[int, ...], ...]:
    """The seeds of each look reached, of the first in any case."""
    count = 1
    while count < len(plan.looks) and reached(plan.looks[count]):
        count += 1
    return tuple(tuple(range(look)) for look in plan.looks[:count])
