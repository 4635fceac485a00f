"""What a look at finished trials and the commands that read them cost, against their number and against another build.

The records are synthetic: their scores are made up, their size and their form are those of real ones. Each measurement
is a process of its own, and two builds alternate.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from vitbench.base.errors import VitbenchError
from vitbench.bench.finished_trials import BASE, committed
from vitbench.data import DataOptions, Facts, facts
from vitbench.plan.rounds import expand
from vitbench.plan.run_table import rows
from vitbench.plan.trials import Builder, Plan, Trial
from vitbench.spec.experiment import Experiment
from vitbench.spec.limits import allow_trials
from vitbench.spec.load import loads
from vitbench.stats.race import CHOOSER
from vitbench.store.index import INDEX_FILE

Say = Callable[[str], None]
NUM_ARMS = 100
MOST_FOR_OLD = 10_000
"""Builds before the index are measured up to this many trials."""
THIS = "this"
COMMANDS = ("look", "status", "plan", "verdict")
BUILDS_INDEX = ("look", "verdict")
"""What fills the index: a look with records in short, a verdict with checked rows."""
KEYS = ("command", "trials", "build", "index")
NUMBERS = ("cpu_seconds", "peak_mib", "grown_mib")
SLOPED = ("cpu_seconds", "grown_mib")
RUN = "many"
TEXT = f"""{BASE}factors:
  train.lr: [1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3, 7e-3, 8e-3, 9e-3, 1e-2]
  train.weight_decay: [0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09]
claims:
  - id: LR-01
    form: difference
    arms: [{{{{train.lr: 1e-3, train.weight_decay: 0.0}}}}, {{{{train.lr: 1e-2, train.weight_decay: 0.0}}}}]
    above_points: 0.0
"""
LOOK = """
import json, os, resource, sys, time
from pathlib import Path
os.environ["VITBENCH_MAX_TRIALS"] = "1000000000"
from vitbench.spec import experiment
if hasattr(experiment, "MAX_TRIALS"):  # a build without the option
    experiment.MAX_TRIALS = 10**9
else:
    from vitbench.spec.limits import allow_trials
    allow_trials(10**9)
from vitbench.data import DataOptions, facts
from vitbench.engines import runner
from vitbench.plan.trials import Builder
from vitbench.spec.load import load
from vitbench.stats.race import CHOOSER
from vitbench.store.trials import Store
root = Path(sys.argv[1])
many = load(root / "many" / "experiment.yaml")
fake = facts("fake", DataOptions())
builder = Builder(many, lambda name: fake)
for arm in builder.arms.values():
    builder.trials(arm, {}, 0, "reporting")
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, began = peak(), time.process_time()
plan, records = runner.look(builder, Store(root), CHOOSER)
print(json.dumps({"cpu_seconds": time.process_time() - began, "peak_mib": peak(), "grown_mib": peak() - before,
                  "trials": len(plan.unique()), "done": len(records)}))
"""
"""A look as `plan`, `status` and `run` make it, in any build; the limit of older builds is lifted."""
COMMAND = """
import sys
from vitbench.spec import experiment
if hasattr(experiment, "MAX_TRIALS"):  # a build without the option
    experiment.MAX_TRIALS = 10**9
from vitbench.cli.main import main
main()
"""


@dataclass(frozen=True)
class Cost:
    """What one process took: processor seconds in user and system mode, peak memory, and what it printed."""

    cpu_seconds: float
    peak_mib: float
    output: str


def cost_of(code: Path, script: str, words: Sequence[str]) -> Cost:
    """Run a script with the package of a checkout. Raises VitbenchError with its last lines if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "VITBENCH_MAX_TRIALS": str(10**9)}
    with TemporaryFile("w+") as output:
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", script, *words], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if child.returncode:
        raise VitbenchError(f"{' '.join(words)}: exit {child.returncode}\n" + "\n".join(text.splitlines()[-3:]))
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, text)


def measure(
    sizes: Sequence[int],
    builds: Mapping[str, Path],
    rounds: int,
    work: Path,
    say: Say,
    commands: Sequence[str] = COMMANDS,
) -> dict[str, Any]:
    """The commands at every size in every build, the builds in turn, as plain data.

    `builds`: {name: checkout}; THIS is measured once without an index first. Others are measured up to MOST_FOR_OLD.
    """
    costs: list[dict[str, Any]] = []
    for size in sizes:
        root = work / str(size)
        if not root.exists():
            make_root(root, size)
        (root / "trials" / INDEX_FILE).unlink(missing_ok=True)
        for number in range(rounds + 1):
            others = [] if number == 0 or size > MOST_FOR_OLD else [name for name in builds if name != THIS]
            for build in (THIS, *others):
                for command in commands if number else BUILDS_INDEX:
                    cost = cost_of(builds[build], *_script(command, root))
                    line = {"command": command, "trials": size, "build": build, "index": number > 0}
                    line |= {"cpu_seconds": cost.cpu_seconds, "peak_mib": cost.peak_mib}
                    costs.append(line | (json.loads(cost.output) if command == "look" else {}))
                    say(
                        " ".join(
                            f"{value:.2f}" if isinstance(value, float) else f"{value}" for value in costs[-1].values()
                        )
                    )
    return {"rounds": rounds, "arms": NUM_ARMS, "costs": costs}


