"""One trial process per core or GPU, each with its own threads; the longest trials first.

The work of a process is one trial, or a stack of trials that train as one program (`engines/stacked.py`).

On two cores, two processes with one thread each are faster than one process with two. Two processes with two threads
each are over ten times slower. So the thread count is in the environment before a trial process loads torch.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from vitbench.base.errors import IncompleteError, VitbenchError
from vitbench.base.signals import Stopped, Terminated, ask, obey_parent
from vitbench.engines.options import MAX_LOSSES, Emit, Options
from vitbench.engines.several_processes import follow, free_port, meet_here
from vitbench.engines.waiting_work import WaitingWork
from vitbench.plan.trials import Trial
from vitbench.spec.mechanism import load_code
from vitbench.store.events import Warned
from vitbench.train.shared_images import SharedImages, shared, take

GRACE_SECONDS = 30.0
"""Time for all trial processes together to finish and save their steps after the run is stopped."""

RESTART_SECONDS = 0.5

STOPPED_EXIT = 128 + signal.SIGTERM
OUT_OF_MEMORY_EXIT = 137
"""The code with which a shell reports a process that the kernel killed."""


class TrialProcess:
    """A child process and the pipe to it; `number` counts the processes, and chooses the GPU if there are several.

    If several processes train one trial together, the child is the first of them, and `followers` are the others.
    """

    def __init__(self, context: Any, options: Options, number: int) -> None:
        self.connection, theirs = context.Pipe()
        self.number = number
        port, alone = (0, True) if options.processes == 1 else (free_port(), False)
        process = functools.partial(context.Process, daemon=alone)  # A daemon could start no image-loading processes.
        self.process: BaseProcess = process(target=_serve, args=(theirs, options, number, port, shared))
        ranks = range(1, options.processes)
        self.followers: list[BaseProcess] = [process(target=_follow, args=(options, r, port, shared)) for r in ranks]
        for child in (self.process, *self.followers):
            child.start()
        theirs.close()
        self.work: list[Trial] = []
        self.is_used = False

    def give(self, work: list[Trial]) -> None:
        self.work, self.is_used = work, True
        with suppress(OSError):  # If the process died while idle, the next read of its pipe reports it.
            self.connection.send(work)

    def terminate(self) -> None:
        """Ask the process, and those that train along, to finish and save the step."""
        for child in (self.process, *self.followers):
            child.terminate()

    def stop(self, until: float) -> None:
        """Wait until the time `until` (monotonic) for the process to end, then kill it, and those that train along."""
        self.process.join(timeout=max(0.0, until - time.monotonic()))
        for child in (self.process, *self.followers):
            if child.is_alive():
                child.kill()
            child.join()
        with suppress(OSError):
            self.connection.close()


def _started(context: Any, options: Options, number: int) -> TrialProcess:
    """A new trial process. If the fork server has just died, the next try starts another one."""
    for _ in range(MAX_LOSSES - 1):
        with suppress(EOFError, OSError):
            return TrialProcess(context, options, number)
        time.sleep(RESTART_SECONDS)  # The kernel needs a moment to report that the old fork server is gone.
    try:
        return TrialProcess(context, options, number)
    except (EOFError, OSError) as error:
        raise IncompleteError(f"no trial process can be started ({type(error).__name__}: {error})") from error


def _serve(connection: Connection, options: Options, number: int, port: int, images: SharedImages) -> None:
    """Receive work, send events and outcomes, until the pipe closes or the parent asks to stop."""
    with _child(options, number):
        take(images)
        if options.processes > 1:
            meet_here(port, 0, options.processes)
        _work(connection, options)


def _follow(options: Options, rank: int, port: int, images: SharedImages) -> None:
    """Train along with process 0 of a trial."""
    with _child(options, rank):
        take(images)
        group = meet_here(port, rank, options.processes)
        load_code(options.code)
        follow(group, options)


@contextmanager
def _child(options: Options, number: int) -> Iterator[None]:
    """A child process with its GPU, which obeys its parent and ends with the exit code of what happened."""
    if options.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible_gpu(options.gpus[number % len(options.gpus)])
    try:
        obey_parent()
        yield
    except Stopped as stop:
        raise SystemExit(STOPPED_EXIT) from stop
    except MemoryError as error:
        raise SystemExit(OUT_OF_MEMORY_EXIT) from error


def visible_gpu(number: int) -> str:
    """The name of a GPU for CUDA_VISIBLE_DEVICES; `number` is torch's, which counts what that variable shows now."""
    shown = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return shown[number].strip() if number < len(shown) else str(number)


