"""`vitbench list`, `show`, `plan` and `status`: what there is, what would run, and how far it is. No torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vitbench.base.errors import InputError
from vitbench.cli.commands.checks import check_all
from vitbench.cli.commands.device import choose_num_jobs, likely_device
from vitbench.cli.commands.prepare import Asked, Prepared, facts_source, prepare, read_run, runs_named
from vitbench.data import NOMINAL, DataOptions
from vitbench.engines import runner
from vitbench.engines.engine_choice import choose_engine
from vitbench.model.costs import forward_flops, num_params
from vitbench.plan.arm_diff import arm_difference, flatten
from vitbench.plan.trials import Builder, Plan, Trial, settings
from vitbench.report.live.pace import Pace, counted
from vitbench.report.live.progress import duration
from vitbench.spec import load
from vitbench.spec.arms import Arm, find_arms
from vitbench.spec.experiment import Experiment, Suite
from vitbench.stats.tuning import choose
from vitbench.store.record import Record
from vitbench.store.trials import Store

ASSUMED_FLOPS = 2e10
"""Training FLOPs per second of one core, assumed until trials in the results folder say better."""


def list_experiments(console: Console, as_json: bool) -> int:
    """Print every experiment by name, with its claim and its cost."""
    found = []
    for name, path in sorted(load.available().items()):
        try:
            loaded, header = load.load(path), load.header(path)
        except InputError as error:
            found.append({"name": name, "kind": "unreadable", "question": str(error).splitlines()[0]})
            continue
        kind = "suite" if isinstance(loaded, Suite) else "experiment"
        found.append({"name": name, "kind": kind, "question": loaded.question, **header})
    if as_json:
        print(json.dumps(found))
        return 0
    table = Table("experiment", "question", "cost", box=None, pad_edge=False)
    for item in found:
        table.add_row(f"[bold]{item['name']}[/]", item["question"], item.get("cost", ""))
    console.print(table)
    console.print("Run one with [bold]vitbench run NAME[/]; look first with [bold]vitbench plan NAME[/].")
    return 0


def show(asked: Asked, data: DataOptions, console: Console, as_json: bool) -> int:
    """Print an experiment resolved: the baseline whole, every other arm as its differences."""
    facts_of = facts_source(data, nominal=True)
    out = []
    for item in prepare(asked, facts_of):
        builder = Builder(item.experiment, facts_of)
        setting = settings(item.experiment)[0]
        specs = {
            arm.name: {name: spec.model_dump(mode="json") for name, spec, _ in builder.stages(arm, setting)}
            for arm in builder.arms.values()
        }
        out.append({"name": item.experiment.name, "setting": dict(setting), "arms": specs})
        if not as_json:
            _show_arms(item.experiment, specs, setting, console)
    if as_json:
        print(json.dumps(out))
    return 0


def _show_arms(experiment: Experiment, specs: Mapping[str, Any], setting: Mapping[str, Any], console: Console) -> None:
    """The baseline whole, then each arm against it."""
    console.print(f"[bold]{experiment.name}[/]  {experiment.question}", highlight=False)
    if experiment.tune:
        tuned = f"tuned on {_count(experiment.tune.seeds, 'seed')}: {dict(experiment.tune.grid)}"
        console.print(f"{tuned}; shown at {dict(setting)}")
    names = list(specs)
    baseline = flatten(specs[names[0]])
    console.print(f"[bold]{names[0]}[/] (baseline)")
    for key, value in baseline.items():
        if value is not None:
            console.print(f"  {key}: {value}", highlight=False)
    for name in names[1:]:
        console.print(f"[bold]{name}[/]")
        own = flatten(specs[name])
        for key in dict.fromkeys([*baseline, *own]):
            before, after = baseline.get(key, "absent"), own.get(key, "absent")
            if before != after:
                console.print(f"  {key}: {before} -> {after}", highlight=False)


def plan(
    asked: Asked, data: DataOptions, root: Path, diff: tuple[str, str] | None, console: Console, as_json: bool
) -> int:
    """Print arms x settings x seeds, parameters, FLOPs, what is done, and an estimate of the time; train nothing."""
    facts_of = facts_source(data, nominal=True)
    prepared = prepare(asked, facts_of)
    builders = check_all(prepared, facts_of)
    if diff is not None:
        return _diff(builders, prepared, diff, console)
    seen: set[str] = set()
    out = [_plan_of(item, builder, root, seen) for item, builder in zip(prepared, builders, strict=True)]
    if as_json:
        print(json.dumps(out))
        return 0
    for item in out:
        _print_plan(item, console)
    if len(out) > 1:
        num_trials = sum(item["trials_at_most"] - item["trials_shared"] for item in out)
        total = sum(item["seconds_left"] - item["seconds_shared"] for item in out)
        console.print(
            f"[bold]together[/]: at most {num_trials} trials, those that experiments share counted once; "
            f"about {duration(total)} to go",
            highlight=False,
        )
    return 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _plan_of(item: Prepared, builder: Builder, root: Path, seen: set[str]) -> dict[str, Any]:
    """The numbers of one experiment's plan; `seen` holds the trials of the suite's earlier ones, and is added to."""
    known, records = runner.look(builder, Store(root), choose)
    unique = known.unique()
    missing = known.missing(records)
    left, shared = (*missing, *known.later), [trial for trial in missing if trial.trial_id in seen]
    seconds = _seconds_by(known, records)
    device = likely_device()
    num_jobs = choose_num_jobs(None, device, 1)
    num_shared = len(seen & unique.keys())
    seen.update(unique)
    return {
        "run": item.run,
        "question": item.experiment.question,
        "arms": [_arm_numbers(builder, arm, known) for arm in builder.arms.values()],
        "settings": [dict(s) for s in known.grid],
        "tuning_seeds": item.experiment.tune.seeds if item.experiment.tune else 0,
        "reporting_seeds": list(item.experiment.seeds.first()),
        "trials_now": len(unique),
        "trials_at_most": known.num_expected,
        "done": len(records),
        "trials_shared": num_shared,
        "train_flops_left": sum(runner.flops_of(trial) for trial in left),
        "seconds_left": seconds(left) / num_jobs,
        "seconds_shared": seconds(shared) / num_jobs,
        "speed_measured": bool(records),
        "nominal_data": _nominal_data(builder, known),
        "workers": num_jobs,
        "engine": choose_engine("auto", device, num_jobs, left).words(),
    }


def _nominal_data(builder: Builder, known: Plan) -> list[str]:
    """The data sets that are not on this machine."""
    stages = (stage for arm in builder.arms.values() for stage in builder.stages(arm, known.grid[0]))
    names = {spec.data.name for _, spec, _ in stages}
    return sorted(name for name in names if builder.facts_of(name).fingerprint_note == NOMINAL)


def _arm_numbers(builder: Builder, arm: Arm, known: Plan) -> dict[str, Any]:
    """Parameters and FLOPs of an arm's last stage; training FLOPs of all stages, at its first setting."""
    stages = builder.stages(arm, known.grid[0])
    spec = stages[-1][1]
    trials = builder.trials(arm, known.grid[0], 0, "reporting")
    return {
        "arm": arm.name,
        "params": num_params(spec.model, spec.train.objective),
        "forward_flops": forward_flops(spec.model, spec.train.objective),
        "steps": [s.train.steps for _, s, _ in stages],
        "train_flops": sum(runner.flops_of(trial) for trial in trials),
        "choice": dict(known.choices.get(arm.name, {})),
    }


