"""The share of an experiment's core time that goes into training steps; the rest by what it is spent on.

The experiment is run by `python -m vitbench.bench.training_share FILE ROOT TRIALS`, a process that runs the command
`run` inside itself with timers around its parts. From one commit of a record to the next a training takes place; the
rest of the process is its start and its end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from runpy import run_module
from statistics import mean, median
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

from vitbench.base.errors import VitbenchError

Say = Callable[[str], None]
CHECKOUT = Path(__file__).resolve().parents[2]
PARTS = ("steps", "readings", "test images", "commit")
EXPERIMENTS = {"digits": "class_token_vs_gap", "Fashion-MNIST": "fashion_mnist/class_token_vs_gap"}
FIRST_LOOK = {"digits": 156, "Fashion-MNIST": 120}
"""Likely trainings up to the first look, from the head of each file."""


Spent = dict[str, float]


def run(file: str, root: Path, num_trials: int) -> tuple[list[Spent], float]:
    """Core seconds of every training but the first, whole and by part, and of start and end together.

    Raises VitbenchError if the command fails or has fewer than two trainings left.
    """
    done = subprocess.run(
        [sys.executable, "-m", "vitbench.bench.training_share", file, str(root), str(num_trials)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise VitbenchError(f"run {file}: exit {done.returncode}\n{(done.stdout + done.stderr)[-500:]}")
    *commits, end = json.loads(done.stdout.splitlines()[-1])
    if len(commits) < 2:
        raise VitbenchError(f"run {file}: {len(commits)} training(s); at least 2 are needed")
    trainings = [{key: b[key] - a[key] for key in a} for a, b in pairwise(commits)]
    return trainings, end["whole"] - len(commits) * mean(training["whole"] for training in trainings)


def measure(num_trials: int, say: Say) -> dict[str, Any]:
    """Both experiments, one command each with `num_trials` trainings."""
    out = {}
    with TemporaryDirectory() as folder:
        for name, file in EXPERIMENTS.items():
            trainings, start = run(file, Path(folder), num_trials)
            num = FIRST_LOOK[name]
            shares = [num * each["steps"] / (start + num * each["whole"]) for each in trainings]
            out[name] = {"trainings": trainings, "start": start, "shares": shares}
            say(f"{name}: " + ", ".join(f"{100 * share:.1f}%" for share in shares))
    return {"load": os.getloadavg()[0], "experiments": out}


def table(measured: Mapping[str, Any]) -> str:
    """Markdown: medians of the trainings, and the lowest and highest share."""
    lines = [
        "# Share of the core time in training steps\n",
        f"One process, one thread, user and system seconds, load average {measured['load']:.1f} at the end. Start and "
        "end: imports, data, plan, pixel",
        "baseline, verdicts, tables. Share: of all core time of an experiment up to its first look, in one command. "
        "`vitbench bench share`\nwrites this page.\n",
        "| experiment | n | start and end, s | a training, s | steps | readings | test images | commit | other "
        "| trainings to the first look | share in steps (lowest, highest) |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in measured["experiments"].items():
        rows, shares = found["trainings"], [100 * share for share in found["shares"]]
        middle = {key: median(row[key] for row in rows) for key in rows[0]}
        parts = " | ".join(f"{100 * middle[part] / middle['whole']:.1f}%" for part in PARTS)
        other = 1 - sum(middle[part] for part in PARTS) / middle["whole"]
        lines.append(
            f"| {EXPERIMENTS[name]} | {len(rows)} | {found['start']:.1f} | {middle['whole']:.2f} | {parts} "
            f"| {100 * other:.1f}% | {FIRST_LOOK[name]} "
            f"| {median(shares):.1f}% ({min(shares):.1f}, {max(shares):.1f}) |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Run the experiment here, with timers, and print core seconds as the last line."""
    from vitbench.engines import trial_result
    from vitbench.store.trials import Store
    from vitbench.train.loop import TrainingState
    from vitbench.train.trainer import Trainer

    spent = dict.fromkeys(PARTS, 0.0)

    def timed(owner: Any, name: str, part: str) -> None:
        original = getattr(owner, name)

        def with_timer(*given: Any, **named: Any) -> Any:
            before = process_time()
            try:
                return original(*given, **named)
            finally:
                spent[part] += process_time() - before

        setattr(owner, name, with_timer)

    timed(Trainer, "step", "steps")
    timed(TrainingState, "_read", "readings")
    timed(trial_result, "final_answers", "test images")
    timed(Store, "commit", "commit")
    commits: list[Spent] = []
    commit = Store.commit

    def noted(*given: Any, **named: Any) -> bool:
        kept = commit(*given, **named)
        commits.append({"whole": process_time(), **spent})
        return kept

    Store.commit = noted  # type: ignore[method-assign]
    file, root, num_trials = arguments
    sys.argv = ["vitbench", "run", file, "--results", root, "--jobs", "1", "--limit", num_trials, "--quiet"]
    try:
        run_module("vitbench", run_name="__main__")
    except SystemExit as ended:
        if ended.code not in (0, 3, None):
            raise
    print(json.dumps([*commits, {"whole": process_time(), **spent}]))


if __name__ == "__main__":
    main(sys.argv[1:])