def _script(command: str, root: Path) -> tuple[str, list[str]]:
    """The script of a command, and its words."""
    words = {"status": [RUN], "plan": [str(root / RUN / "experiment.yaml")], "verdict": ["--run", RUN]}
    if command == "look":
        return LOOK, [str(root)]
    return COMMAND, [command, *words[command], "--results", str(root)]


def summary(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Medians per command, size, build and index."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for cost in measured["costs"]:
        groups.setdefault(tuple(cost[key] for key in KEYS), []).append(cost)
    return [
        {
            **dict(zip(KEYS, key, strict=True)),
            **{name: median(cost[name] for cost in costs) for name in NUMBERS if name in costs[0]},
        }
        for key, costs in sorted(groups.items())
    ]


def slopes(measured: Mapping[str, Any]) -> dict[str, float]:
    """The exponents of this build's look with its index against the number of trials: CPU seconds, added memory."""
    looks = [
        line for line in summary(measured) if line["command"] == "look" and line["build"] == THIS and line["index"]
    ]
    out = {}
    for name in SLOPED:
        points = [(line["trials"], line[name]) for line in looks if line[name] > 0.0]  # A small look adds no memory.
        if len(points) > 1:
            sizes, values = np.log(points).T
            out[name] = float(np.polyfit(sizes, values, 1)[0])
    return out


def table(measured: Mapping[str, Any]) -> str:
    """The medians as Markdown."""
    head = (
        "# What finished trials cost\n\n"
        f"{NUM_ARMS} arms, synthetic records and rows, one process per command, builds in turn.\n"
        f"Rounds: {measured['rounds']} (this is their median), and one without an index. "
        "`vitbench bench store` writes this page.\n\n"
        "| command | trials | build | CPU s | peak MiB | added MiB |\n|---|---|---|---|---|---|\n"
    )
    lines = []
    for line in summary(measured):
        build = line["build"] + ("" if line["index"] or line["build"] != THIS else ", no index yet")
        added = f"{line['grown_mib']:.1f}" if "grown_mib" in line else ""
        numbers = f"{line['cpu_seconds']:.2f} | {line['peak_mib']:.0f} | {added}"
        lines.append(f"| {line['command']} | {line['trials']:,} | {build} | {numbers} |\n")
    exponents = ", ".join(f"{name} {value:.2f}" for name, value in slopes(measured).items())
    return head + "".join(lines) + (f"\nExponents of a look with its index: {exponents}.\n" if exponents else "")


def make_root(root: Path, num_trials: int) -> None:
    """Write a results root in which `num_trials` trials are finished, with the rows of their run."""
    allow_trials(10**9)
    text = TEXT.format(seeds=num_trials // NUM_ARMS)
    experiment, fake_facts = loads(text, "many.yaml"), facts("fake", DataOptions())
    assert isinstance(experiment, Experiment)

    def facts_of(name: str) -> Facts:
        return fake_facts

    plan = expand(Builder(experiment, facts_of), {}, CHOOSER)
    folder = root / RUN
    folder.mkdir(parents=True)
    (folder / "experiment.yaml").write_text(text)
    templates: dict[str, tuple[str, str]] = {}
    with (folder / "records.jsonl").open("w") as lines:
        for number, trial in enumerate(plan.trials):
            if trial.arm not in templates:
                templates[trial.arm] = _templates(trial, plan)
            record, line = (_filled(template, trial, number) for template in templates[trial.arm])
            place = root / "trials" / trial.trial_id
            place.mkdir(parents=True)
            (place / "record.json").write_text(record)
            lines.write(line)


def _templates(trial: Trial, plan: Plan) -> tuple[str, str]:
    """The record and the row of an arm's first trial, for the others to be filled in."""
    record = committed(trial, 0)
    (row,) = rows(Plan((trial,), plan.arms, plan.choices), {trial.trial_id: record})
    texts = record.model_dump_json(indent=1, exclude_none=True), json.dumps(row, sort_keys=True, separators=(",", ":"))
    first, second = (text.replace(trial.trial_id, "TRIAL").replace("50.0", "SCORE") + "\n" for text in texts)
    return first, second


def _filled(template: str, trial: Trial, number: int) -> str:
    text = template.replace("TRIAL", trial.trial_id).replace("SCORE", str(50 + number * 7 % 40 / 2))
    return text.replace('"seed": 0', f'"seed": {trial.seed}').replace('"seed":0', f'"seed":{trial.seed}')
