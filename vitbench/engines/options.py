"""Machine details of a run: how trials are executed, not what they compute."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vitbench.data import DataOptions
from vitbench.model.objective import objective_of
from vitbench.plan.trials import Trial
from vitbench.spec.trial import TrialSpec
from vitbench.store.events import Event, Warned

Emit = Callable[[Event], None]

MAX_LOSSES = 3
"""A trial that is lost (killed, out of memory) so often is left missing. A loss is never a record."""
HINT = "it may need a smaller train.batch_size, more train.grad_accum, fewer trials at once (-j 1) or --oom halve"


@dataclass(frozen=True)
class Options:
    """Machine details that every trial process receives, so they can be pickled."""

    root: Path
    data: DataOptions
    device: str = "cpu"
    gpus: tuple[int, ...] = ()
    """The GPUs that trial processes share out, by torch's number; empty: every process uses `device` as it is."""
    threads: int = 1
    processes: int = 1
    """Processes that train one trial together."""
    joins: bool = False
    """A launcher has started these processes, and this is one of them."""
    engine: str = "local"
    keep: str = "final"
    checkpoint_seconds: float = 60.0
    oom: str = "fail"
    program: str = "auto"
    recompute: bool = False
    code: tuple[str, ...] = ()
    """The user's code that trials need; a trial process imports it first."""


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def why_not_halve(spec: TrialSpec) -> str | None:
    """Why smaller micro-batches would change the result beyond rounding; None if they would not."""
    if spec.model.norm_layer == "batch":
        return "BatchNorm's statistics are those of a micro-batch"
    if objective_of(spec.train.objective).compares_images:
        return "the objective compares the images of a micro-batch"
    if spec.train.mixup or spec.train.cutmix:
        return "MixUp and CutMix mix images of one micro-batch"
    if spec.model.drop_rate or spec.model.drop_path_rate:
        return "dropout draws per micro-batch"
    return None


def why_not_share(spec: TrialSpec, processes: int) -> str | None:
    """Why several processes cannot train the trial of a resolved spec together; None if they can."""
    objective, train = objective_of(spec.train.objective), spec.train
    if spec.model.norm_layer == "batch":
        return "BatchNorm's statistics are those of one process's images"
    if objective.compares_images:
        return f"objective {objective.name} compares the images of a batch"
    if objective.state(spec.model):
        return f"objective {objective.name} keeps running means of a batch"
    if spec.model.drop_rate or spec.model.drop_path_rate:
        return "dropout and stochastic depth draw for a whole batch at once"
    if (smallest := train.batch_size // train.grad_accum) < processes:
        return f"a micro-batch has {smallest} images, fewer than processes"
    return None


def lost(what: str, trial: Trial, times: int) -> Warned:
    """The warning after the `times`-th loss of a trial."""
    if times < MAX_LOSSES:
        return Warned(f"{what}; trying again")
    return Warned(f"{what} for the third time; left missing: {HINT}", given_up=trial.trial_id)