def _seconds_by(known: Plan, records: Mapping[str, Record]) -> Callable[[Iterable[Trial]], float]:
    """What trials will take, in seconds of one process: by the times of those that are done, else by ASSUMED_FLOPS."""
    pace = Pace()
    for trial_id, trial in known.unique().items():
        if trial_id in records:
            run, (work,) = records[trial_id].run, runner.work_of([trial])
            pace.recall((work.arm, work.train_flops, work.num_steps), run.train_seconds + run.eval_seconds)
    scale = 1.0 if records else 1.0 / ASSUMED_FLOPS
    return lambda trials: scale * pace.total(counted(runner.work_of(trials)))


def _print_plan(item: Mapping[str, Any], console: Console) -> None:
    console.print(f"\n[bold]{item['run']}[/]  {item['question']}", highlight=False)
    table = Table("arm", box=None, pad_edge=False)
    for column in ("parameters", "forward FLOPs", "steps", "training FLOPs", "tuned to"):
        table.add_column(column, justify="right")
    for arm in item["arms"]:
        steps = " + ".join(f"{s:,}" for s in arm["steps"])
        choice = ", ".join(f"{k} {v}" for k, v in arm["choice"].items())
        table.add_row(
            arm["arm"], f"{arm['params']:,}", f"{arm['forward_flops']:.3g}", steps, f"{arm['train_flops']:.3g}", choice
        )
    console.print(table)
    arms_, grid = len(item["arms"]), len(item["settings"])
    tuned = f"{_count(arms_, 'arm')} x {_count(grid, 'setting')} x {_count(item['tuning_seeds'], 'tuning seed')}, then "
    reported = f"{_count(arms_, 'arm')} x {_count(len(item['reporting_seeds']), 'seed')}"
    known = f"{item['trials_now']} trials known now, at most {item['trials_at_most']}; {item['done']} done"
    console.print(f"{tuned if item['tuning_seeds'] else ''}{reported}: {known}")
    if item["nominal_data"]:
        console.print(f"data not found here: nominal sizes of {', '.join(item['nominal_data'])}")
    basis = "measured here" if item["speed_measured"] else f"assuming {ASSUMED_FLOPS:.0e} FLOP/s a core"
    console.print(
        f"{item['train_flops_left']:.3g} training FLOPs to go (2 per multiply-add): "
        f"about {duration(item['seconds_left'])} with {item['workers']} processes ({basis})"
    )
    console.print(item["engine"], highlight=False)


