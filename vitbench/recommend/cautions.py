"""Why the images make any answer weak: few of them, one class above all, copies, scores without room, easy labels."""

from __future__ import annotations

import math
from collections.abc import Iterator

from vitbench.data import Facts, cropped_share
from vitbench.recommend.questions import MARGIN
from vitbench.spec.trial import size_words

FEW_PER_CLASS = 50
MOST_CROPPED = 0.1
SATURATED_PERCENT = 98.5
"""Above this the arms have under 1.5 points between them and a perfect score."""
EASY_POINTS = 2.0


def of_images(facts: Facts, num_val: int, img_size: int | tuple[int, int]) -> Iterator[str]:
    """What counts and sizes say before any training. `num_val`: validation images of one seed."""
    cropped = cropped_share(facts, img_size)
    if cropped > MOST_CROPPED:
        share = f"{100 * cropped:.0f}%"
        yield f"images of unequal shape: the centre crop to {size_words(img_size)} px removes {share} of their area"
    fewest = min(facts.class_counts)
    if fewest < FEW_PER_CLASS:
        name = facts.class_names[facts.class_counts.index(fewest)]
        yield f"few images: class {name} has {fewest} for training and validation; under {FEW_PER_CLASS} a class"
    largest = max(facts.class_counts) / sum(facts.class_counts)
    if largest > max(0.5, 2.0 / facts.num_classes) or (facts.num_classes == 2 and largest > 0.65):
        name = facts.class_names[facts.class_counts.index(max(facts.class_counts))]
        yield (f"a majority class: {name} has {100 * largest:.0f}% of the images, the accuracy of always naming it")
    if facts.num_test_in_train:
        yield f"{facts.num_test_in_train} of {facts.num_test} test images are also training images; test scores flatter"
    step = 100.0 / num_val
    if step > MARGIN / 2.0:
        yield (
            f"{num_val} validation images: one image is {step:.1f} points, so differences of {MARGIN:g} point need "
            f"many seeds"
        )
    error = 100.0 * math.sqrt(0.25 / facts.num_test)
    if error > 3.0:
        yield f"{facts.num_test} test images: an accuracy is known to about {error:.0f} points at best"


def of_scores(best_percent: float | None, floor_percent: float | None, majority_percent: float) -> Iterator[str]:
    """What the validation scores say. `floor_percent`: logistic regression on pixels, same images."""
    if best_percent is None:
        return
    if best_percent > SATURATED_PERCENT:
        yield f"saturation: the best arm has {best_percent:.1f}% on validation images; differences have little room"
    if floor_percent is not None and best_percent < floor_percent + EASY_POINTS:
        yield (
            f"logistic regression on the pixels has {floor_percent:.1f}% on validation images, the best network "
            f"{best_percent:.1f}%: the labels need no network, or the trainings are too short"
        )
    if best_percent < majority_percent + EASY_POINTS:
        yield f"the best network has {best_percent:.1f}%, always naming the largest class has {majority_percent:.1f}%"
