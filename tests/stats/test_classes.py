"""Scores per class against scikit-learn, and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from vitbench.stats.classes import (
    balanced_accuracy,
    confusion_matrix,
    macro_f1,
    majority_share,
    per_class_accuracy,
)


def test_scores_are_those_of_scikit_learn() -> None:
    from sklearn import metrics

    rng = np.random.default_rng(0)
    label = rng.choice(5, size=300, p=(0.5, 0.2, 0.15, 0.1, 0.05))
    predicted = np.where(rng.random(300) < 0.6, label, rng.integers(0, 5, 300))
    counts = confusion_matrix(label, predicted, 5)
    assert np.array_equal(counts, metrics.confusion_matrix(label, predicted))
    assert balanced_accuracy(counts) == pytest.approx(100 * metrics.balanced_accuracy_score(label, predicted))
    assert macro_f1(counts) == pytest.approx(100 * metrics.f1_score(label, predicted, average="macro"))
    assert per_class_accuracy(counts) == pytest.approx(100 * metrics.recall_score(label, predicted, average=None))


def test_a_class_without_images_counts_in_no_mean() -> None:
    counts = confusion_matrix([0, 0, 2, 2], [0, 0, 2, 0], 3)
    assert np.isnan(per_class_accuracy(counts)[1])
    assert balanced_accuracy(counts) == 75.0
    assert macro_f1(counts) == pytest.approx(100 * (4 / 5 + 2 / 3) / 2)


def test_the_majoritys_share_is_the_accuracy_of_always_answering_it() -> None:
    assert majority_share([0, 0, 0, 1]) == 75.0
