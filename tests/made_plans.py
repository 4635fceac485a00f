"""Experiments, facts and records made up for tests of the plan; nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitbench.data import Facts
from vitbench.experiment import Experiment, Suite
from vitbench.load import loads
from vitbench.plan import Plan, Trial, expand
from vitbench.record import Record, Result, Run, Status

BASE = """
name: made
base:
  data: {name: fake}
  model: {name: Mu/2}
  train: {epochs: 2}
"""


def facts_of(name: str) -> Facts:
    """Four classes of 8-pixel grey images; `colour` has three channels, `uneven` images of unequal size."""
    return Facts(
        name=name,
        img_size=None if name == "uneven" else 8,
        in_chans=3 if name == "colour" else 1,
        num_classes=4,
        class_names=("a", "b", "c", "d"),
        class_counts=(128,) * 4,
        num_train=512,
        num_test=256,
        flip=False,
        fingerprint=f"fingerprint of {name.removeprefix('torch/')}",
        fingerprint_note="",
        pixels_publishable=True,
    )


def experiment(text: str) -> Experiment:
    """An experiment file's text after the common base."""
    loaded = loads(BASE + text, "made.yaml")
    assert not isinstance(loaded, Suite)
    return loaded


@dataclass(frozen=True)
class Index:
    index: int


def best(settings: Sequence[Mapping[str, Any]], scores: np.ndarray, eligible: np.ndarray) -> Index | None:
    """The setting with the best mean among those that are eligible on every seed."""
    fit = eligible.all(axis=1)
    return Index(int(np.where(fit, scores.mean(axis=1), -np.inf).argmax())) if fit.any() else None


def record(trial: Trial, val: float | None = 50.0, status: Status = "ok") -> Record:
    """The record that a trial might have left."""
    return Record(
        trial_id=trial.trial_id,
        status=status,
        seed=trial.seed,
        parent=trial.parent,
        data_fingerprint=trial.data_fingerprint,
        spec={},
        result=Result(val_top1_percent=val),
        run=Run(),
    )


Score = Callable[[Trial], Record]


def rounds(made: Experiment, score: Score, seeds: Sequence[int] | None = None) -> list[Plan]:
    """The plans of a whole run: each round's trials get the records that `score` makes."""
    records: dict[str, Record] = {}
    plans: list[Plan] = []
    while True:
        plan = expand(made, records, best, facts_of, seeds)
        if not plans or plan != plans[-1]:
            plans.append(plan)
        missing = [t for t in plan.unique().values() if t.trial_id not in records]
        if not missing and plan.complete:
            return plans
        assert missing, "a plan that is not complete names what is missing"
        records |= {t.trial_id: score(t) for t in missing}


def top(peaks: Mapping[str, float]) -> Score:
    """Validation scores that fall with the distance of an arm's learning rate (in doublings) from its peak."""

    def score(trial: Trial) -> Record:
        return record(trial, 90.0 - abs(float(np.log2(trial.spec.train.lr / peaks[trial.arm]))))

    return score
