"""Whether a run counts as evidence: a baseline that is a sane model, and a training that had ended."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from vitbench.spec.experiment import Experiment
from vitbench.spec.trial import DURATIONS
from vitbench.stats.table import Row, metric_value

LAST_SHARE = 0.1
RISING_POINTS = 1.0


def late_gain(row: Row) -> float | None:
    """Points of validation top-1 gained over the last 10% of the steps; None where the curve cannot tell."""
    points = [
        (point["step"], point["val_top1_percent"])
        for point in (row["result"].get("curve") or ())
        if point.get("val_top1_percent") is not None
    ]
    if len(points) < 2:
        return None
    last_step, last = points[-1]
    steps, values = zip(*points, strict=True)
    before = (1.0 - LAST_SHARE) * last_step
    return float(last - np.interp(before, steps, values)) if before >= steps[0] else None


def length_is_a_factor(experiment: Experiment) -> bool:
    """Whether arms differ in how long they train, so that a rising curve is the question and no fault."""
    paths: list[Any] = [*experiment.factors, *(path for arm in experiment.arms.values() for path in arm)]
    return any(str(path).rsplit(".", 1)[-1] in DURATIONS for path in paths)


def evidence_notes(experiment: Experiment, baseline: Iterable[Row], floor_percent: float | None) -> tuple[str, ...]:
    """Why the baseline arm's trials make poor evidence, in words; empty where they do not.

    `floor_percent` is the least test top-1 of a sane model on these data (None: not checked).
    """
    rows = [row for row in baseline if row["status"] == "ok"]
    scores = [score for row in rows if (score := metric_value(row, "test_top1_percent")) is not None]
    notes = []
    if floor_percent is not None and scores and np.mean(scores) < floor_percent:
        notes.append(f"under-trained: the baseline reaches {np.mean(scores):.1f}%, a sane model {floor_percent:.1f}%")
    gains = [gain for row in rows if (gain := late_gain(row)) is not None]
    if gains and not length_is_a_factor(experiment) and np.mean(gains) >= RISING_POINTS:
        notes.append(f"under-trained: validation rose {np.mean(gains):.1f} points over the last 10% of the steps")
    return tuple(notes)
