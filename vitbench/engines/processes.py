"""One trial process per core (or device), each with its own threads; the longest trials first.

On two cores, two processes with one thread each are faster than one process with two. Two processes with two threads
each are over ten times slower. So the thread count is in the environment before a trial process loads torch.
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
"""Time for all trial processes together to finish and save their steps after the run is stopped."""

RESTART_SECONDS = 0.5

OUT_OF_MEMORY_EXIT = 137
"""The code with which a shell reports a process that the kernel killed."""


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
        with suppress(OSError):  # If the process died while idle, the next read of its pipe reports it.
            self.connection.send(trial)

    def stop(self, until: float) -> None:
        """Wait until the time `until` (monotonic) for the process to end, then kill it."""
        self.process.join(timeout=max(0.0, until - time.monotonic()))
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        with suppress(OSError):
            self.connection.close()


def _started(context: Any, options: Options) -> TrialProcess:
    """A new trial process. If the fork server has just died, the next try starts another one."""
    for _ in range(MAX_LOSSES - 1):
        with suppress(EOFError, OSError):
            return TrialProcess(context, options)
        time.sleep(RESTART_SECONDS)  # The kernel needs a moment to report that the old fork server is gone.
    try:
        return TrialProcess(context, options)
    except (EOFError, OSError) as error:
        raise IncompleteError(f"no trial process can be started ({type(error).__name__}: {error})") from error


def _serve(connection: Connection, options: Options) -> None:
    """Receive trials, send events and outcomes, until the pipe closes or the parent asks to stop."""
    try:
        obey_parent()
        _work(connection, options)
    except Stopped as stop:
        raise SystemExit(128 + signal.SIGTERM) from stop


def _work(connection: Connection, options: Options) -> None:
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
            trial = connection.recv()
        except (EOFError, OSError):
            return
        try:
            ran = execute_locked(trial, options, lambda event: send("event", event))
            send("done" if ran else "busy", trial.trial_id)
        except VitbenchError as error:
            send("error", error)
        except OUT_OF_MEMORY as error:
            raise SystemExit(OUT_OF_MEMORY_EXIT) from error


def run(trials: Sequence[Trial], options: Options, emit: Emit, num_jobs: int) -> Generator[str, None, None]:
    """Yield the ids of trials as they are committed. A trial waits for the stages that it needs."""
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
        for trial_process in pool.processes:
            trial_process.process.terminate()  # It finishes its step, saves it and ends.
        until = time.monotonic() + GRACE_SECONDS
        for trial_process in pool.processes:
            trial_process.stop(until)


class _Pool:
    """The trial processes, the trials that wait, and the losses of each trial."""

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
        for trial_process in self.processes:
            if trial_process.trial is None:
                trial = self._next()
                if trial is None:
                    return
                trial_process.give(trial)

    def work(self, context: Any) -> Iterator[str]:
        """Hand out all trials; yield their ids as they are committed."""
        self._hand_out()
        while busy := {w.connection: w for w in self.processes if w.trial is not None}:
            for connection in wait(list(busy)):
                finished = self._listen(busy[connection], context)
                if finished:
                    yield finished
            self._hand_out()

    def _listen(self, sender: TrialProcess, context: Any) -> str | None:
        """Take one message; return the id of a trial that was committed, else None."""
        trial = sender.trial
        assert trial is not None
        try:
            kind, content = sender.connection.recv()
        except (EOFError, OSError):
            self._replace(sender, trial, context)
            return None
        if kind == "event":
            self.emit(content)
            return None
        if kind == "error":
            raise content
        sender.trial = None
        self.unfinished.discard(trial.trial_id)
        return trial.trial_id if kind == "done" else None

    def _replace(self, lost_process: TrialProcess, trial: Trial, context: Any) -> None:
        """Start another process in place of a lost one, and repeat its trial unless it was lost too often."""
        lost_process.process.join(timeout=5)
        code = lost_process.process.exitcode
        self.processes[self.processes.index(lost_process)] = _started(context, self.options)
        self.losses[trial.trial_id] = self.losses.get(trial.trial_id, 0) + 1
        why = ", out of memory?" if code in (-signal.SIGKILL, OUT_OF_MEMORY_EXIT) else ""
        what = f"trial process lost (exit {code}{why}) on trial {trial.trial_id}"
        if self.losses[trial.trial_id] < MAX_LOSSES:
            self.waiting.insert(0, trial)
        else:
            self.unfinished.discard(trial.trial_id)
        self.emit(lost(what, trial, self.losses[trial.trial_id]))
