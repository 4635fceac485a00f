"""One trial at a time on several processes (`--processes K`): how they start or join, and what each of them does.

Process 0 is an ordinary trial process: it holds lock, checkpoint and record. The others follow it: they wait for the
trial that it announces, and train along.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from vitbench.base.errors import IncompleteError, VitbenchError
from vitbench.engines.options import Emit, Options
from vitbench.plan.trials import Trial

if TYPE_CHECKING:
    from vitbench.train.process_group import JoinedGroup

HERE = "127.0.0.1"
LOST_EXIT = 137
"""As a shell reports a killed process: neither is a fault of the trial."""


def free_port() -> int:
    """A port of this machine that is free now. If another program takes it first, the attempt is lost and repeated."""
    with socket.socket() as listening:
        listening.bind((HERE, 0))
        return int(listening.getsockname()[1])


def meet_here(port: int, rank: int, size: int) -> JoinedGroup:
    """Join the group of processes that this command has started on this machine. Raises MemoryError."""
    from vitbench.train.process_group import join, store_at

    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return join(store_at(HERE, port, rank, size), rank, size)


def join_launched() -> JoinedGroup:
    """Join the group that a launcher such as torchrun describes in the environment. Raises MemoryError."""
    from torch.distributed import rendezvous  # type: ignore[attr-defined]

    from vitbench.train.process_group import STEP_TIMEOUT, join

    return join(*next(rendezvous("env://", timeout=STEP_TIMEOUT)))


def follow(group: JoinedGroup, options: Options) -> None:
    """Train along with process 0 until it ends. Ends this process, with one line, if something fails here."""
    while (trial := group.next_work()) is not None:
        try:
            _train_along(trial, group, options)
        except MemoryError as error:
            raise SystemExit(LOST_EXIT) from error
        except Exception as error:
            print(f"error: process {group.rank} of trial {trial.trial_id}: {error}".splitlines()[0], file=sys.stderr)
            raise SystemExit(error.exit_code if isinstance(error, VitbenchError) else 1) from error


def _train_along(trial: Trial, group: JoinedGroup, options: Options) -> None:
    """The part of a process other than 0 in a trial: its share of every batch and of every evaluation."""
    from vitbench.engines.training_setup import images_of, trainer_of
    from vitbench.engines.trial_result import final_answers
    from vitbench.train.loop import train_stack
    from vitbench.train.trainer import Job

    images = images_of(trial, options)
    job = Job(trial.spec, trial.seed, networks=group.object_from_first(None))
    trainer = trainer_of([job], trial, images, options)
    final_answers(trainer, train_stack(trainer, lambda step, speed, loss: None))


def run(trials: Sequence[Trial], options: Options, emit: Emit) -> Generator[str, None, None]:
    """In process 0 of a launched group: yield the ids of trials as they are committed.

    Raises IncompleteError if a process is lost: only the launcher can start another group.
    """
    from vitbench.engines.execute import execute_locked

    for trial in trials:
        try:
            is_done = execute_locked(trial, options, emit)
        except MemoryError as error:
            raise IncompleteError(f"trial {trial.trial_id}: {error}; run the same command again to resume") from error
        if is_done:
            yield trial.trial_id
