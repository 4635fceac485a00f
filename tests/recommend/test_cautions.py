"""Every warning appears where its reason is, and not on good images."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vitbench.data import Facts
from vitbench.recommend.cautions import of_images, of_scores

GOOD = Facts("mine", 32, 3, 4, ("a", "b", "c", "d"), (500,) * 4, 2_000, 1_000, True, "mine", "", True)


def test_good_images_have_no_warning() -> None:
    assert list(of_images(GOOD, 400, 32)) == []
    assert list(of_scores(90.0, 60.0, 25.0)) == []
    assert list(of_scores(None, None, 25.0)) == []


@pytest.mark.parametrize(
    ("facts", "num_val", "words"),
    [
        (replace(GOOD, class_counts=(500, 500, 500, 20)), 400, "few images: class d has 20"),
        (replace(GOOD, class_counts=(2_000, 300, 300, 300)), 400, "a majority class: a has 69%"),
        (replace(GOOD, num_test_in_train=7), 400, "7 of 1000 test images are also training images"),
        (GOOD, 50, "50 validation images: one image is 2.0 points"),
        (
            replace(GOOD, img_size=None, aspects=((2.0, 3_000),)),
            400,
            "images of unequal shape: the centre crop to 32 x 32",
        ),
        (replace(GOOD, num_test=100), 400, "100 test images: an accuracy is known to about 5 points"),
    ],
)
def test_weak_images_are_named(facts: Facts, num_val: int, words: str) -> None:
    assert [line for line in of_images(facts, num_val, 32) if line.startswith(words)]


@pytest.mark.parametrize(
    ("best", "floor", "majority", "words"),
    [
        (99.5, 60.0, 25.0, "saturation"),
        (70.0, 69.0, 25.0, "logistic regression on the pixels has 69.0%"),
        (26.0, 10.0, 25.0, "the best network has 26.0%"),
    ],
)
def test_weak_scores_are_named(best: float, floor: float, majority: float, words: str) -> None:
    assert [line for line in of_scores(best, floor, majority) if line.startswith(words)]
