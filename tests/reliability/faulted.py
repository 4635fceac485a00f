"""Tiny trials, and trainings of them that meet a fault: in this process where it raises, in a child where it kills."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from vitbench import faults
from vitbench.arms import arms
from vitbench.data import DataOptions, Facts, facts
from vitbench.engines.options import Options
from vitbench.errors import VitbenchError
from vitbench.events import Event, Warned
from vitbench.experiment import Suite
from vitbench.interrupts import Interrupted, Terminated, stoppable
from vitbench.load import loads
from vitbench.plan import Builder, Trial
from vitbench.record import Record
from vitbench.store import Store

NUM_STEPS = 12
TINY = f"""
name: tiny
base:
  data: {{name: fake, val_fraction: 0.2}}
  model: {{patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2, mlp_ratio: 2.0}}
  train: {{steps: {NUM_STEPS}, batch_size: 16, lr: 4e-3}}
"""
STAGED = (
    TINY
    + """
stages:
  - {name: pretrain, train: {steps: 8, objective: {name: masked_patch}}}
  - {name: transfer, train: {steps: 6}}
"""
)


def facts_of(name: str) -> Facts:
    return facts(name, DataOptions())


def planned(text: str = TINY, seeds: Sequence[int] = (0,)) -> list[Trial]:
    """The trials of a file's baseline arm, stage by stage."""
    made = loads(text, "tiny.yaml")
    assert not isinstance(made, Suite)
    builder = Builder(made, facts_of)
    return [trial for seed in seeds for trial in builder.trials(arms(made)[0], {}, seed, "reporting")]


def options(root: Path, every: float = 0.0, **changes: Any) -> Options:
    """Checkpoints after every step, unless a test says otherwise."""
    return Options(root=root, data=changes.pop("data", DataOptions()), checkpoint_seconds=every, **changes)


@contextmanager
def fault(wanted: str | None) -> Iterator[None]:
    """Within it, one fault point is armed, counted from here."""
    faults._passed.clear()
    os.environ["VITBENCH_TESTING"] = "1"
    if wanted is not None:
        os.environ["VITBENCH_FAULT"] = wanted
    try:
        yield
    finally:
        for name in ("VITBENCH_TESTING", "VITBENCH_FAULT"):
            os.environ.pop(name, None)


@dataclass(frozen=True)
class Work:
    """What a child process is to train, one trial after another, and the fault that it meets."""

    trials: tuple[Trial, ...]
    options: Options
    fault: str | None = None


def _work(work: Work) -> None:
    from vitbench.engines import local

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    with fault(work.fault):
        try:
            with stoppable():
                list(local.run(work.trials, work.options, lambda event: None))
        except VitbenchError as error:
            sys.exit(error.exit_code)
        except (Terminated, Interrupted) as stop:
            sys.exit(143 if isinstance(stop, Terminated) else 130)


def started(target: Any, *arguments: Any) -> BaseProcess:
    """A child forked from a process that has torch loaded, and has never used it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vitbench.engines.attempt"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def in_child(trials: Sequence[Trial], how: Options, wanted: str | None) -> int | None:
    """The exit code of a child that trains under a fault; minus the number of the signal that killed it."""
    process = started(_work, Work(tuple(trials), how, wanted))
    process.join(timeout=120)
    assert process.exitcode is not None, "the child hangs"
    return process.exitcode


def here(trials: Sequence[Trial], how: Options, wanted: str | None = None) -> list[Event]:
    """What is said while trials are trained one after another in this process."""
    from vitbench.engines import local

    said: list[Event] = []
    with fault(wanted):
        list(local.run(trials, how, said.append))
    return said


def stack(trials: Sequence[Trial], how: Options, wanted: str | None = None) -> list[Event]:
    """As `here`, all trials as one stack and in one attempt: a fault is raised."""
    from vitbench.engines.attempt import execute

    said: list[Event] = []
    with fault(wanted):
        execute(trials, how, said.append)
    return said


def warnings(said: Sequence[Event]) -> list[str]:
    return [event.message for event in said if isinstance(event, Warned)]


def record(root: Path, trial: Trial) -> Record:
    found = Store(root).read(trial.trial_id)
    assert found is not None
    return found


def left(root: Path, trials: Sequence[Trial]) -> dict[str, Any]:
    """All that must not depend on faults: results, and every file beside the records, byte for byte."""
    store = Store(root)
    out: dict[str, Any] = {}
    for trial in trials:
        found, folder = record(root, trial), store.folder(trial.trial_id)
        out[trial.trial_id] = found.status, found.reason, found.result
        for name in ("predictions.npz", "checkpoints/final.safetensors"):
            path = folder / name
            out[f"{trial.trial_id}/{name}"] = path.read_bytes() if path.is_file() else None
    return out


def checkpoints(root: Path, trial: Trial) -> list[str]:
    """Names in the checkpoint folder, temporary ones included."""
    folder = Store(root).weights(trial.trial_id).parent
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def saved_steps(root: Path, trial: Trial) -> list[int]:
    """Steps of the checkpoints that have a sidecar, newest first."""
    names = [name for name in checkpoints(root, trial) if name.startswith("step-") and name.endswith(".sha256")]
    return sorted((int(name[5:14]) for name in names), reverse=True)
