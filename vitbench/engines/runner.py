"""Missing trials -> engine -> records, round after round until nothing is missing. No statistics, no printing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from vitbench.engines.options import Options
from vitbench.plan.rounds import expand
from vitbench.plan.trials import Builder, Chooser, Plan, Trial
from vitbench.spec.experiment import Experiment
from vitbench.store.events import Event, Finished, Listener, Planned, Warned, Work
from vitbench.store.record import REPORTS, Record, metric_of
from vitbench.store.trials import Store

WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class RunOutcome:
    """Result of a run: the plan as far as it is known, its records, and whether a limit ended it."""

    plan: Plan
    records: dict[str, Record]
    stopped_by_limit: bool = False

    @property
    def missing(self) -> list[Trial]:
        """Planned trials without a record."""
        return self.plan.missing(self.records)


@dataclass(frozen=True)
class RunRequest:
    """What to run, beside the experiment."""

    options: Options
    num_jobs: int = 1
    seeds: Sequence[int] | None = None
    limit: int | None = None


def flops_of(trial: Trial) -> float:
    """Training FLOPs of one trial."""
    return trial.train_flops


def run(builder: Builder, request: RunRequest, chooser: Chooser, listen: Listener) -> RunOutcome:
    """Run what is missing and return everything; finished trials are never run again, lost ones not in this run."""
    experiment, store = builder.experiment, Store(request.options.root)
    records: dict[str, Record] = {}
    given_up: set[str] = set()
    num_run = 0

    def hear(event: Event) -> None:
        if isinstance(event, Warned) and event.given_up:
            given_up.add(event.given_up)
        listen(event)

    while True:
        plan = expand(builder, records, chooser, request.seeds)
        unique = plan.unique()
        records |= store.read_all(trial_id for trial_id in unique if trial_id not in records)
        missing = plan.missing(records)
        listen(planned(experiment, plan, records))
        if not missing:
            if plan.complete:
                return RunOutcome(plan, records)
            continue
        left = None if request.limit is None else request.limit - num_run
        if left is not None and left <= 0:
            return RunOutcome(plan, records, stopped_by_limit=True)
        before = len(records)
        wanted = _ordered([trial for trial in missing if trial.trial_id not in given_up])[:left]
        with closing(_engine(wanted, request, hear)) as committed:
            for trial_id in committed:
                record = store.read(trial_id)
                assert record is not None, "an engine reports committed trials only"
                records[trial_id] = record
                num_run += 1
                listen(finished_event(unique[trial_id], record, experiment.report.metric))
        busy = any(_is_busy(store, trial) for trial in wanted if trial.trial_id not in records)
        # Read after looking who is busy: what another process commits in between is found.
        records |= store.read_all(t.trial_id for t in missing if t.trial_id not in records)
        if len(records) == before:
            if not busy:
                return RunOutcome(plan, records)  # Lost for good: left missing, and said so by the caller.
            time.sleep(WAIT_SECONDS)


def _is_busy(store: Store, trial: Trial) -> bool:
    """Is another process at work on the trial?"""
    with store.lock(trial.trial_id) as held:
        return not held


def _ordered(missing: Sequence[Trial]) -> list[Trial]:
    """Longest first, so that no core is left alone at the end; a stage before the trials that need it.

    Before all, the first trial of each arm and size: what cannot run fails early, and what time they take is known.
    """
    by_id = {trial.trial_id: trial for trial in missing}

    def depth(trial: Trial) -> int:
        return max((1 + depth(by_id[parent]) for parent in trial.parents.values() if parent in by_id), default=0)

    first: dict[tuple[str, float], str] = {}
    for trial in missing:
        first.setdefault((trial.arm, flops_of(trial)), trial.trial_id)
    scouts = set(first.values())
    return sorted(missing, key=lambda trial: (depth(trial), trial.trial_id not in scouts, -flops_of(trial)))


def _engine(trials: Sequence[Trial], request: RunRequest, listen: Listener) -> Generator[str, None, None]:
    """The chosen engine at work; engines are imported late, since they load torch."""
    if request.options.engine == "fused":
        from vitbench.engines import stacked

        return stacked.run(trials, request.options, listen)
    if request.num_jobs > 1:
        from vitbench.engines import processes

        return processes.run(trials, request.options, listen, request.num_jobs)
    from vitbench.engines import local

    return local.run(trials, request.options, listen)


def planned(experiment: Experiment, plan: Plan, records: Mapping[str, Record]) -> Planned:
    """What is said of a plan: its trials, and the work that is done and left."""
    unique = plan.unique()
    done = [trial for trial_id, trial in unique.items() if trial_id in records]
    left = plan.missing(records)
    return Planned(
        experiment=experiment.name,
        num_trials=len(unique),
        num_done=len(done),
        num_expected=plan.num_expected,
        done=work_of(done),
        left=work_of((*left, *plan.later)),
    )


def work_of(trials: Iterable[Trial]) -> tuple[Work, ...]:
    """The trials counted by what they cost."""
    counts = Counter((trial.arm, flops_of(trial), trial.spec.train.steps or 0) for trial in trials)
    return tuple(Work(*kind, num_trials) for kind, num_trials in counts.items())


def finished_event(trial: Trial, record: Record, metric: str) -> Finished:
    """What is said when a trial has its record."""
    ok = record.status == "ok"
    return Finished(
        trial_id=trial.trial_id,
        arm=trial.arm,
        setting=dict(trial.setting),
        seed=trial.seed,
        role=trial.role,
        status=record.status,
        reason=record.reason,
        metric=metric_of(record.result.model_dump(), metric) if ok else None,
        val_top1_percent=record.result.val_top1_percent if ok else None,
        train_flops=flops_of(trial),
        num_steps=trial.spec.train.steps or 0,
        train_seconds=record.run.train_seconds,
    )


def look(builder: Builder, store: Store, chooser: Chooser) -> tuple[Plan, dict[str, Record]]:
    """The plan as far as the committed records reveal it, and those records; nothing is run.

    Of a design with looks, the seeds of a later look belong to the plan once every arm has run one of them; a few
    arms may have them from another experiment that shares their trials.
    """
    experiment = builder.experiment
    found, last = _look(builder, store, chooser, None), experiment.seeds.first()[-1]
    for reached in experiment.seeds.all_looks()[1:]:
        plan, records = _look(builder, store, chooser, range(reached))
        later = [trial for trial in plan.trials if trial.role in REPORTS and trial.seed > last]
        if not later or {t.arm for t in later} != {t.arm for t in later if t.trial_id in records}:
            return found
        found, last = (plan, records), reached - 1
    return found


def _look(
    builder: Builder, store: Store, chooser: Chooser, seeds: Sequence[int] | None
) -> tuple[Plan, dict[str, Record]]:
    records: dict[str, Record] = {}
    while True:
        plan = expand(builder, records, chooser, seeds)
        found = store.read_all(trial_id for trial_id in plan.unique() if trial_id not in records)
        records |= found
        if not found or plan.complete:
            return plan, records
