"""Few-shot ridge, nearest neighbours and the linear probe against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from vitbench.train import few_shot

NUM_CLASSES = 5


def features(num: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping blobs, so that no method is always right; columns of unlike scale, one of them constant."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % NUM_CLASSES
    centres = np.random.default_rng(99).normal(size=(NUM_CLASSES, width))
    x = (centres[labels] + 1.5 * rng.normal(size=(num, width))) * np.logspace(-2, 2, width) + 3
    x[:, 0] = 7.0
    return x, labels


@pytest.mark.parametrize("l2", [1.0, 1024.0])
@pytest.mark.parametrize("num", [20, 200])
def test_ridge_is_scikit_learns(num: int, l2: float) -> None:
    """More features than images (the dual form), and fewer; with the same scaling and bias feature."""
    from sklearn.linear_model import Ridge

    (train, labels), (test, _) = features(num, 40), features(300, 40, seed=1)
    mean, std = train.mean(0), train.std(0) + 1e-5
    scaled = [np.hstack([(x - mean) / std, np.full((len(x), 1), few_shot.BIAS_FEATURE)]) for x in (train, test)]
    model = Ridge(alpha=l2, fit_intercept=False).fit(scaled[0], 2.0 * np.eye(NUM_CLASSES)[labels] - 1)
    expected = model.predict(scaled[1]).argmax(1)
    assert np.array_equal(few_shot.ridge(train, labels, test, l2), expected)
    assert len(set(expected.tolist())) == NUM_CLASSES


@pytest.mark.parametrize("k", [1, 3, 10])
def test_neighbours_are_scikit_learns(k: int) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    (train, labels), (test, _) = features(150, 12), features(200, 12, seed=1)
    model = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(train, labels)
    assert np.array_equal(few_shot.nearest_neighbours(train, labels, test, k), model.predict(test))


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_near_neighbours_weigh_more(temperature: float) -> None:
    """Against a loop over test images, with votes of exp(similarity / temperature)."""
    (train, labels), (test, _) = features(150, 12), features(200, 12, seed=1)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test)]
    expected = []
    for image in unit[1]:
        similarity = unit[0] @ image
        votes = np.zeros(NUM_CLASSES)
        for neighbour in np.argsort(-similarity)[:20]:
            votes[labels[neighbour]] += np.exp(similarity[neighbour] / temperature)
        expected.append(int(votes.argmax()))
    answers = few_shot.nearest_neighbours(train, labels, test, 20, temperature)
    assert answers.tolist() == expected
    assert answers.tolist() != few_shot.nearest_neighbours(train, labels, test, 20).tolist()


def test_more_neighbours_than_images_is_the_commonest_class() -> None:
    x, labels = np.eye(3), np.array([1, 1, 0])
    assert few_shot.nearest_neighbours(x, labels, x, 10).tolist() == [1, 1, 1]


def test_linear_probe_is_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    (train, labels), (test, _) = features(100, 6), features(50, 6, seed=1)
    scaled = [(x - train.mean(0)) / (train.std(0) + 1e-5) for x in (train, test)]
    expected = LogisticRegression(max_iter=2000).fit(scaled[0], labels).predict(scaled[1])
    assert np.array_equal(few_shot.linear_probe(train, labels, test), expected)


def test_shots_are_nested_stratified_and_drawn_by_seed() -> None:
    labels = np.arange(100) % NUM_CLASSES
    few, many = (few_shot.draw_shots(labels, shots, seed=0, draw=1) for shots in (2, 5))
    assert np.bincount(labels[many]).tolist() == [5] * NUM_CLASSES
    assert set(few) < set(many)
    for other in (few_shot.draw_shots(labels, 5, 1, 1), few_shot.draw_shots(labels, 5, 0, 2)):
        assert set(other) != set(many)
    assert len(few_shot.draw_shots(np.array([0, 0, 1]), 2, 0, 0)) == 3


def test_percent_rises_with_shots() -> None:
    train, test = features(500, 40), features(500, 40, seed=1)
    percents = [few_shot.few_shot_percent(train, test, s, seed=0, draws=3, l2=10.0) for s in (1, 5, 50)]
    assert 100 / NUM_CLASSES < percents[0] < percents[1] < percents[2]
