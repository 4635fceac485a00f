"""Secondary evidence from the stored answers to the test images: churn, calibration, classes. It decides no claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vitbench.report.formats import Table
from vitbench.report.row_values import arm_order, own_best
from vitbench.report.summaries import LEVEL
from vitbench.report.tables import interval_cell
from vitbench.spec.experiment import Experiment
from vitbench.stats.images import calibration_error, churn, per_class_differences
from vitbench.stats.intervals import mean_interval
from vitbench.stats.table import Row
from vitbench.store.answers import Answers

HEADER = ("Arm", "n", "Churn (%)", "Calibration error", "Most gained", "Most lost")


def side_table(experiment: Experiment, rows: Sequence[Row], answers: Answers | None) -> Table:
    """One row per arm at its own best setting; without stored answers no row, and a note that says so."""
    title = f"{experiment.name}: secondary evidence"
    trials = trials_by_seed(experiment, rows, answers)
    if answers is None or not any(trials.values()):
        return Table(title, HEADER, (), notes=("The run has no stored answers to the test images.",))
    baseline = next(iter(trials))
    names = class_labels(rows)
    lines = tuple(
        (arm, str(len(by_seed)), *_alone(answers, by_seed), *_classes(answers, by_seed, trials[baseline], names))
        if arm != baseline
        else (arm, str(len(by_seed)), *_alone(answers, by_seed), "-", "-")
        for arm, by_seed in trials.items()
    )
    return Table(title, HEADER, lines, notes=_notes(answers, baseline, own_best(rows)))


def trials_by_seed(experiment: Experiment, rows: Sequence[Row], answers: Answers | None) -> dict[str, dict[int, str]]:
    """{arm: {seed: trial id}} of the reporting trials whose answers are stored."""
    stored = answers.correct if answers else {}
    trials: dict[str, dict[int, str]] = {arm: {} for arm in arm_order(experiment, rows)}
    for row in sorted(own_best(rows), key=lambda row: int(row["seed"])):
        if row["trial_id"] in stored:
            trials[row["arm"]][int(row["seed"])] = row["trial_id"]
    return trials


def _alone(answers: Answers, trials: Mapping[int, str]) -> tuple[str, str]:
    """Churn and calibration error of one arm."""
    if not trials:
        return "-", "-"
    ids = list(trials.values())
    moved = churn(np.stack([answers.correct[trial] for trial in ids]))
    errors = [calibration_error(answers.confidence[trial], answers.correct[trial]) for trial in ids]
    return "-" if moved is None else f"{100 * moved:.2f}", interval_cell(mean_interval(errors, LEVEL))


def _classes(
    answers: Answers, trials: Mapping[int, str], baseline: Mapping[int, str], names: Mapping[int, str]
) -> tuple[str, str]:
    """The classes with the largest gain and the largest loss against the baseline, over the seeds that both have."""
    seeds = sorted(trials.keys() & baseline.keys())
    if not seeds:
        return "-", "-"
    first, second = (np.stack([answers.correct[side[seed]] for seed in seeds]) for side in (trials, baseline))
    gaps = per_class_differences(first, second, answers.label)
    most, least = max(gaps, key=lambda k: gaps[k]), min(gaps, key=lambda k: gaps[k])
    texts = {k: f"{names.get(k, f'class {k}')}: {gaps[k]:+.1f}" for k in (most, least)}
    return texts[most] if gaps[most] > 0 else "-", texts[least] if gaps[least] < 0 else "-"


def has_class_names(rows: Sequence[Row]) -> bool:
    """True if the rows hold the names of the classes; rows of earlier versions hold numbers only."""
    return any(row.get("class_names") for row in own_best(rows))


def class_labels(rows: Sequence[Row]) -> dict[int, str]:
    """{label: the class's name}; `class 3` if the rows hold no names. With `data.classes` labels count used classes."""
    row = next(iter(own_best(rows)), {})
    used = (row.get("spec") or {}).get("data", {}).get("classes")
    names = row.get("class_names") or ()
    indices = sorted(used) if used else range(int(row.get("num_classes") or len(names)))
    return {label: names[k] if k < len(names) else f"class {k}" for label, k in enumerate(indices)}


def _notes(answers: Answers, baseline: str, reporting: Sequence[Row]) -> tuple[str, ...]:
    num_images, (present, counts) = len(answers.label), np.unique(answers.label, return_counts=True)
    even = counts.max() <= 2 * counts.min()
    sizes = f"about {num_images / len(present):.0f}" if even else f"{counts.min()} to {counts.max()}"
    trials = {row["trial_id"] for row in reporting}
    num_without = len(trials - answers.correct.keys())
    notes = [
        f"On {num_images} test images, each arm at its own best setting. This table decides no claim.",
        "Churn: share of images that one seed of an arm classifies correctly and another does not, mean over pairs.",
        "Calibration error: confidence against accuracy over 15 equal bins, in points, mean over seeds with its "
        f"{100 * LEVEL:.0f}% interval; few images increase it.",
        f"Classes: the largest gain and loss against {baseline} on the same seeds, in points. They are the extremes of "
        f"{len(present)} classes of {sizes} images, so they are partly chance.",
    ]
    left_out = [f"Left out: {num_without} of {len(trials)} trials, which have no stored answers to these images."]
    return (*notes, *(left_out if num_without else ()))
