"""One trial process per core (or device), each with its own threads; the longest trials first.

Two processes with one thread each beat one with two, and two with two each were over ten times slower on two cores:
so the thread count is in the environment before a worker loads torch.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from vitbench.base.errors import IncompleteError, VitbenchError
from vitbench.base.signals import Stopped, Terminated, ask, obey_parent
from vitbench.engines.options import MAX_LOSSES, Emit, Options, lost
from vitbench.plan.trials import Trial
from vitbench.spec.mechanism import load_code

GRACE_SECONDS = 30.0
"""What trial processes have, all together, to finish their steps and save them when the run is stopped."""

RESTART_SECONDS = 0.5

OUT_OF_MEMORY_EXIT = 137
"""As a shell reports a process that the kernel killed."""


class TrialProcess:
    """A child process and the pipe to it."""

    def __init__(self, context: Any, options: Options) -> None:
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, options), daemon=True)
        self.process.start()
        theirs.close()
        self.trial: Trial | None = None

    def give(self, trial: Trial) -> None:
        self.trial = trial
        with suppress(OSError):  # A worker that died idle: its pipe says so when it is listened to.
            self.connection.send(trial)

    def stop(self, until: float) -> None:
        """See the process to its end: of its own accord until then, killed after that."""
        self.process.join(timeout=max(0.0, until - time.monotonic()))
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        with suppress(OSError):
            self.connection.close()


def _started(context: Any, options: Options) -> TrialProcess:
    """A new worker; where the process that forks it has just died, another of those is started by the next try."""
    for _ in range(MAX_LOSSES - 1):
        with suppress(EOFError, OSError):
            return TrialProcess(context, options)
        time.sleep(RESTART_SECONDS)  # It takes a moment until the kernel says that the old one is gone.
    try:
        return TrialProcess(context, options)
    except (EOFError, OSError) as error:
        raise IncompleteError(f"no worker process can be started ({type(error).__name__}: {error})") from error


def _serve(connection: Connection, options: Options) -> None:
    """A worker's life: trials in, events and outcomes out, until the pipe closes or the parent says to stop."""
    try:
        obey_parent()
        _work(connection, options)
    except Stopped as stop:
        raise SystemExit(128 + signal.SIGTERM) from stop


def _work(connection: Connection, options: Options) -> None:
    from vitbench.engines.execute import OUT_OF_MEMORY, execute_locked

    def say(kind: str, content: Any) -> None:
        """Send; where nobody listens any more, stop: that the parent is gone is no fault of the trial."""
        try:
            connection.send((kind, content))
        except OSError:
            ask(Terminated())

    load_code(options.code)
    while True:
        try:
            trial = connection.recv()
        except (EOFError, OSError):
            return
        try:
            ran = execute_locked(trial, options, lambda event: say("event", event))
            say("done" if ran else "busy", trial.trial_id)
        except VitbenchError as error:
            say("error", error)
        except OUT_OF_MEMORY as error:
            raise SystemExit(OUT_OF_MEMORY_EXIT) from error


def run(trials: Sequence[Trial], options: Options, emit: Emit, num_jobs: int) -> Generator[str, None, None]:
    """The ids of trials as they are committed. A trial waits for the stages that it needs."""
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(["vitbench.engines.execute"])
    pool = _Pool(trials, options, emit)
    try:
        for _ in range(min(num_jobs, len(trials))):
            pool.processes.append(_started(context, options))
        yield from pool.work(context)
    finally:
        for job in pool.processes:
            job.process.terminate()  # Finishes its step, saves it and ends.
        until = time.monotonic() + GRACE_SECONDS
        for job in pool.processes:
            job.stop(until)


class _Pool:
    """Who works on what."""

    def __init__(self, trials: Sequence[Trial], options: Options, emit: Emit) -> None:
        self.waiting = list(trials)
        self.options, self.emit = options, emit
        self.processes: list[TrialProcess] = []
        self.losses: dict[str, int] = {}
        self.unfinished = {trial.trial_id for trial in trials}

    def _next(self) -> Trial | None:
        """The first waiting trial whose stages are finished."""
        for trial in self.waiting:
            if self.unfinished.isdisjoint(trial.parents.values()):
                self.waiting.remove(trial)
                return trial
        return None

    def _hand_out(self) -> None:
        for job in self.processes:
            if job.trial is None:
                trial = self._next()
                if trial is None:
                    return
                job.give(trial)

    def work(self, context: Any) -> Iterator[str]:
        """Hand out trials until none is left; ids as they are committed."""
        self._hand_out()
        while busy := {w.connection: w for w in self.processes if w.trial is not None}:
            for connection in wait(list(busy)):
                finished = self._listen(busy[connection], context)
                if finished:
                    yield finished
            self._hand_out()

    def _listen(self, job: TrialProcess, context: Any) -> str | None:
        """Take one message; the id of a trial that was committed."""
        trial = job.trial
        assert trial is not None
        try:
            kind, content = job.connection.recv()
        except (EOFError, OSError):
            self._replace(job, trial, context)
            return None
        if kind == "event":
            self.emit(content)
            return None
        if kind == "error":
            raise content
        job.trial = None
        self.unfinished.discard(trial.trial_id)
        return trial.trial_id if kind == "done" else None

    def _replace(self, job: TrialProcess, trial: Trial, context: Any) -> None:
        """A worker was lost: start another, and try its trial again unless that has happened too often."""
        job.process.join(timeout=5)
        code = job.process.exitcode
        self.processes[self.processes.index(job)] = _started(context, self.options)
        self.losses[trial.trial_id] = self.losses.get(trial.trial_id, 0) + 1
        why = ", out of memory?" if code in (-signal.SIGKILL, OUT_OF_MEMORY_EXIT) else ""
        what = f"worker lost (exit {code}{why}) on trial {trial.trial_id}"
        if self.losses[trial.trial_id] < MAX_LOSSES:
            self.waiting.insert(0, trial)
        else:
            self.unfinished.discard(trial.trial_id)
        self.emit(lost(what, trial, self.losses[trial.trial_id]))
