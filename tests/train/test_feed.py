"""The training order: every image once an epoch, whole batches, and subsets that see the same order."""

from __future__ import annotations

import numpy as np
import pytest

from vitbench.base.seeding import uniforms
from vitbench.train.sampling import Order


def stream(order: Order, num_steps: int) -> np.ndarray:
    """The images of the first steps, in order."""
    return np.concatenate([order.batch(step).index for step in range(num_steps)])


@pytest.mark.parametrize(("num_images", "batch_size"), [(10, 4), (12, 4), (5, 12), (7, 7), (1, 3)])
def test_every_image_once_an_epoch_and_no_partial_batch(num_images: int, batch_size: int) -> None:
    members = np.arange(100, 100 + num_images)
    order = Order(3, members, batch_size, {"augment": 1})
    batches = [order.batch(step) for step in range(3 * num_images)]
    assert all(b.index.shape == b.epoch.shape == (batch_size,) for b in batches)
    assert all(b.draws.shape == (batch_size, 1) for b in batches)
    seen = np.concatenate([b.index for b in batches]).reshape(-1, num_images)
    assert (np.sort(seen, axis=1) == members).all()
    epochs = np.concatenate([b.epoch for b in batches])
    assert (epochs == np.arange(len(epochs)) // num_images).all()


def test_batches_straddle_epochs() -> None:
    batch = Order(0, np.arange(10), 4, {}).batch(2)
    assert batch.epoch.tolist() == [0, 0, 1, 1]


def test_a_step_depends_on_its_number_alone() -> None:
    """So a resumed run needs no state: any step, in any order, from a fresh object."""
    forward = Order(1, np.arange(11), 4, {"augment": 2})
    steps = {step: forward.batch(step) for step in range(12)}
    for step in (11, 3, 4, 0):
        other = Order(1, np.arange(11), 4, {"augment": 2}).batch(step)
        assert np.array_equal(other.index, steps[step].index)
        assert np.array_equal(other.draws, steps[step].draws)


def test_subset_sees_the_same_order_without_the_others() -> None:
    members, subset = np.arange(40), np.arange(0, 40, 3)
    whole = stream(Order(5, members, 8, {}), 10)
    part = stream(Order(5, subset, 7, {}), 4)
    assert [i for i in whole if i in set(subset)] == part.tolist()


def test_draws_belong_to_the_image_and_the_epoch() -> None:
    batch = Order(2, np.arange(0, 30, 2), 10, {"augment": 3}).batch(1)
    expected = [uniforms(2, "augment", int(e), [i], 3)[0] for e, i in zip(batch.epoch, batch.index, strict=True)]
    assert np.array_equal(batch.draws, np.stack(expected))
    assert set(batch.epoch.tolist()) == {0, 1}


@pytest.mark.parametrize(("num_images", "batch_size", "repeats"), [(40, 12, 3), (41, 12, 3), (10, 4, 2), (7, 7, 7)])
def test_repeated_images_have_draws_of_their_own(num_images: int, batch_size: int, repeats: int) -> None:
    """An epoch is as long as before and has 1 / R of the images, the first ones of its order, R times each."""
    streams = {"augment": 2}
    plain = stream(Order(5, np.arange(num_images), num_images, streams), 1)
    order = Order(5, np.arange(num_images), batch_size, streams, repeats)
    index, rounds, draws = order._epoch(0)
    shown, counts = np.unique(index, return_counts=True)
    assert len(index) == num_images
    assert set(shown) == set(plain[: len(shown)])
    assert counts.max() == repeats
    assert counts.sum() - repeats * (counts == repeats).sum() < batch_size, "only the last group may be cut off"
    assert len(np.unique(draws, axis=0)) == num_images, "no two views are equal"
    expected = [uniforms(5, "augment", int(e), [i], 2)[0] for e, i in zip(rounds, index, strict=True)]
    assert np.array_equal(draws, np.stack(expected))
    assert set(order._epoch(1)[1]) & set(rounds) == set(), "no epoch has the draws of another"


def test_views_of_an_image_share_a_batch_and_are_no_neighbours() -> None:
    batch = Order(5, np.arange(40), 12, {"augment": 1}, repeats=3).batch(1)
    assert sorted(np.unique(batch.index, return_counts=True)[1]) == [3, 3, 3, 3]
    assert (batch.index != np.roll(batch.index, 1)).all(), "MixUp mixes neighbours"
    assert sorted(set(batch.epoch.tolist())) == [0, 1, 2]


def test_a_step_of_repeated_images_depends_on_its_number_alone() -> None:
    forward = Order(1, np.arange(11), 4, {"augment": 2}, repeats=2)
    steps = {step: forward.batch(step) for step in range(12)}
    for step in (11, 3, 0):
        other = Order(1, np.arange(11), 4, {"augment": 2}, repeats=2).batch(step)
        assert np.array_equal(other.index, steps[step].index)
        assert np.array_equal(other.draws, steps[step].draws)
