"""The trainings of a recommendation: each question, and the final comparison, as an ordinary run of an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from rich.console import Console

from vitbench.base.contained import exists
from vitbench.base.durable import make_folder, replace_durably
from vitbench.cli.commands import run
from vitbench.cli.commands.prepare import ExperimentRequest
from vitbench.cli.commands.recommend_options import RecommendOptions
from vitbench.cli.commands.run_options import RunOptions
from vitbench.plan.run_table import Row
from vitbench.recommend.budget import TRIAL_SECONDS
from vitbench.recommend.diary import Clock, TimeUp
from vitbench.recommend.experiments import RECOMMENDED, TRANSFER, final_file, question_file
from vitbench.recommend.outcome import TestedArm
from vitbench.recommend.recipe import RATE, Frame, Recipe
from vitbench.recommend.search import Ask, Reply, Tried
from vitbench.spec.yaml import dump
from vitbench.stats.distributions import Floats
from vitbench.stats.images import Bools, images_interval
from vitbench.stats.intervals import Interval, counting_floor
from vitbench.store.answers import read_trial_answers
from vitbench.store.rows import read_records
from vitbench.store.trials import Store

FINAL = "final"


@dataclass(frozen=True)
class Trainings:
    """Runs experiments of one recommendation in its results root until its clock says stop."""

    options: RecommendOptions
    frame: Frame
    clock: Clock
    console: Console

    def ask(self, asked: Ask, reserved: float) -> Reply:
        """Train the arms of a question; what is finished is read back."""
        number = 1 + self.clock.diary.content["journal"].index(asked.name)
        name = f"{number:02}-{asked.name}"
        content = question_file(name, asked.question.words, asked.arms, asked.rates, asked.seeds, self.frame)
        rows, finished = self._run(name, content, reserved, "none")
        arms = {arm: tried_of(rows, arm, recipe) for arm, recipe in asked.arms.items()}
        ready = {arm: tried for arm, tried in arms.items() if tried is not None}
        return Reply(ready, finished and bool(ready), len({row["trial_id"] for row in rows}))

    def final(self, arms: Mapping[str, Recipe], num_seeds: int, reserved: float) -> dict[str, TestedArm]:
        """Train the recommended recipe and the baselines on fresh seeds, and read the test images."""
        self._run(FINAL, final_file(FINAL, arms, num_seeds, self.frame), reserved, "final")
        return tested_arms(self.options.root, arms)

    def folder(self, name: str) -> Path:
        """The run folder of an experiment."""
        return self.options.root / name

    def _run(self, name: str, content: dict[str, Any], reserved: float, keep: str) -> tuple[list[Row], bool]:
        """Rows of an experiment, and whether it is finished. A finished one is only read."""
        finished: list[str] = self.clock.diary.content.get("finished", [])
        if name not in finished and self.clock.left(reserved) > 0.0:
            path = self.options.root / "questions" / f"{name}.yaml"
            make_folder(path.parent)
            replace_durably(path, dump(content).encode())
            try:
                with self.clock.until(reserved):
                    _, code = run.train(ExperimentRequest(str(path)), self._options(keep), self.console)
            except TimeUp:
                pass
            else:
                if code != 3:
                    self.clock.note(finished=[*finished, name])
        records = self.folder(name) / "records.jsonl"
        rows = read_records(records) if exists(records) else []
        return rows, name in self.clock.diary.content.get("finished", [])

    def _options(self, keep: str) -> RunOptions:
        options = self.options
        return RunOptions(
            root=options.root,
            data=options.where,
            device=options.device,
            jobs=options.jobs,
            keep=keep,
            quiet=options.quiet or not self.console.is_terminal,
            command=options.command,
            warn=False,
            seed_by_seed=True,  # The clock may end an experiment anywhere.
        )


def tried_of(rows: Sequence[Row], arm: str, recipe: Recipe) -> Tried | None:
    """An arm at its leading rate with its validation scores; None before it has one.

    Before the race of an unfinished question has a leader, it is the rate with the most seeds and the best mean.
    """
    of_arm = [
        row
        for row in rows
        if row["arm"] == arm and row["role"] != "stage" and row["result"].get("val_top1_percent") is not None
    ]
    if not of_arm:
        return None
    by_setting: dict[str, list[Row]] = {}
    for row in of_arm:
        by_setting.setdefault(repr(row["setting"]), []).append(row)
    leading = [row for row in of_arm if row["chosen"]]
    chosen = leading or max(by_setting.values(), key=lambda group: (len(group), _mean_score(group)))
    setting = chosen[0]["setting"]
    rate = setting.get(RATE, setting.get(f"{TRANSFER}.{RATE}", recipe.rate))
    seconds = median(row["run"]["train_seconds"] + row["run"]["eval_seconds"] for row in chosen)
    return Tried(
        recipe.changed({RATE: rate}),
        {row["seed"]: row["result"]["val_top1_percent"] for row in chosen},
        speed=median(row["run"]["images_per_second"] for row in chosen),
        params=chosen[0]["result"]["num_params"],
        seconds=seconds / (1.0 - recipe.pretrain) + TRIAL_SECONDS,
    )


def _mean_score(rows: Sequence[Row]) -> float:
    return float(mean(row["result"]["val_top1_percent"] for row in rows))


def tested_arms(root: Path, arms: Mapping[str, Recipe]) -> dict[str, TestedArm]:
    """Accuracies and leads on the test images, at the seeds that every arm has; empty with under two seeds."""
    records, store = root / FINAL / "records.jsonl", Store(root)
    rows = [row for row in read_records(records) if row["arm"] in arms] if exists(records) else []
    rows = [row for row in rows if row["status"] == "ok" and row["role"] != "stage"]
    correct = {(row["arm"], row["seed"]): _correct(row, store) for row in rows}
    seeds = sorted(set.intersection(*({seed for a, seed in correct if a == arm} for arm in arms)))
    if len(seeds) < 2:
        return {}
    table = {arm: 100.0 * np.array([correct[arm, seed] for seed in seeds], dtype=np.float64) for arm in arms}
    out = {}
    for arm, recipe in arms.items():
        lead = None if arm == RECOMMENDED else _lead(table[RECOMMENDED] - table[arm])
        of_arm = [row for row in rows if row["arm"] == arm]
        speed = median(row["run"]["images_per_second"] for row in of_arm)
        accuracy = _accuracy(table[arm])
        out[arm] = TestedArm(recipe, accuracy, lead, speed, of_arm[0]["result"]["num_params"])
    return out


def _correct(row: Row, store: Store) -> Bools:
    """Which test images a trial gets right [M]."""
    answers = read_trial_answers(
        store.folder(row["trial_id"]) / "predictions.npz", row["result"].get("predictions_sha256")
    )
    return np.asarray(answers["predicted"] == answers["label"])


def _lead(differences: Floats) -> Interval:
    """The interval of a lead from points per seed and image [S, M]; equal scores still have the floor of counting."""
    num_seeds, num_images = differences.shape
    return images_interval(differences, extra_variance=counting_floor(num_images) ** 2 / num_seeds)


def _accuracy(points: Floats) -> Interval:
    """The interval of an accuracy, from 0 or 100 per seed and image [S, M], at least as wide as Wilson's."""
    interval, num_images = images_interval(points), points.shape[1]
    if interval.mean is None or interval.low is None or interval.high is None:
        return interval
    share, z = interval.mean / 100.0, 1.96
    middle = (share + z**2 / (2 * num_images)) / (1 + z**2 / num_images)
    half = z * np.sqrt(share * (1 - share) / num_images + z**2 / (4 * num_images**2)) / (1 + z**2 / num_images)
    low, high = 100.0 * float(middle - half), 100.0 * float(middle + half)
    return replace(interval, low=max(0.0, min(interval.low, low)), high=min(100.0, max(interval.high, high)))
