"""Work for a cluster: hand it out, count losses, commit what comes back. Retries, locks and records stay ours.

If the driver commits, it holds the lock of every trial that it hands out, and is the only one that writes into the
results root.
"""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitbench.engines.node_scratch import TrialFiles, files_of, scratch_name
from vitbench.engines.options import Emit, Options
from vitbench.engines.ray_cluster import RayCluster, TaskLoss
from vitbench.engines.remote_work import NodeAnswer, RemoteWork, software
from vitbench.engines.stacks import most_in_stack, stacks
from vitbench.engines.waiting_work import WaitingWork
from vitbench.plan.trials import Trial
from vitbench.store.events import Warned
from vitbench.store.trials import Store

GRACE_SECONDS = 30.0
"""Time for all tasks together to save their steps after the run is stopped."""
MAX_NODE_LOSSES = 20
"""A trial whose node is lost so often is left missing: not its fault, but it makes no progress."""
WAIT_SECONDS = 1.0
MAX_STAGES = 8
"""Stages that stay in the cluster's object store for the next child."""


def run(trials: Sequence[Trial], options: Options, emit: Emit, cluster: RayCluster) -> Generator[str, None, None]:
    """Yield the ids of trials as they are committed. Work waits for the stages that its trials need.

    On a GPU a task is a stack of trials of equal shapes; on a CPU it is one trial, because stacks are slower there.
    """
    if not trials:
        return
    cluster.open()
    with suppress(ValueError, OSError):  # The driver holds one lock file per trial that it hands out.
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    works = [[trial] for trial in trials]
    if options.device != "cpu" and not options.recompute:
        works = stacks(trials, most_in_stack(trials, max(1, cluster.room())))
    dispatch = _Dispatch(works, options, emit, cluster)
    try:
        yield from dispatch.all_work()
    finally:
        dispatch.stop()


@dataclass
class _Task:
    """Trials that a node has, their locks, and the driver's attempt of each."""

    trials: list[Trial]
    locks: ExitStack
    attempts: dict[str, Path] = field(default_factory=dict)


