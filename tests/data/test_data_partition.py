"""Validation and training subsets: stratified, nested, keyed by seed alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitbench.base.errors import InputError
from vitbench.data import Counts, Partition, Split, partition_sizes
from vitbench.data import partition as partition_of
from vitbench.data.types import Ints
from vitbench.spec.trial import DataSpec

fractions = st.floats(0.1, 1.0)
class_counts = st.lists(st.integers(5, 60), min_size=2, max_size=6)


def partition(labels: Ints, seed: int, spec: DataSpec) -> Partition:
    return partition_of(Split(labels), seed, spec)


def shuffled_labels(counts: list[int]) -> Ints:
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(len(labels)).permutation(labels)


@settings(max_examples=60, deadline=None)
@given(class_counts, st.integers(0, 2000), fractions, fractions, st.floats(0.0, 0.6))
def test_smaller_subsets_are_nested_and_stratified(
    counts: list[int], seed: int, one: float, other: float, held_out: float
) -> None:
    labels, (small, large) = shuffled_labels(counts), sorted([one, other])
    everything = partition(labels, seed, DataSpec(val_fraction=held_out))
    less, more = (
        partition(labels, seed, DataSpec(val_fraction=held_out, train_fraction=f)) if f * min(
            np.bincount(labels[everything.train])
        ) >= 0.5 else None
        for f in (small, large)
    )  # fmt: skip
    assert np.array_equal(np.sort(np.concatenate([everything.train, everything.val])), np.arange(len(labels)))
    np.testing.assert_allclose(
        np.bincount(labels[everything.val], minlength=len(counts)), np.array(counts) * held_out, atol=1
    )
    if less is None or more is None:
        return
    assert set(less.train) <= set(more.train) <= set(everything.train)
    assert np.array_equal(less.val, everything.val)
    wanted = small * np.bincount(labels[everything.train])
    np.testing.assert_allclose(np.bincount(labels[less.train]), wanted, atol=0.5 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(class_counts, st.integers(0, 2000), fractions, st.floats(0.0, 0.6))
def test_sizes_are_known_before_the_images(counts: list[int], seed: int, fraction: float, held_out: float) -> None:
    spec = DataSpec(val_fraction=held_out, train_fraction=fraction, classes=(0, 1))
    try:
        expected = partition_sizes(Counts(tuple(counts)), spec)
    except InputError as error:
        with pytest.raises(InputError, match=f"^{error}$"):
            partition(shuffled_labels(counts), seed, spec)
        return
    part = partition(shuffled_labels(counts), seed, spec)
    assert (len(part.train), len(part.val)) == expected


def test_seed_moves_the_split_and_nothing_else_does() -> None:
    labels = shuffled_labels([40, 40, 40])
    first, again, other = (partition(labels, seed, DataSpec()) for seed in (0, 0, 1))
    assert np.array_equal(first.val, again.val)
    assert not np.array_equal(first.val, other.val)
    assert np.array_equal(first.val, partition(labels, 0, DataSpec(img_size=4, flip=True, name="x")).val)


def test_class_filter_leaves_the_other_draws_alone() -> None:
    labels = shuffled_labels([40, 50, 60])
    spec = DataSpec(train_fraction=0.5)
    whole, part = partition(labels, 3, spec), partition(labels, 3, spec.model_copy(update={"classes": (0, 2)}))
    assert np.array_equal(part.train, whole.train[labels[whole.train] != 1])
    assert np.array_equal(part.val, whole.val[labels[whole.val] != 1])


def test_no_class_is_held_out_in_whole() -> None:
    labels = np.array([0, 1, 1, 2, 2, 2])
    part = partition(labels, 0, DataSpec(val_fraction=0.9))
    assert np.bincount(labels[part.train]).tolist() == [1, 1, 1]
    assert np.bincount(labels[part.val], minlength=3).tolist() == [0, 1, 2]
    assert len(partition(labels, 0, DataSpec(val_fraction=0.0)).val) == 0


def test_subset_smaller_than_its_classes_says_what_fits() -> None:
    labels = shuffled_labels([200, 20])
    spec = DataSpec(val_fraction=0.5, train_fraction=0.04)
    with pytest.raises(
        InputError, match=r"data.train_fraction: 0.04 of the 10 .* class 1 rounds to 0; at least 0.05 is"
    ):
        partition(labels, 0, spec)
    fits = partition(labels, 0, spec.model_copy(update={"train_fraction": 0.05}))
    assert np.bincount(labels[fits.train]).tolist() == [5, 1]


def test_bad_class_filter() -> None:
    labels = shuffled_labels([10, 10])
    with pytest.raises(InputError, match=r"data.classes: no images of class 7; classes are 0 to 1"):
        partition(labels, 0, DataSpec(classes=(0, 7)))
    with pytest.raises(InputError, match="one class"):
        partition(labels, 0, DataSpec(classes=(1, 1)))
