"""Principal components against scikit-learn, smoothness of known waves, Spearman against scipy, made-up embeddings."""

from __future__ import annotations

import numpy as np
import pytest

from vitbench.inspection.measures import filters, position_similarity

SIDE = 5


def wave(frequency: float, side: int = 16) -> np.ndarray:
    """A cosine across the columns, `[1, 1, P, P]`."""
    return np.tile(np.cos(2 * np.pi * frequency * np.arange(side)), (side, 1))[None, None]


def local(side: int = SIDE) -> np.ndarray:
    """Embeddings `[N, N]` that are the more alike the nearer two places are: one bump a place."""
    return np.asarray(np.exp(-(np.hypot(*position_similarity.grid_offsets(side)) ** 2) / 4))


def crosses(side: int = SIDE) -> np.ndarray:
    """Embeddings `[N, 2 G]` that say row and column and nothing else."""
    place = np.arange(side * side)
    return np.hstack([np.eye(side)[place // side], np.eye(side)[place % side]])


def test_components_are_scikit_learns() -> None:
    from sklearn.decomposition import PCA

    weight = np.random.default_rng(0).normal(size=(40, 3, 4, 4)) * np.linspace(0.1, 3, 48).reshape(3, 4, 4)
    components, shares = filters.principal_filters(weight)
    model = PCA().fit(weight.reshape(40, -1))
    known = model.explained_variance_ratio_ > 1e-12
    assert shares[known] == pytest.approx(model.explained_variance_ratio_[known])
    angles = np.abs((components.reshape(len(components), -1) * model.components_).sum(axis=1))
    assert angles[known] == pytest.approx(1.0)
    assert filters.num_components(shares) == int((np.cumsum(model.explained_variance_ratio_) < 0.9).sum()) + 1


def test_smoothness_tells_slow_waves_from_fast_ones() -> None:
    shares = filters.low_frequency_share(np.concatenate([wave(1 / 16), wave(7 / 16)]))
    assert shares[0] > 0.9
    assert shares[1] < 0.1
    assert filters.spectral_centroid(wave(7 / 16))[0] > filters.spectral_centroid(wave(1 / 16))[0] + 0.2


def test_white_filters_have_the_share_of_the_disc() -> None:
    """Below half of Nyquist lies a disc of radius a quarter: pi / 16 of all frequencies."""
    white = np.random.default_rng(0).normal(size=(400, 1, 8, 8))
    assert filters.low_frequency_share(white).mean() == pytest.approx(np.pi / 16, abs=0.02)


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_is_scipys(ties: bool) -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(1)
    x = rng.integers(0, 6, size=80).astype(float) if ties else rng.normal(size=80)
    y = x + rng.normal(size=80)
    assert position_similarity.spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert position_similarity.spearman(np.ones(5), np.arange(5.0)) == 0.0


def test_known_embeddings_are_recognised() -> None:
    near, cross = (position_similarity.cosine_map(table) for table in (local(), crosses()))
    assert position_similarity.distance_spearman(near, SIDE) > 0.95
    assert position_similarity.row_column_effect(cross, SIDE) == pytest.approx(0.5)
    assert abs(position_similarity.row_column_effect(near, SIDE)) < 0.05
    assert position_similarity.distance_spearman(-near, SIDE) < -0.95


def test_a_function_of_distance_alone_has_no_row_effect() -> None:
    """Similarity that falls linearly with distance: the straight line between neighbours is exact."""
    distance = np.hypot(*position_similarity.grid_offsets(6))
    assert position_similarity.row_column_effect(1 - 0.1 * distance, 6) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.slow
def test_permutation_null_is_calibrated() -> None:
    """Of embeddings that know nothing of the grid, p is uniform; of local ones it is the least there can be."""
    from scipy.stats import kstest

    rng = np.random.default_rng(2)
    p_values = []
    for _ in range(120):
        similarity = position_similarity.cosine_map(rng.normal(size=(16, 8)))
        null = position_similarity.permutation_null(similarity, 4, 39, rng)
        p_values.append(
            position_similarity.permutation_p(position_similarity.distance_spearman(similarity, 4), null[:, 0])
        )
    assert 0.01 <= np.mean(np.array(p_values) <= 0.05) <= 0.12
    assert kstest(np.array(p_values) - rng.random(120) / 40, "uniform").pvalue > 0.001
    near = position_similarity.cosine_map(local(4))
    null = position_similarity.permutation_null(near, 4, 39, rng)
    assert position_similarity.permutation_p(position_similarity.distance_spearman(near, 4), null[:, 0]) == 1 / 40


def test_rotary_map_is_the_dot_product_of_turned_vectors() -> None:
    angles = np.random.default_rng(3).normal(size=(9, 4))
    unit = np.exp(1j * angles)
    expected = (unit @ unit.conj().T).real / 4
    assert position_similarity.rotary_map(np.cos(angles), np.sin(angles)) == pytest.approx(expected)
