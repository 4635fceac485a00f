"""`vitbench show`, `plan` and `status`: one experiment resolved, what would run, and the progress of runs. No torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vitbench.cli.commands.checks import check_all
from vitbench.cli.commands.device import choose_num_jobs, likely_device
from vitbench.cli.commands.prepare import ExperimentRequest, Prepared, facts_source, prepare, read_run, runs_named
from vitbench.cli.text_table import render
from vitbench.data import NOMINAL, DataOptions
from vitbench.engines import runner
from vitbench.engines.engine_choice import choose_engine
from vitbench.model.costs import forward_flops, num_params, train_flops
from vitbench.model.sizes import known
from vitbench.plan.arm_diff import arm_difference, flatten
from vitbench.plan.stage_graph import ResolvedStage
from vitbench.plan.trials import Builder, Plan, Trial, settings
from vitbench.report.live.pace import Pace, counted
from vitbench.report.live.progress import duration
from vitbench.spec.arms import Arm, find_arms
from vitbench.spec.experiment import START, Experiment
from vitbench.spec.trial import ObjectiveSpec
from vitbench.stats.race import CHOOSER
from vitbench.store.summary import Summary
from vitbench.store.trials import Store

ASSUMED_FLOPS = 2e10
"""Training FLOPs per second of one core, assumed until finished trials give a measured value."""


def show(request: ExperimentRequest, data: DataOptions, console: Console, as_json: bool) -> int:
    """Print the resolved settings of the baseline, and how every other arm differs from it."""
    facts_of = facts_source(data, nominal=True)
    out = []
    for item in prepare(request, facts_of):
        builder = Builder(item.experiment, facts_of)
        setting = settings(item.experiment)[0]
        specs = {
            arm.name: {stage.name: _stage_settings(stage) for stage in builder.stages(arm, setting)}
            for arm in builder.arms.values()
        }
        out.append({"name": item.experiment.name, "setting": dict(setting), "arms": specs})
        if not as_json:
            _show_arms(item.experiment, specs, setting, console)
    if as_json:
        print(json.dumps(out))
    return 0


def _stage_settings(stage: ResolvedStage) -> dict[str, Any]:
    """A stage's spec, and the stages whose networks it uses, by role."""
    networks = {role: name for role, name in stage.uses.items() if role != START}
    return {**({"uses": networks} if networks else {}), **stage.spec.model_dump(mode="json")}


def _show_arms(experiment: Experiment, specs: Mapping[str, Any], setting: Mapping[str, Any], console: Console) -> None:
    """All settings of the baseline, then the differences of each arm."""
    console.print(f"[bold]{experiment.name}[/]  {experiment.question}", highlight=False)
    if experiment.tune:
        how = "by a race" if experiment.tune.races else f"on {_count(experiment.tune.seeds, 'seed')}"
        tuned = f"tuned {how}: {dict(experiment.tune.grid)}"
        console.print(f"{tuned}; shown at {dict(setting)}")
    names = list(specs)
    baseline = flatten(specs[names[0]])
    console.print(f"[bold]{names[0]}[/] (baseline)")
    _print_settings(baseline, console)
    for name in names[1:]:
        console.print(f"[bold]{name}[/]")
        added = {stage: fields for stage, fields in specs[name].items() if stage not in specs[names[0]]}
        _print_settings(flatten(added), console)
        settings_of_arm = flatten({stage: fields for stage, fields in specs[name].items() if stage not in added})
        for key in dict.fromkeys([*baseline, *settings_of_arm]):
            before, after = baseline.get(key, "absent"), settings_of_arm.get(key, "absent")
            if before != after:
                console.print(f"  {key}: {before} -> {after}", highlight=False)


def _print_settings(settings_by_path: Mapping[str, Any], console: Console) -> None:
    for key, value in settings_by_path.items():
        if value is not None:
            console.print(f"  {key}: {value}", highlight=False)


def plan(
    request: ExperimentRequest,
    data: DataOptions,
    root: Path,
    diff: tuple[str, str] | None,
    console: Console,
    as_json: bool,
) -> int:
    """Print arms x settings x seeds, parameters, FLOPs, finished trials and the estimated time; train nothing."""
    facts_of = facts_source(data, nominal=True)
    prepared = prepare(request, facts_of)
    builders = check_all(prepared, facts_of)
    if diff is not None:
        return _diff(prepared, builders, diff, console)
    counted_ids: set[str] = set()
    out = [_plan_of(item, builder, root, counted_ids) for item, builder in zip(prepared, builders, strict=True)]
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