def _work(connection: Connection, options: Options) -> None:
    from vitbench.engines import stacked
    from vitbench.engines.execute import OUT_OF_MEMORY, execute_locked

    def send(kind: str, content: Any) -> None:
        """Send a message; if the parent is gone, stop, because the trial did not fail."""
        try:
            connection.send((kind, content))
        except OSError:
            ask(Terminated())

    load_code(options.code)
    while True:
        try:
            work: list[Trial] = connection.recv()
        except (EOFError, OSError):
            return
        try:
            if len(work) > 1:
                for trial_id in stacked.run(work, options, lambda event: send("event", event)):
                    send("done", trial_id)
            elif execute_locked(work[0], options, lambda event: send("event", event)):
                send("done", work[0].trial_id)
            send("idle", None)
        except VitbenchError as error:
            send("error", error)
        except OUT_OF_MEMORY as error:
            raise SystemExit(OUT_OF_MEMORY_EXIT) from error


def run(works: Sequence[list[Trial]], options: Options, emit: Emit, num_jobs: int) -> Generator[str, None, None]:
    """Yield the ids of trials as they are committed. Work waits for the stages that its trials need."""
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(["vitbench.engines.preload"])
    if options.device == "cpu":
        shared.hold(trial.spec.data for work in works for trial in work)
    pool = _Pool(works, options, emit)
    try:
        for number in range(min(num_jobs, len(works))):
            pool.processes.append(_started(context, options, number))
        yield from pool.work(context)
    finally:
        for trial_process in pool.processes:
            trial_process.terminate()
        until = time.monotonic() + GRACE_SECONDS
        for trial_process in pool.processes:
            trial_process.stop(until)


class _Pool:
    """The trial processes, the work that waits, and the losses of each trial."""

    def __init__(self, works: Sequence[list[Trial]], options: Options, emit: Emit) -> None:
        self.waiting_work = WaitingWork(works)
        self.options, self.emit = options, emit
        self.processes: list[TrialProcess] = []

    def _hand_out(self, context: Any) -> None:
        for position, trial_process in enumerate(self.processes):
            if not trial_process.work:
                work = self.waiting_work.next()
                if work is None:
                    return
                if trial_process.followers and trial_process.is_used:  # A fresh group owes nothing to the last trial.
                    trial_process.stop(0.0)
                    self.processes[position] = _started(context, self.options, trial_process.number)
                self.processes[position].give(work)

    def work(self, context: Any) -> Iterator[str]:
        """Hand out all trials; yield their ids as they are committed."""
        self._hand_out(context)
        while busy := {w.connection: w for w in self.processes if w.work}:
            for connection in wait(list(busy)):
                finished = self._listen(busy[connection], context)
                if finished:
                    yield finished
            self._hand_out(context)

    def _listen(self, sender: TrialProcess, context: Any) -> str | None:
        """Take one message; return the id of a trial that was committed, else None."""
        try:
            kind, content = sender.connection.recv()
        except (EOFError, OSError):
            self._replace(sender, context)
            return None
        if kind == "event":
            self.emit(content)
            return None
        if kind == "error":
            raise content
        if kind == "idle":
            self.waiting_work.unfinished -= {trial.trial_id for trial in sender.work}
            sender.work = []
            return None
        self.waiting_work.unfinished.discard(content)
        return str(content)

    def _replace(self, lost_process: TrialProcess, context: Any) -> None:
        """Start another process in place of a lost one, and repeat its trials unless they were lost too often."""
        lost_process.process.join(timeout=5)
        code = lost_process.process.exitcode
        if lost_process.followers:
            lost_process.stop(0.0)
            if code == STOPPED_EXIT:  # A signal to one of them stops them all, and the run.
                raise Terminated
        position = self.processes.index(lost_process)
        self.processes[position] = _started(context, self.options, lost_process.number)
        killed = code in (-signal.SIGKILL, OUT_OF_MEMORY_EXIT) and not lost_process.followers
        why = ", out of memory?" if killed else ""
        what = "one of the trial processes" if lost_process.followers else "trial process"

        def told(trial: Trial) -> Warned:
            lost_how = f"{what} lost (exit {code}{why}) on trial {trial.trial_id}"
            warning = self.waiting_work.count_loss(trial, lost_how)
            self.emit(warning)
            return warning

        rest = [trial for trial in lost_process.work if trial.trial_id in self.waiting_work.unfinished]
        self.waiting_work.repeat(rest, told)