def _diff(builders: list[Builder], prepared: list[Prepared], names: tuple[str, str], console: Console) -> int:
    """Every way in which two arms differ."""
    for item, builder in zip(prepared, builders, strict=True):
        a, b = (find_arms(item.experiment, name)[0] for name in names)
        table = Table("stage", "what", "key", a.name, b.name, box=None, pad_edge=False, title=item.run)
        for difference in arm_difference(builder, a, b):
            table.add_row(difference.stage, difference.kind, difference.key, difference.a, difference.b)
        console.print(table)
    return 0


def status(names: list[str], root: Path, data: DataOptions, console: Console, as_json: bool) -> int:
    """Print done, running, failed and missing trials of every run; takes no lock."""
    facts_of = facts_source(data)
    store = Store(root)
    out = []
    for folder in runs_named(root, names):
        known, records = runner.look(Builder(read_run(folder), facts_of), store, choose)
        counts = Counter(record.status for record in records.values())
        missing = known.missing(records)
        running = store.locked(trial.trial_id for trial in missing)
        out.append(
            {
                "run": folder.name,
                "done": counts["ok"],
                "running": len(running),
                "diverged": counts["diverged"],
                "failed": counts["failed"],
                "missing": len(missing) - len(running),
                "at_most": known.num_expected,
                "complete": known.complete and not missing,
            }
        )
    if as_json:
        print(json.dumps(out))
        return 0
    table = Table("run", box=None, pad_edge=False)
    columns = ("done", "running", "diverged", "failed", "missing", "at_most")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for item in out:
        table.add_row(str(item["run"]), *(str(item[column]) for column in columns))
    console.print(table)
    return 0
