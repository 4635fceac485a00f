"""`vitbench run`: train the missing trials, then print the tables."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from vitbench.base.durable import make_folder, replace_durably
from vitbench.base.errors import InputError, printable
from vitbench.base.signals import stoppable
from vitbench.cli.commands.checks import check_all, check_origin, check_same_experiment, data_lines
from vitbench.cli.commands.declared_looks import declared, has_rows, looks_of, seeds_at
from vitbench.cli.commands.device import (
    choose_cluster,
    choose_devices,
    choose_num_jobs,
    choose_num_workers,
    shard_of,
)
from vitbench.cli.commands.gauge import gauge_of
from vitbench.cli.commands.group import (
    as_launched,
    check_group,
    check_trials,
    follow_launcher,
    gpus_of,
    launched_group,
    launched_rank,
)
from vitbench.cli.commands.prepare import ExperimentRequest, Prepared, experiment_yaml, facts_source, prepare
from vitbench.cli.commands.prepare_images import prepared_lines, warn_of_prepared
from vitbench.cli.commands.run_exit import exit_code, worse
from vitbench.cli.commands.run_options import RunOptions
from vitbench.cli.commands.verdicts import verdicts_of
from vitbench.data.pixel_baseline import pixel_floor_percent
from vitbench.engines import runner
from vitbench.engines.engine_choice import EngineChoice, choose_engine
from vitbench.engines.engine_choice import check as check_engine
from vitbench.engines.options import Options, why_not_halve
from vitbench.engines.ray_cluster import ray_cluster
from vitbench.engines.ray_options import RAY_ENGINE, RayOptions
from vitbench.engines.trackers import tracker
from vitbench.plan.restored import restore
from vitbench.plan.run_table import Row, rows, with_read_answers, write_predictions, write_rows
from vitbench.plan.trials import Builder, settings
from vitbench.report.live.pace import Pace
from vitbench.report.live.progress import RunState
from vitbench.report.live.view import LiveView, summary
from vitbench.spec.seal import FILE as SEAL_FILE
from vitbench.spec.seal import read_seal, seal_of, seal_text
from vitbench.stats.race import CHOOSER
from vitbench.store.event_log import EventLog
from vitbench.store.events import Began, Event, Finished, Planned, Work
from vitbench.store.file_system import require_locks
from vitbench.store.trials import Store


@dataclass(frozen=True)
class Session:
    """What the experiments of one command share: options, listeners and measured speeds."""

    options: RunOptions
    console: Console
    event_log: EventLog
    gauge: Callable[[], str] | None
    pace: Pace


def run(request: ExperimentRequest, options: RunOptions, console: Console) -> int:
    """Run an experiment or a suite, and print its tables; return the exit code."""
    options = as_launched(options)
    done, code = train(request, options, console)
    _summary(done, options, console, code)
    return code


def train(request: ExperimentRequest, options: RunOptions, console: Console) -> tuple[list[Ran], int]:
    """Train what is missing of an experiment or a suite; return its results and the exit code."""
    if options.keep not in ("all", "final", "none"):
        raise InputError(f"--keep {options.keep}: allowed are all, final, none")
    rank = launched_rank(options.processes)
    facts_of = facts_source(options.data)
    prepared = [declared(item, options) for item in prepare(request, facts_of)]
    (ray, device, gpus), shard = _devices(options, rank is not None), shard_of(options.shard)
    builders = check_all(prepared, facts_of, options.warn)
    _check_oom(builders, options.oom)
    check_trials(builders, options.processes)
    for item in prepared:
        check_origin(options.root / item.run, facts_of)
        check_same_experiment(options.root / item.run, item.experiment, replace=options.replace_run)
    num_gpus = 1 if options.processes > 1 else max(1, len(gpus))
    check_engine(options.engine, options.jobs, options.recompute, num_gpus)
    notes, warnings = prepared_lines(builders, options.data)
    warn_of_prepared(warnings if options.warn else ())
    if not (options.quiet or options.as_json):
        for line in (*data_lines(builders), *notes):
            console.print(Text(printable(line)), soft_wrap=True)
    num_jobs = choose_num_jobs(1 if options.processes > 1 else options.jobs, device, options.threads, num_gpus)
    if options.track is not None:
        tracker(options.track, options.root, _ignore)  # reports a missing package before any training
    make_folder(options.root)
    for item in prepared:
        if (num := restore(options.root / item.run, Store(options.root))) and not (options.quiet or options.as_json):
            console.print(f"{item.run}: goes on from the {num} trials in its records.jsonl", highlight=False)
    if options.shard is not None:
        require_locks(options.root)
    code_files = tuple(dict.fromkeys(path for item in prepared for path in item.experiment.uses_code))
    data = replace(options.data, num_workers=_num_workers(options, device, num_jobs))
    engine = options.engine_options(data, device, gpus, rank is not None, code_files)
    if rank:
        return [], follow_launcher(engine)
    code, left, done = 0, options.limit, list[Ran]()
    launched = launched_group(rank is not None)
    with stoppable(), launched, EventLog(options.root) as event_log, ray_cluster(ray, engine.root) as cluster:
        session = Session(options, console, event_log, None if ray else gauge_of(device, gpus), Pace())
        for queued in _queue(prepared, builders, Store(options.root)):
            chosen = _chosen_engine(queued, options, engine, num_jobs, ray)
            if not (options.quiet or options.as_json):
                console.print(chosen.words(), highlight=False)
            ran_rows, still = list[Row](), list[str]()
            for num_seeds in looks_of(queued.item.experiment, options):
                seeds = seeds_at(num_seeds, queued.item.experiment, ran_rows, still)
                how = replace(engine, engine=chosen.engine)
                work = runner.RunRequest(
                    how, chosen.num_jobs, seeds, left, shard, not options.no_wait, cluster, options.seed_by_seed
                )
                ran = _run_one(queued, work, session)
                left = None if left is None else left - ran.num_run
                ran_rows, still = ran.rows, _open_claims(ran, options, console)
                if exit_code(ran.outcome) == 3 or not still:
                    break
            done.append(ran)
            event_log.exit_code = code = worse(code, exit_code(ran.outcome))
    return done, code


def _devices(options: RunOptions, is_launched: bool) -> tuple[RayOptions | None, str, tuple[int, ...]]:
    """The cluster, if trials run on one; the device of a trial process; the GPUs that such processes share out."""
    ray = choose_cluster(options)
    device, gpus = (ray.device, ()) if ray else choose_devices(options.device)
    check_group(options, device)
    return ray, device, gpus_of(device, gpus, options.processes, is_launched)


def _num_workers(options: RunOptions, device: str, num_jobs: int) -> int:
    """Image-loading processes of one trial; a node of a cluster has CPUs for those that --workers asks for."""
    if options.engine == RAY_ENGINE:
        return options.workers or 0
    num_workers = choose_num_workers(options.workers, device, num_jobs)
    return num_workers if options.workers is not None else -(-num_workers // options.processes)


def _chosen_engine(
    queued: QueuedRun, options: RunOptions, how: Options, num_jobs: int, ray: RayOptions | None
) -> EngineChoice:
    """The engine for what is missing of an experiment, as far as that is known."""
    if ray is not None:
        return EngineChoice(RAY_ENGINE, 1, ray.words())
    plan, records = runner.look(queued.builder, Store(options.root), CHOOSER)
    engine, trials = options.engine, (*plan.missing(records), *plan.later)
    if how.processes > 1:
        return EngineChoice("local", 1, f"one trial at a time, on {how.processes} processes")
    if engine == "auto" and options.recompute:  # a stack cannot recompute
        engine = "workers" if num_jobs > 1 else "local"
    if engine == "fused" and options.jobs is None and not how.gpus:
        num_jobs = 1  # on a CPU stacks share out only where --jobs says so
    return choose_engine(engine, how.device, num_jobs, trials, max(1, len(how.gpus)))


def _check_oom(builders: Sequence[Builder], oom: str) -> None:
    """Raise InputError if --oom halve would change what an arm computes."""
    if oom not in ("fail", "halve"):
        raise InputError(f"--oom {oom}: allowed are fail, halve")
    for builder in builders if oom == "halve" else ():
        setting = settings(builder.experiment)[0]
        for arm in builder.arms.values():
            for stage in builder.stages(arm, setting):
                if why := why_not_halve(stage.spec):
                    raise InputError(f"--oom halve: {builder.experiment.name}, arm {arm.name}: {why}; leave it out")


@dataclass(frozen=True)
class QueuedRun:
    """An experiment of the command with its resolved cells and its first event."""

    item: Prepared
    builder: Builder
    began: Began


@dataclass(frozen=True)
class Ran:
    """An experiment after its run: outcome, rows, and the number of trials that this command ran."""

    item: Prepared
    outcome: runner.RunOutcome
    rows: list[Row]
    num_run: int


def _queue(prepared: Sequence[Prepared], builders: Sequence[Builder], store: Store) -> list[QueuedRun]:
    """Every experiment with the work of the later ones; shared trials count once."""
    counted_ids: set[str] = set()
    work: list[tuple[Work, ...]] = []
    for builder in builders if len(prepared) > 1 else ():
        plan, records = runner.look(builder, store, CHOOSER)
        new = [trial for trial in plan.missing(records) if trial.trial_id not in counted_ids]
        work.append(runner.work_of((*new, *plan.later)))
        counted_ids.update(plan.unique())
    return [
        QueuedRun(item, builder, Began(item.run, number, len(prepared), tuple(itertools.chain(*work[number:]))))
        for number, (item, builder) in enumerate(zip(prepared, builders, strict=True), 1)
    ]


def _run_one(queued: QueuedRun, request: runner.RunRequest, session: Session) -> Ran:
    """Run one experiment under the live view and write its rows, even if it is stopped."""
    item, options = queued.item, session.options
    folder = options.root / item.run
    replace_durably(folder / "experiment.yaml", experiment_yaml(item.experiment, options.command).encode())
    _seal(queued, folder, options)
    if options.retry_failed:
        _set_failures_aside(queued.builder, options)
    num_run = 0
    state = RunState(item.experiment, session.pace)
    with LiveView(session.console, state, options.quiet or options.as_json, session.gauge) as view:
        track = tracker(options.track, options.root, view) if options.track else _ignore

        def listen(event: Event) -> None:
            nonlocal num_run
            num_run += isinstance(event, Finished)
            if isinstance(event, Planned) and event.num_done != state.num_done:  # earlier runs may have left records
                write_rows(folder, current := current_rows(queued.builder, options))
                view.recall(current)
            for listener in (view, session.event_log, track):
                listener(event)

        listen(queued.began)
        try:
            outcome = runner.run(queued.builder, request, CHOOSER, listen)
        finally:
            run_rows = current_rows(queued.builder, options)
            write_rows(folder, run_rows)
    write_predictions(folder, with_read_answers(item.experiment, run_rows), Store(options.root))
    return Ran(item, outcome, run_rows, num_run)


def _seal(queued: QueuedRun, folder: Path, options: RunOptions) -> None:
    """Write what the run declares before its first trial; a run with records is never sealed afterwards.

    Raises ResultsError if the folder's seal was edited.
    """
    if has_rows(folder):
        read_seal(folder)
        return
    plan, records = runner.look(queued.builder, Store(options.root), CHOOSER)
    sealed = read_seal(folder)
    if sealed is not None and len(records) > sealed["num_before"]:
        return  # A kill took the rows of a run whose trials have begun.
    seal = seal_of(queued.item.experiment, queued.item.file_looks, len(plan.unique()), len(records))
    replace_durably(folder / SEAL_FILE, seal_text(seal).encode())


def _ignore(_: Event) -> None:
    """A listener that does nothing."""


def _open_claims(ran: Ran, options: RunOptions, console: Console) -> list[str]:
    """The claims that are not settled at this look, which it prints; none without --until-settled."""
    if not options.until_settled:
        return []
    verdicts = verdicts_of(ran.item.experiment, ran.rows, options.root / ran.item.run)
    still = [verdict.claim for verdict in verdicts if verdict.state == "inconclusive"]
    n = max((verdict.n for verdict in verdicts), default=0)
    if not (options.quiet or options.as_json):
        open_ones = f"open: {', '.join(still)}" if still else "every claim is settled"
        console.print(f"{ran.item.run}, n = {n}: {open_ones}", highlight=False)
    return still


def current_rows(builder: Builder, options: RunOptions) -> list[Row]:
    """The rows of an experiment from the trials committed so far, without running anything.

    If the experiment has claims, each row also gets the accuracy of logistic regression on the pixels of its data.
    """
    store = Store(options.root)
    plan, summaries = runner.look(builder, store, CHOOSER)
    run_rows = rows(plan, store.read_all(summaries))
    if builder.experiment.claims:
        for name in {trial.spec.data.name for trial in plan.trials} - {"digits"}:
            floor = pixel_floor_percent(builder.facts_of(name), name, options.data)
            run_rows = [{**row, "floor_percent": floor} if row["data"] == name else row for row in run_rows]
    return run_rows


def _set_failures_aside(builder: Builder, options: RunOptions) -> None:
    store = Store(options.root)
    plan, _ = runner.look(builder, store, CHOOSER)
    for trial_id in plan.unique():
        store.set_aside(trial_id)


def _summary(done: list[Ran], options: RunOptions, console: Console, code: int) -> None:
    """Print the tables and the next command, or one JSON object."""
    if options.as_json:
        out = [
            {
                "run": ran.item.run,
                "folder": str(options.root / ran.item.run),
                "trials": len(ran.outcome.plan.unique()),
                "finished": len([i for i in ran.outcome.plan.unique() if i in ran.outcome.records]),
                "missing": len(ran.outcome.missing),
                "complete": ran.outcome.plan.complete and not ran.outcome.missing,
                "choices": {arm: dict(setting) for arm, setting in ran.outcome.plan.choices.items()},
            }
            for ran in done
        ]
        print(json.dumps({"exit_code": code, "runs": out}, allow_nan=False))
        return
    for ran in done:
        item, outcome, run_rows = ran.item, ran.outcome, ran.rows
        height = console.height if console.is_terminal else None
        console.print(summary(item.experiment, run_rows, console.width, height))
        if item.experiment.claims and run_rows and not options.quiet:
            verdicts = verdicts_of(item.experiment, run_rows, options.root / item.run)
            states = ", ".join(f"{verdict.claim} {verdict.state_words}" for verdict in verdicts)
            console.print(f"Verdicts ([bold]vitbench verdict[/] says why): {states}", highlight=False)
        if outcome.plan.unfit:
            console.print(f"[red]no eligible setting:[/] {', '.join(outcome.plan.unfit)}")
        if outcome.missing or outcome.stopped_by_limit:
            console.print(f"{item.run}: {len(outcome.missing)} trials missing; run the same command again to resume")
    if not options.quiet:
        names = " ".join(ran.item.run for ran in done)
        root = "" if options.root == Path("results") else f" --results {options.root}"
        what = options.command if code == 3 and options.command else f"vitbench report {names}{root}"
        console.print(f"Records: {options.root}. Next: [bold]{escape(what)}[/]", highlight=False, soft_wrap=True)
