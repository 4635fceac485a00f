"""Probes on frozen features: few-shot ridge regression, linear probe and nearest neighbours.

n images, F features, K classes. Features are pre-logits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vitbench.base.seeding import permutation

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BIAS_FEATURE = 100.0
"""Value of the constant feature for the bias; large, so that the bias is hardly regularised."""


def draw_shots(labels: Ints, shots: int, seed: int, draw: int) -> Ints:
    """Indices of `shots` images per class (all of a class that has fewer), the same for every arm of a seed."""
    stream = f"few_shot/{draw}"
    picked = [permutation(seed, stream, 0, np.flatnonzero(labels == k))[:shots] for k in np.unique(labels)]
    return np.concatenate(picked)


def z_score(train: Floats, *others: Floats) -> list[Floats]:
    """Features scaled by the mean and deviation of `train`, which comes first."""
    mean, std = train.mean(0), train.std(0)
    return [(x - mean) / (std + 1e-5) for x in (train, *others)]


def ridge(train: Floats, labels: Ints, test: Floats, l2: float) -> Ints:
    """Predicted classes `[n_test]` of a ridge regression on targets -1/+1, closed form.

    Labels are 0..K-1. Source: Dosovitskiy et al. 2021, s4.1; scaling and bias feature as in the published code.
    """
    train, test = (np.hstack([x, np.full((len(x), 1), BIAS_FEATURE)]) for x in z_score(train, test))
    targets = 2.0 * (labels[:, None] == np.arange(labels.max() + 1)) - 1.0
    if len(train) < train.shape[1]:
        weights = train.T @ np.linalg.solve(train @ train.T + l2 * np.eye(len(train)), targets)
    else:
        weights = np.linalg.solve(train.T @ train + l2 * np.eye(train.shape[1]), train.T @ targets)
    return np.asarray((test @ weights).argmax(1), dtype=np.int64)


def nearest_neighbours(train: Floats, labels: Ints, test: Floats, k: int, temperature: float | None = None) -> Ints:
    """Classes by votes of the k nearest in cosine similarity; a tie goes to the smaller class.

    Each has one vote, or with `temperature` exp(similarity / temperature) votes, as in DINO (Caron et al. 2021).
    """
    train, test = (x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12) for x in (train, test))
    similarity = test @ train.T
    nearest = np.argpartition(-similarity, min(k, len(train)) - 1, axis=1)[:, :k]
    weights = np.ones(nearest.shape)
    if temperature is not None:  # Less the largest one, which changes no order and cannot overflow.
        closeness = np.take_along_axis(similarity, nearest, axis=1)
        weights = np.exp((closeness - closeness.max(1, keepdims=True)) / temperature)
    of_class = labels[nearest][:, :, None] == np.arange(labels.max() + 1)
    return np.asarray((weights[:, :, None] * of_class).sum(1).argmax(1), dtype=np.int64)


def linear_probe(train: Floats, labels: Ints, test: Floats) -> Ints:
    """Classes by multinomial logistic regression (scikit-learn, L-BFGS, C = 1) on z-scored features.

    The z-score is what BatchNorm without scale and shift gives: MAE's protocol (He et al. 2022, App. A.1). Differs: the
    published code trains the layer by LARS; here its loss is minimised.
    """
    from sklearn.linear_model import LogisticRegression

    train, test = z_score(train, test)
    model = LogisticRegression(C=1.0, max_iter=2000).fit(train, labels)
    return np.asarray(model.predict(test), dtype=np.int64)


def few_shot_percent(
    train: tuple[Floats, Ints], test: tuple[Floats, Ints], shots: int, *, seed: int, draws: int, l2: float
) -> float:
    """Mean test accuracy in percent over draws of `shots` images per class; (features, labels) pairs."""
    (train_x, train_y), (test_x, test_y) = train, test
    scores = []
    for draw in range(draws):
        picked = draw_shots(train_y, shots, seed, draw)
        scores.append(np.mean(ridge(train_x[picked], train_y[picked], test_x, l2) == test_y))
    return float(100 * np.mean(scores))
