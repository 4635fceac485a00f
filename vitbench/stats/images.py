"""What the test images say beside the seeds: intervals for new images, churn, classes, calibration.

`correct` is bool [S, M]: which of M test images the network of each of S seeds gets right. Side evidence: verdicts
are about this test set. McNemar's test is not here, since it compares two trained networks, not two arms.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt

from vitbench.stats.distributions import Floats, t_quantile
from vitbench.stats.intervals import Interval

Bools = npt.NDArray[np.bool_]
NUM_BINS = 15


def images_interval(
    differences: npt.ArrayLike, level: float = 0.95, factor: float | None = None, extra_variance: float = 0.0
) -> Interval:
    """The interval of a contrast for new seeds and new images, from points per seed and image [S, M].

    For two arms the points are 100 x (correct_a - correct_b). Seeds and images are crossed random effects; `factor`
    replaces the t quantile (at a look).
    """
    d = np.asarray(differences, dtype=np.float64)
    num_seeds, num_images = d.shape
    mean = float(d.mean())
    if num_seeds < 2 or num_images < 2:
        return Interval(mean, None, None, num_seeds, level, reason="one seed or one image shows no spread")
    seeds, images = d.mean(axis=1), d.mean(axis=0)
    residual = d - seeds[:, None] - images[None, :] + mean
    v_rest = float((residual**2).sum()) / ((num_seeds - 1) * (num_images - 1)) / (num_seeds * num_images)
    v_seed, v_img = float(seeds.var(ddof=1)) / num_seeds, float(images.var(ddof=1)) / num_images
    width = float(t_quantile(0.5 + level / 2.0, num_seeds - 1)) if factor is None else factor
    half = width * float(np.sqrt(v_seed + max(0.0, v_img - v_rest) + extra_variance))
    return Interval(mean, mean - half, mean + half, num_seeds, level, float(seeds.std(ddof=1)))


def churn(correct: Bools) -> float | None:
    """The share of images on which two seeds of one arm differ in being right, mean over pairs; None for one seed."""
    pairs = [float(np.mean(first != second)) for first, second in combinations(correct, 2)]
    return float(np.mean(pairs)) if pairs else None


def per_class_differences(correct_a: Bools, correct_b: Bools, labels: npt.ArrayLike) -> dict[int, float]:
    """A - B in points per class, mean over seeds; `labels` [M]."""
    classes = np.asarray(labels)
    gap = 100.0 * (correct_a.mean(axis=0) - correct_b.mean(axis=0))
    return {int(label): float(gap[classes == label].mean()) for label in np.unique(classes)}


def calibration_error(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """The expected calibration error in points: `|confidence - accuracy|` over 15 equal bins, weighted by their images.

    `confidence` is the probability of the predicted class, in [0, 1], one an image [M].
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    bins = np.clip(np.ceil(sure * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    gaps = np.bincount(bins, sure - right, minlength=NUM_BINS)
    return float(100.0 * np.abs(gaps).sum() / len(sure))


def contrast_points(weights: Floats, correct: npt.NDArray[np.bool_]) -> Floats:
    """Points per seed and image [S, M] of a contrast with `weights` [C] on cells, `correct` [C, S, M]."""
    return np.asarray(100.0 * np.tensordot(weights, correct.astype(np.float64), axes=1))
