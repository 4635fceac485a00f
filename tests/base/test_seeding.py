"""Randomness: uniform, independent, the same everywhere, and a subset's order is the whole's without the others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitbench.base.seeding import derive_seed, hash_indices, permutation, uniforms

INDEX = np.arange(20_000)


def test_golden_values() -> None:
    """Each of these is part of ALGORITHM_VERSION: another value is another algorithm."""
    assert derive_seed(0, "order") == 5231958647509549229
    assert derive_seed(1000, "init/head.weight") == 5368530098275649680
    assert hash_indices(0, "order", 0, [0, 1]).tolist() == [0x7448B3B6A88D913E, 0xF0F333FF1B91DF72]
    assert permutation(0, "order", 0, range(8)).tolist() == [7, 4, 3, 6, 5, 0, 2, 1]
    np.testing.assert_array_equal(uniforms(0, "augment", 1, [4], 2), [[0.9948647098821389, 0.528318747352781]])


def test_uniform() -> None:
    draws = uniforms(3, "augment", 5, INDEX, 3)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.stack([np.histogram(column, 20, (0, 1))[0] for column in draws.T])
    chi_square = ((counts - 1000) ** 2 / 1000).sum(1)
    assert (chi_square < 50).all()  # 19 degrees of freedom: 50 is exceeded once in 8000 draws.


@pytest.mark.parametrize(
    "other",
    [
        uniforms(4, "augment", 5, INDEX)[:, 0],
        uniforms(3, "mask", 5, INDEX)[:, 0],
        uniforms(3, "augment", 6, INDEX)[:, 0],
        uniforms(3, "augment", 5, INDEX, 2)[:, 1],
        uniforms(3, "augment", 5, INDEX + 1)[:, 0],
    ],
    ids=["seed", "stream", "epoch", "lane", "index"],
)
def test_independent_of_seed_stream_epoch_lane_and_neighbour(other: np.ndarray) -> None:
    own = uniforms(3, "augment", 5, INDEX)[:, 0]
    assert abs(np.corrcoef(own, other)[0, 1]) < 4 / np.sqrt(len(INDEX))
    assert not np.intersect1d(own[:5000], other[10_000:]).size


@pytest.mark.parametrize("distance", [1, 2, 64])
def test_orders_are_unlike(distance: int) -> None:
    """Neighbouring seeds, and neighbouring epochs, share no more positions than chance gives."""
    orders = [permutation(s, "order", e, INDEX[:1000]) for s, e in ((0, 0), (distance, 0), (0, distance))]
    assert all((orders[0] == other).sum() < 10 for other in orders[1:])


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 2000), st.integers(0, 50), st.sets(st.integers(0, 10**6), min_size=1, max_size=60), st.data()
)  # fmt: skip
def test_subset_keeps_the_order_of_the_whole(seed: int, epoch: int, members: set[int], data: st.DataObject) -> None:
    whole = permutation(seed, "order", epoch, sorted(members))
    subset = data.draw(st.sets(st.sampled_from(sorted(members))))
    assert sorted(whole.tolist()) == sorted(members)
    assert permutation(seed, "order", epoch, sorted(subset)).tolist() == [i for i in whole.tolist() if i in subset]


def test_shape_and_neighbours_change_nothing() -> None:
    whole = uniforms(0, "crop", 0, INDEX[:12].reshape(3, 4), 2)
    assert whole.shape == (3, 4, 2)
    np.testing.assert_array_equal(whole[1, 2], uniforms(0, "crop", 0, [6], 2)[0])
    np.testing.assert_array_equal(whole[..., 0], uniforms(0, "crop", 0, INDEX[:12].reshape(3, 4), 1)[..., 0])
