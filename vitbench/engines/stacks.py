"""Which trials may train as one stack, and how many at once. Reads specs only; needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from vitbench.plan.trials import Trial

MAX_STACK = 64
"""Largest stack. A larger one is no faster on a GPU that is already full, and an error costs more."""
RATES = {
    "lr", "weight_decay", "weight_decay_head", "sched", "warmup_fraction", "timescale_fraction", "cooldown_fraction",
}  # fmt: skip
MAY_DIFFER = {"train": RATES, "data": {"name", "train_fraction"}}
"""Fields in which the members of a stack may differ, beside the seed; the trainer reads them per member."""


def stack_key(trial: Trial) -> str | None:
    """Equal for trials that may be one stack: the resolved spec without the fields of MAY_DIFFER, and the images.

    Networks of other stages, such as a teacher, must have equal specs too; their weights are each member's own. None
    for a trial that is never stacked: dropout and stochastic depth draw for a stack as a whole.
    """
    model = trial.spec.model
    if model.drop_rate or model.drop_path_rate:
        return None
    shared = trial.spec.model_dump_json(exclude=MAY_DIFFER)
    networks = {role: network.model_dump_json() for role, network in sorted(trial.networks.items())}
    return f"{shared} {trial.data_fingerprint} {sorted(trial.parents)} {networks} {trial.stage}"


def most_in_stack(trials: Sequence[Trial], num_processes: int) -> int:
    """The largest stack that leaves every process some of the trials."""
    return max(1, min(MAX_STACK, -(-len(trials) // num_processes)))


def stacks(trials: Sequence[Trial], most: int = MAX_STACK) -> list[list[Trial]]:
    """The trials in stacks of at most `most`, of nearly equal sizes, in the order of their first members."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(stack_key(trial) or trial.trial_id, []).append(trial)
    return [part for group in groups.values() for part in split(group, most)]


def split(group: Sequence[Trial], most: int) -> list[list[Trial]]:
    """A group in the fewest parts of at most `most`, whose sizes differ by at most one."""
    count = -(-len(group) // most)
    ends = [len(group) * k // count for k in range(count + 1)]
    return [list(group[a:b]) for a, b in pairwise(ends)]
