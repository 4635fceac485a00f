"""Which seeds a verdict is drawn from: a fixed number, declared looks, or a fixed design that was extended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitbench.spec.experiment import Experiment
from vitbench.stats.contrasts import Cell
from vitbench.stats.looks import CALIBRATED, DEFAULT_LOOKS, Schedule, fixed, schedule
from vitbench.stats.paired_sample import observed
from vitbench.stats.table import TrialTable


@dataclass(frozen=True)
class Design:
    """The schedule, the seeds at each look reached so far, the schedule of coming looks, and what to say of it."""

    plan: Schedule
    seeds: tuple[tuple[int, ...], ...]
    ahead: Schedule
    notes: tuple[str, ...]


def design(experiment: Experiment, cells: Sequence[Cell], table: TrialTable) -> Design:
    """The design of a claim that reads `cells`.

    A look is reached when every cell has a trial at all of its seeds; seeds between two looks wait. The first look is
    judged on what there is. A fixed design grown past a default look is judged by the default looks.
    """
    usual = CALIBRATED[DEFAULT_LOOKS]
    chosen = experiment.seeds.chosen
    if chosen is not None and sorted(chosen) != list(range(len(chosen))):
        note = "exploratory: the seeds were picked by hand"
        return Design(fixed(max(2, len(chosen))), (tuple(sorted(chosen)),), usual, (note,))
    shared, _ = observed(cells, table)
    count = next((seed for seed in range(len(shared) + 1) if seed not in shared), 0)
    if experiment.seeds.looks is not None:
        plan = schedule(tuple(experiment.seeds.looks))
        return Design(plan, _reached(plan, count), plan, ())
    num = len(experiment.seeds.first())
    if any(num < look <= count for look in usual.looks):
        note = (
            f"extended after a verdict at n = {num}: judged by looks {', '.join(map(str, usual.looks))}, error up to 9%"
        )
        return Design(usual, _reached(usual, count), usual, (note,))
    return Design(fixed(max(2, num)), (tuple(range(num)),), usual, ())


def _reached(plan: Schedule, count: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(range(look)) for look in plan.looks[: plan.upto(count)])
