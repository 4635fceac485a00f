"""Secondary evidence by class, from the stored answers to the test images. It decides no claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vitbench.report.formats import Table
from vitbench.report.secondary_evidence import class_labels, trials_by_seed
from vitbench.report.summaries import LEVEL
from vitbench.report.tables import interval_cell
from vitbench.spec.experiment import Experiment
from vitbench.stats.classes import (
    Counts,
    balanced_accuracy,
    confusion_matrix,
    macro_f1,
    majority_share,
    per_class_accuracy,
)
from vitbench.stats.intervals import mean_interval
from vitbench.stats.table import Row
from vitbench.store.answers import Answers

if TYPE_CHECKING:
    import pandas as pd

HEADER = ("Arm", "n", "Balanced accuracy (%)", "Macro F1 (%)", "Weakest class", "Most frequent confusion")
UNBALANCED = 1.5
"""From this multiple of an even split on, the majority's share stands beside the accuracies."""


def class_table(experiment: Experiment, rows: Sequence[Row], answers: Answers | None) -> Table:
    """One row per arm at its own best setting: balanced accuracy, macro F1, and where its networks fail."""
    title = f"{experiment.name}: evidence by class"
    confusions = confusions_by_arm(experiment, rows, answers)
    if answers is None or not any(confusions.values()):
        return Table(title, HEADER, (), notes=("The run has no stored answers to the test images.",))
    names = class_labels(rows)
    lines = tuple((arm, *_cells(matrices, names)) for arm, matrices in confusions.items())
    return Table(title, HEADER, lines, notes=_notes(answers))


def confusions_by_arm(experiment: Experiment, rows: Sequence[Row], answers: Answers | None) -> dict[str, list[Counts]]:
    """{arm: one confusion matrix [K, K] per seed} of the reporting trials whose answers are stored."""
    if answers is None:
        return {}
    num_classes = 1 + int(max(answers.label.max(), *(p.max() for p in answers.predicted.values())))
    return {
        arm: [confusion_matrix(answers.label, answers.predicted[trial], num_classes) for trial in trials.values()]
        for arm, trials in trials_by_seed(experiment, rows, answers).items()
    }


def _cells(matrices: Sequence[Counts], names: Mapping[int, str]) -> tuple[str, ...]:
    if not matrices:
        return ("0", "-", "-", "-", "-")
    accuracies = np.mean([per_class_accuracy(matrix) for matrix in matrices], axis=0)
    weakest = int(np.nanargmin(accuracies))
    mean = np.mean(matrices, axis=0)
    np.fill_diagonal(mean, 0.0)
    true, answer = (int(index) for index in np.unravel_index(int(mean.argmax()), mean.shape))
    confused = f"{_name(names, true)} taken for {_name(names, answer)}: {mean.max():.1f} images" if mean.max() else "-"
    return (
        str(len(matrices)),
        interval_cell(mean_interval([balanced_accuracy(matrix) for matrix in matrices], LEVEL)),
        interval_cell(mean_interval([macro_f1(matrix) for matrix in matrices], LEVEL)),
        f"{_name(names, weakest)}: {accuracies[weakest]:.1f}",
        confused,
    )


def _name(names: Mapping[int, str], label: int) -> str:
    return names.get(label, f"class {label}")


def _notes(answers: Answers) -> tuple[str, ...]:
    share, even = majority_share(answers.label), 100.0 / len(np.unique(answers.label))
    notes = [
        f"On {len(answers.label)} test images, each arm at its own best setting. This table decides no claim.",
        "Balanced accuracy: mean of the classes' accuracies. Macro F1: mean of their F1 scores. "
        "Weakest class: its accuracy in percent, mean over seeds.",
    ]
    if share >= UNBALANCED * even:
        notes.append(f"The classes are unbalanced: always answering the most frequent one scores {share:.1f}%.")
    return tuple(notes)


def confusion_frame(experiment: Experiment, rows: Sequence[Row], answers: Answers | None) -> pd.DataFrame:
    """Every confusion matrix, tidy: one line per arm, true class and predicted class; images are means over seeds."""
    import pandas as pd  # Late: a run prints no frame, and pandas takes a second and 40 MiB.

    names = class_labels(rows)
    lines = [
        {
            "arm": arm,
            "true": _name(names, true),
            "predicted": _name(names, answer),
            "images": f"{images:.4f}",
            "percent_of_class": f"{100.0 * images / total:.4f}" if total else "",
            "n": len(matrices),
        }
        for arm, matrices in confusions_by_arm(experiment, rows, answers).items()
        if matrices
        for true, (total, counts) in enumerate(
            zip(np.sum(np.mean(matrices, axis=0), axis=1), np.mean(matrices, axis=0), strict=True)
        )
        for answer, images in enumerate(counts)
        if images
    ]
    return pd.DataFrame(lines)
