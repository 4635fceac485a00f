"""Missing trials -> engine -> records, round after round until nothing is missing. No statistics, no printing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Container, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

from vitbench.base.collector import collector_paused
from vitbench.engines.options import Options
from vitbench.engines.ray_cluster import RayCluster
from vitbench.engines.stacks import most_in_stack, stacks
from vitbench.plan.rounds import SeedsOfArms, expand, seeds_of_arms
from vitbench.plan.shared_settings import claimed_arms
from vitbench.plan.trials import Builder, Chooser, Plan, Trial
from vitbench.spec.claims import single_claims
from vitbench.spec.experiment import Experiment
from vitbench.spec.metrics import DEFAULT_TUNING
from vitbench.store.events import ArmStanding, Event, Finished, Listener, Planned, Warned, Work
from vitbench.store.record import REPORTS, Record, metric_of
from vitbench.store.summary import Summary, summary_of
from vitbench.store.trials import Store

WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class RunOutcome:
    """Result of a run: the plan that the records reveal, the records, and whether a limit ended the run."""

    plan: Plan
    records: dict[str, Summary]
    stopped_by_limit: bool = False

    @property
    def missing(self) -> list[Trial]:
        """Planned trials without a record."""
        return self.plan.missing(self.records)


@dataclass(frozen=True)
class RunRequest:
    """How to run an experiment: options, processes, seeds and a limit on the number of trials.

    `shard` (i, n), from 0, is the part of the trials to begin with: n commands on one results root then do not all
    begin with the same trials. Without `waits` the run ends when other commands hold everything that is missing. A
    `cluster` runs the trials instead of this machine. `seed_by_seed` finishes all arms at one seed before the next, so
    that a run that is cut short has pairs.
    """

    options: Options
    num_jobs: int = 1
    seeds: SeedsOfArms = None
    limit: int | None = None
    shard: tuple[int, int] = (0, 1)
    waits: bool = True
    cluster: RayCluster | None = None
    seed_by_seed: bool = False


def flops_of(trial: Trial) -> float:
    """Training FLOPs of one trial."""
    return trial.train_flops


def run(builder: Builder, request: RunRequest, chooser: Chooser, listen: Listener) -> RunOutcome:
    """Run the missing trials and return all records. A finished trial never runs again, a lost one not in this run."""
    experiment, store = builder.experiment, Store(request.options.root)
    records: dict[str, Summary] = {}
    given_up: set[str] = set()
    num_run = 0

    def hear(event: Event) -> None:
        if isinstance(event, Warned) and event.given_up:
            given_up.add(event.given_up)
        listen(event)

    while True:
        with collector_paused():
            plan = expand(builder, records, chooser, request.seeds)
            unique = plan.unique()
            records |= store.summaries(trial_id for trial_id in unique if trial_id not in records)
        missing = plan.missing(records)
        listen(planned(experiment, plan, records))
        if not missing:
            if plan.complete:
                return RunOutcome(plan, records)
            continue
        num_allowed = None if request.limit is None else request.limit - num_run
        if num_allowed is not None and num_allowed <= 0:
            return RunOutcome(plan, records, stopped_by_limit=True)
        before = len(records)
        todo = [trial for trial in missing if trial.trial_id not in given_up]
        batch = _ordered(todo, request.shard, request.seed_by_seed)[:num_allowed]
        with closing(_engine(batch, request, hear)) as committed:
            for trial_id in committed:
                record = store.read(trial_id)
                assert record is not None, "an engine reports committed trials only"
                records[trial_id] = summary_of(record)
                num_run += 1
                listen(finished_event(unique[trial_id], record, experiment))
        busy = any(_is_busy(store, trial) for trial in batch if trial.trial_id not in records)
        # Read the records after the locks, so that no commit of another process in between is missed.
        records |= store.summaries(t.trial_id for t in missing if t.trial_id not in records)
        if len(records) == before:
            if not (busy and request.waits):
                return RunOutcome(plan, records)  # Nobody runs the rest: it stays missing, and the caller says so.
            time.sleep(WAIT_SECONDS)


def _is_busy(store: Store, trial: Trial) -> bool:
    """True if another process is running the trial."""
    with store.lock(trial.trial_id) as held:
        return not held


def _ordered(missing: Sequence[Trial], shard: tuple[int, int] = (0, 1), seed_by_seed: bool = False) -> list[Trial]:
    """Longest first, so that all cores are busy until the end; a stage comes before the trials that need it.

    With `seed_by_seed` the seeds come one after another. The trials of this command's shard come before those of
    others. The first trial of each arm and size comes before the others: errors show early, and so does the time per
    trial.
    """
    part, num_parts = shard
    by_id = {trial.trial_id: trial for trial in missing}

    def depth(trial: Trial) -> int:
        return max((1 + depth(by_id[parent]) for parent in trial.parents.values() if parent in by_id), default=0)

    first: dict[tuple[str, float], str] = {}
    for trial in missing:
        first.setdefault((trial.arm, flops_of(trial)), trial.trial_id)
    scouts = set(first.values())

    def rank(trial: Trial) -> tuple[int, int, bool, bool, float]:
        foreign = int(trial.trial_id, 16) % num_parts != part
        turn = trial.seed if seed_by_seed else 0
        return turn, depth(trial), foreign, trial.trial_id not in scouts, -flops_of(trial)

    return sorted(missing, key=rank)


def _engine(trials: Sequence[Trial], request: RunRequest, listen: Listener) -> Generator[str, None, None]:
    """Start the chosen engine; engines are imported late, because they load torch."""
    if request.cluster is not None:
        from vitbench.engines import dispatch

        return dispatch.run(trials, request.options, listen, request.cluster)
    fused = request.options.engine == "fused"
    if request.options.joins:
        from vitbench.engines import several_processes

        return several_processes.run(trials, request.options, listen)
    if request.num_jobs > 1 or request.options.processes > 1:
        from vitbench.engines import processes

        work = stacks(trials, most_in_stack(trials, request.num_jobs)) if fused else [[trial] for trial in trials]
        return processes.run(work, request.options, listen, request.num_jobs)
    if fused:
        from vitbench.engines import stacked

        return stacked.run(trials, request.options, listen)
    from vitbench.engines import local

    return local.run(trials, request.options, listen)


def planned(experiment: Experiment, plan: Plan, records: Container[str]) -> Planned:
    """The event of a plan: its number of trials, and the work that is finished and that remains."""
    unique = plan.unique()
    done = [trial for trial_id, trial in unique.items() if trial_id in records]
    remaining = (*plan.missing(records), *plan.later)
    return Planned(
        experiment=experiment.name,
        num_trials=len(unique),
        num_done=len(done),
        num_expected=plan.num_expected,
        done=work_of(done),
        left=work_of(remaining),
        standings=tuple(ArmStanding(s.arm, s.num_seeds, s.racing, s.dropped) for s in plan.standings),
    )


def work_of(trials: Iterable[Trial]) -> tuple[Work, ...]:
    """The number of trials per arm and cost."""
    counts = Counter((trial.arm, flops_of(trial), trial.spec.train.steps or 0) for trial in trials)
    return tuple(Work(*kind, num_trials) for kind, num_trials in counts.items())


def finished_event(trial: Trial, record: Record, experiment: Experiment) -> Finished:
    """The event of a trial that has its record."""
    ok = record.status == "ok"
    tuned_by = experiment.tune.metric if experiment.tune else DEFAULT_TUNING
    return Finished(
        trial_id=trial.trial_id,
        arm=trial.arm,
        setting=dict(trial.setting),
        seed=trial.seed,
        role=trial.role,
        status=record.status,
        reason=record.reason,
        metric=metric_of(record.result.model_dump(), experiment.report.metric) if ok else None,
        validation=record.result.validation(tuned_by) if ok else None,
        train_flops=flops_of(trial),
        num_steps=trial.spec.train.steps or 0,
        train_seconds=record.run.train_seconds,
    )


def look(builder: Builder, store: Store, chooser: Chooser) -> tuple[Plan, dict[str, Summary]]:
    """The plan that the committed records reveal, and these records in short; nothing runs.

    In a design with looks, the seeds of a later look belong to the plan for the arms of a claim once each of them has
    run one (without claims: for all arms). A few arms may have such seeds from another experiment that shares their
    trials.
    """
    with collector_paused():
        return _reached_look(builder, store, chooser)


def _reached_look(builder: Builder, store: Store, chooser: Chooser) -> tuple[Plan, dict[str, Summary]]:
    experiment = builder.experiment
    seeds = seeds_of_arms(experiment, builder.arms, None)
    revealed, last = _look(builder, store, chooser, seeds), experiment.seeds.first()[-1]
    for reached in experiment.seeds.all_looks()[1:]:
        plan, records = _look(builder, store, chooser, range(reached))
        later = [trial for trial in plan.trials if trial.role in REPORTS and trial.seed > last]
        begun = _begun(experiment, set(builder.arms), {t.arm for t in later if t.trial_id in records})
        if not begun:
            return revealed
        seeds = {name: tuple(range(reached)) if name in begun else now for name, now in seeds.items()}
        everyone = len(begun) == len(builder.arms)
        revealed = (plan, records) if everyone else _look(builder, store, chooser, seeds)
        last = reached - 1
    return revealed


def _begun(experiment: Experiment, arms: set[str], started: set[str]) -> set[str]:
    """The arms whose later seeds count: those of claims of which every arm has `started`, or all of them."""
    if arms <= started:
        return arms
    groups = [claimed_arms(experiment, claim) for claim in single_claims(experiment.claims)]
    return set[str]().union(*(group for group in groups if group <= started))


def _look(builder: Builder, store: Store, chooser: Chooser, seeds: SeedsOfArms) -> tuple[Plan, dict[str, Summary]]:
    records: dict[str, Summary] = {}
    while True:
        plan = expand(builder, records, chooser, seeds)
        more_records = store.summaries(trial_id for trial_id in plan.unique() if trial_id not in records)
        records |= more_records
        if not more_records or plan.complete:
            return plan, records