class _Dispatch:
    """The work that waits, the tasks of the cluster, and the losses of each trial."""

    def __init__(self, works: Sequence[list[Trial]], options: Options, emit: Emit, cluster: RayCluster) -> None:
        self.work = WaitingWork(works)
        self.options, self.emit, self.cluster = options, emit, cluster
        self.store = Store(options.root)
        self.driver_commits = cluster.options.driver_commits
        self.tasks: dict[Any, _Task] = {}
        self.stages: dict[str, Any] = {}
        self.node_losses: Counter[str] = Counter()

    def all_work(self) -> Iterator[str]:
        """Hand out all trials; yield their ids as they are committed."""
        while self.work.waiting or self.tasks:
            yield from self._hand_out()
            self._show_events()
            if self.tasks:
                for task in self.cluster.wait(list(self.tasks), WAIT_SECONDS):
                    yield from self._finish(task)
            elif self.work.waiting:
                time.sleep(WAIT_SECONDS)

    def _show_events(self) -> None:
        """Emit the events that arrived; those of a trial that has ended since would bring it back to the display."""
        for event in self.cluster.events():
            if getattr(event, "trial_id", None) in self.work.unfinished:
                self.emit(event)

    def stop(self) -> None:
        """End the tasks that still run: they save their steps, and what they finished is committed."""
        if not self.tasks:
            return
        until = time.monotonic() + GRACE_SECONDS
        self.cluster.cancel(list(self.tasks), force=False)
        try:
            while self.tasks and time.monotonic() < until:
                for task in self.cluster.wait(list(self.tasks), WAIT_SECONDS):
                    with self.tasks[task].locks:
                        list(self._committed(self.tasks.pop(task), self.cluster.answer(task)))
        finally:
            self.cluster.cancel(list(self.tasks), force=True)
            for task in self.tasks.values():
                task.locks.close()

    def _hand_out(self) -> Iterator[str]:
        """Fill the cluster: one task waits for each that runs, so that no node idles between two."""
        slots = self.cluster.room()
        most = min(2 * slots, self.cluster.options.num_jobs or 2 * slots)
        while len(self.tasks) < most and (work := self.work.next()) is not None:
            yield from self._begin(work)

    def _begin(self, work: list[Trial]) -> Iterator[str]:
        """Submit a stack or trial; yield the ids of trials that another command has finished."""
        task = _Task(work, ExitStack())
        if self.driver_commits:
            task.trials, finished = self._locked(work, task.locks)
            yield from finished
        self.work.unfinished -= {trial.trial_id for trial in work} - {trial.trial_id for trial in task.trials}
        if not task.trials:
            task.locks.close()
            return
        stages: list[Any] = []
        if self.driver_commits:
            task.attempts = {t.trial_id: self.store.begin_attempt(t.trial_id) for t in task.trials}
            stages = [self._kept(identity) for identity in self._needed(task.trials)]
        scratch = scratch_name(self.options.root) if self.driver_commits else None
        remote = RemoteWork(tuple(task.trials), self.options, software(), os.getcwd(), scratch)
        self.tasks[self.cluster.submit(remote, stages)] = task

    def _locked(self, work: Iterable[Trial], locks: ExitStack) -> tuple[list[Trial], list[str]]:
        """(trials to train, ids of finished trials); what another command holds or has not finished is left out."""
        mine, finished = list[Trial](), list[str]()
        for trial in work:
            if any(self.store.read(parent) is None for parent in trial.parents.values()):
                continue
            if not locks.enter_context(self.store.lock(trial.trial_id)):
                continue
            if self.store.read(trial.trial_id) is None:
                mine.append(trial)
            else:
                finished.append(trial.trial_id)
        return mine, finished

    def _needed(self, trials: Iterable[Trial]) -> dict[str, None]:
        """The stages that trials read; of one whose weights were not kept, which is trained again, its stages too."""
        needed: dict[str, None] = {}
        todo = [parent for trial in trials for parent in trial.parents.values()]
        while todo:
            identity = todo.pop()
            record = self.store.read(identity)
            assert record is not None, "a stage is committed before its children begin"
            needed[identity] = None
            if record.status == "ok" and not self.store.weights(identity).exists():
                todo += record.parents.values()
        return needed

    def _kept(self, identity: str) -> Any:
        """A stage in the cluster's object store; the last few stay there."""
        if identity not in self.stages:
            files = files_of(self.store, identity)
            assert files is not None
            if len(self.stages) >= MAX_STAGES:
                del self.stages[next(iter(self.stages))]
            self.stages[identity] = self.cluster.keep(files)
        return self.stages[identity]

    def _finish(self, key: Any) -> Iterator[str]:
        """Commit what a task returned, or count its loss and repeat its trials."""
        task = self.tasks.pop(key)
        with task.locks:
            answer = self.cluster.answer(key)
            yield from self._committed(task, answer)
        rest = [trial for trial in task.trials if trial.trial_id in self.work.unfinished]
        if isinstance(answer, TaskLoss):
            self._repeat(rest, answer)
        elif answer.was_stopped:
            self._repeat(rest, TaskLoss(f"node {answer.host} stopped its task", counts=False))
        elif answer.loss is not None:
            self._repeat(rest, TaskLoss(f"{answer.loss}, node {answer.host}", counts=True))
        elif answer.error is not None:
            raise answer.error
        else:
            self.work.unfinished -= {trial.trial_id for trial in rest}

    def _committed(self, task: _Task, answer: NodeAnswer | TaskLoss) -> Iterator[str]:
        """Commit the results of a task if the driver commits; yield the ids that have a record now."""
        if isinstance(answer, TaskLoss):
            return
        for warning in answer.warnings:
            self._warn(warning)
        for files in answer.results:
            self._commit(task, files)
        for trial_id in [files.trial_id for files in answer.results] if self.driver_commits else answer.done:
            self.work.unfinished.discard(trial_id)
            yield trial_id

    def _commit(self, task: _Task, files: TrialFiles) -> None:
        assert files.trial_id in task.attempts, "a node returns the trials that it was given"
        files.commit(self.store, task.attempts[files.trial_id])

    def _warn(self, warning: Warned) -> None:
        if warning.given_up is not None:
            self.work.unfinished.discard(warning.given_up)
            self.cluster.left_missing.add(warning.given_up)
        self.emit(warning)

    def _repeat(self, trials: Sequence[Trial], loss: TaskLoss) -> None:
        """Put lost trials back, unless they were lost too often."""

        def told(trial: Trial) -> Warned:
            warning = self._lost(trial, loss)
            self._warn(warning)
            return warning

        self.work.repeat(trials, told, in_halves=loss.counts)

    def _lost(self, trial: Trial, loss: TaskLoss) -> Warned:
        what = f"{loss.what} on trial {trial.trial_id}"
        if loss.counts:
            return self.work.count_loss(trial, what)
        self.node_losses[trial.trial_id] += 1
        if self.node_losses[trial.trial_id] < MAX_NODE_LOSSES:
            return Warned(f"{what}; trying again, which does not count against the trial")
        return Warned(f"{what}, {MAX_NODE_LOSSES} times; left missing", given_up=trial.trial_id)
