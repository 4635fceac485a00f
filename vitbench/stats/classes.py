"""Scores per class from stored answers: confusion matrix, per-class and balanced accuracy, macro F1, majority share.

K classes, M test images. A class without test images has no score and counts in no mean.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vitbench.stats.distributions import Floats

Counts = npt.NDArray[np.int64]


def confusion_matrix(labels: npt.ArrayLike, predicted: npt.ArrayLike, num_classes: int) -> Counts:
    """Counts [K, K] of test images: true class by row, predicted class by column."""
    true, answer = np.asarray(labels, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    counts = np.bincount(true * num_classes + answer, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def per_class_accuracy(confusion: Counts) -> Floats:
    """Percent of each class's images that are classified right, [K]; NaN for a class without images."""
    return 100.0 * _ratio(np.diag(confusion), confusion.sum(axis=1))


def balanced_accuracy(confusion: Counts) -> float:
    """Mean of the per-class accuracies in percent: every class counts alike, however many images it has."""
    return float(np.nanmean(per_class_accuracy(confusion)))


def macro_f1(confusion: Counts) -> float:
    """Mean over the classes of the harmonic mean of precision and recall, in percent.

    As in scikit-learn, a class that occurs neither among the labels nor among the answers is left out.
    """
    right = np.diag(confusion)
    occurrences = confusion.sum(axis=0) + confusion.sum(axis=1)
    return float(100.0 * np.nanmean(_ratio(2 * right, occurrences)))


def majority_share(labels: npt.ArrayLike) -> float:
    """Percent of the images that belong to the most frequent class: the accuracy of always answering it."""
    counts = np.bincount(np.asarray(labels, dtype=np.int64))
    return float(100.0 * counts.max() / counts.sum())


def _ratio(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> Floats:
    """`part / whole`, NaN where `whole` is 0."""
    out = np.full(len(whole), np.nan)
    np.divide(part, whole, out=out, where=whole > 0)
    return out