def _plan_of(item: Prepared, builder: Builder, root: Path, counted_ids: set[str]) -> dict[str, Any]:
    """The numbers of one experiment's plan. `counted_ids` collects the trials of all experiments so far."""
    plan_now, records = runner.look(builder, Store(root), CHOOSER)
    unique = plan_now.unique()
    missing = plan_now.missing(records)
    left, shared = (*missing, *plan_now.later), [trial for trial in missing if trial.trial_id in counted_ids]
    seconds = _seconds_by(plan_now, records)
    device = likely_device()
    num_jobs = choose_num_jobs(None, device, 1)
    num_shared = len(counted_ids & unique.keys())
    counted_ids.update(unique)
    return {
        "run": item.run,
        "question": item.experiment.question,
        "arms": [_arm_numbers(builder, arm, plan_now) for arm in builder.arms.values()],
        "settings": [dict(s) for s in plan_now.grid],
        "tuning_seeds": item.experiment.tune.seeds if item.experiment.tune and not plan_now.standings else 0,
        "race": _race_numbers(plan_now),
        "reporting_seeds": list(item.experiment.seeds.first()),
        "trials_now": len(unique),
        "trials_at_most": plan_now.num_expected,
        "done": len(records),
        "trials_shared": num_shared,
        "train_flops_left": sum(runner.flops_of(trial) for trial in left),
        "seconds_left": seconds(left) / num_jobs,
        "seconds_shared": seconds(shared) / num_jobs,
        "speed_measured": bool(records),
        "nominal_data": _nominal_data(builder, plan_now),
        "workers": num_jobs,
        "engine": choose_engine("auto", device, num_jobs, left).words(),
    }


def _race_numbers(plan_now: Plan) -> dict[str, Any]:
    """Least, likely and most trials of a race, and where each arm stands; empty if nothing races."""
    if not plan_now.standings:
        return {}
    least, likely, most = plan_now.bounds()
    arms = [
        {
            "arm": s.arm,
            "seeds": s.num_seeds,
            "racing": [dict(r) for r in s.racing],
            "dropped": [dict(d) for d in s.dropped],
        }
        for s in plan_now.standings
    ]
    return {"trials_least": least, "trials_likely": likely, "trials_most": most, "arms": arms}


def _nominal_data(builder: Builder, plan_now: Plan) -> list[str]:
    """The data sets that are not on this machine."""
    stages = (stage for arm in builder.arms.values() for stage in builder.stages(arm, plan_now.grid[0]))
    names = {stage.spec.data.name for stage in stages}
    return sorted(name for name in names if builder.facts_of(name).fingerprint_note == NOMINAL)


def _arm_numbers(builder: Builder, arm: Arm, plan_now: Plan) -> dict[str, Any]:
    """Parameters and FLOPs of an arm's last stage at its first setting; training FLOPs of all stages."""
    stages = builder.stages(arm, plan_now.grid[0])
    spec = stages[-1].spec
    trials = builder.trials(arm, plan_now.grid[0], 0, "reporting")
    return {
        "arm": arm.name,
        "params": num_params(spec.model, spec.train.objective),
        "forward_flops": forward_flops(spec.model, spec.train.objective),
        "steps": [stage.spec.train.steps for stage in stages],
        "train_flops": sum(runner.flops_of(trial) for trial in trials),
        "train_flops_without_networks": _flops_of_weights(trials),
        "supervised_steps": {trial.stage: cost for trial in trials if (cost := _supervised_steps(trial)) != 1.0},
        "choice": dict(plan_now.choices.get(arm.name, {})),
    }


def _flops_of_weights(trials: Sequence[Trial]) -> float:
    """Training FLOPs of the last stage and of the stages whose weights it goes on from, without those of teachers."""
    by_id, total = {trial.trial_id: trial for trial in trials}, 0.0
    trial: Trial | None = trials[-1]
    while trial is not None:
        total += runner.flops_of(trial)
        trial = by_id.get(trial.parent or "")
    return total


def _supervised_steps(trial: Trial) -> float:
    """FLOPs of one training step, with all views and networks, in steps of the same model that learns labels."""
    train = trial.spec.train
    num_images = known(train.steps) * train.batch_size
    return round(trial.train_flops / train_flops(trial.spec.model, ObjectiveSpec(), num_images), 2)


def _print_step_costs(arms: Iterable[Mapping[str, Any]], console: Console) -> None:
    """One line on steps that cost 5% more or less than a supervised step; nothing if there are none."""
    costs = [
        f"{arm['arm']} {cost:.2f}" + (f" ({stage})" if len(arm["steps"]) > 1 else "")
        for arm in arms
        for stage, cost in arm["supervised_steps"].items()
        if abs(cost - 1) >= 0.05
    ]
    if costs:
        console.print(f"training FLOPs of a step, in supervised steps: {', '.join(costs)}", highlight=False)


def _print_teachers(arms: Iterable[Mapping[str, Any]], console: Console) -> None:
    """One line on arms that need networks of other stages; nothing if there are none."""
    parts = [
        f"{arm['arm']} {arm['train_flops_without_networks']:.3g}"
        for arm in arms
        if arm["train_flops_without_networks"] != arm["train_flops"]
    ]
    if parts:
        console.print(f"training FLOPs without the training of teachers: {', '.join(parts)}", highlight=False)


def _seconds_by(plan_now: Plan, records: Mapping[str, Summary]) -> Callable[[Iterable[Trial]], float]:
    """What trials will take, in seconds of one process: by the times of those that are done, else by ASSUMED_FLOPS."""
    pace = Pace()
    for trial_id, trial in plan_now.unique().items():
        if trial_id in records:
            (work,) = runner.work_of([trial])
            pace.recall((work.arm, work.train_flops, work.num_steps), records[trial_id].seconds)
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
    _print_step_costs(item["arms"], console)
    _print_teachers(item["arms"], console)
    arms_, grid = len(item["arms"]), len(item["settings"])
    tuned = f"{_count(arms_, 'arm')} x {_count(grid, 'setting')} x {_count(item['tuning_seeds'], 'tuning seed')}, then "
    reported = f"{_count(arms_, 'arm')} x {_count(len(item['reporting_seeds']), 'seed')}"
    if race := item["race"]:
        racing, dropped = (sum(len(arm[key]) for arm in race["arms"]) for key in ("racing", "dropped"))
        seeds = _count(len(item["reporting_seeds"]), "seed")
        console.print(
            f"{_count(arms_, 'arm')} x {_count(grid, 'setting')}, a race over {seeds}: "
            f"least {race['trials_least']}, likely {race['trials_likely']}, at most {race['trials_most']} trials; "
            f"{item['done']} done; {racing} settings racing, {dropped} dropped"
        )
    else:
        counts = f"{item['trials_now']} trials known now, at most {item['trials_at_most']}; {item['done']} done"
        console.print(f"{tuned if item['tuning_seeds'] else ''}{reported}: {counts}")
    if item["nominal_data"]:
        console.print(f"data missing here; using the published sizes of {', '.join(item['nominal_data'])}")
    basis = "measured here" if item["speed_measured"] else f"assuming {ASSUMED_FLOPS:.0e} FLOP/s per core"
    console.print(
        f"{item['train_flops_left']:.3g} training FLOPs left (2 per multiply-add): "
        f"about {duration(item['seconds_left'])} with {item['workers']} processes ({basis})"
    )
    console.print(item["engine"], highlight=False)


def _diff(prepared: list[Prepared], builders: list[Builder], names: tuple[str, str], console: Console) -> int:
    """Print every difference between two arms. A key is never cut: values move below it on a narrow terminal."""
    for item, builder in zip(prepared, builders, strict=True):
        a, b = (find_arms(item.experiment, name)[0] for name in names)
        differences = arm_difference(builder, a, b)
        rows = [("stage", "what", "key", a.name, b.name)]
        rows += [(each.stage, each.kind, each.key, each.a, each.b) for each in differences]
        console.print(f"[bold]{item.run}[/]", highlight=False)
        for line in render(rows, console.width):
            console.print(line, highlight=False, soft_wrap=True)
    return 0


def status(names: list[str], root: Path, data: DataOptions, console: Console, as_json: bool) -> int:
    """Count finished, running, failed and missing trials of every run, without taking a lock."""
    facts_of = facts_source(data)
    store = Store(root)
    out = []
    for folder in runs_named(root, names):
        plan_now, records = runner.look(Builder(read_run(folder), facts_of), store, CHOOSER)
        counts = Counter(record.status for record in records.values())
        missing = plan_now.missing(records)
        running = store.locked(trial.trial_id for trial in missing)
        out.append(
            {
                "run": folder.name,
                "done": counts["ok"],
                "running": len(running),
                "diverged": counts["diverged"],
                "failed": counts["failed"],
                "missing": len(missing) - len(running),
                "at_most": plan_now.num_expected,
                "complete": plan_now.complete and not missing,
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
