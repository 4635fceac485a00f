"""What objectives on images with captions share: their columns, their vocabulary, and choices between captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import PositiveInt

from vitbench.data.captions import (
    FIRST_CLASS,
    NUM_WORDS,
    OBJECT_SIZE,
    SUBJECT_SIZE,
    with_inverse_relation,
    with_next_class,
)
from vitbench.model.objective import MemberBatch, Objective

if TYPE_CHECKING:
    from vitbench.data import Facts


class Captioned(Objective):
    """The base: it reads captions, of a vocabulary that cannot grow."""

    columns: ClassVar[frozenset[str]] = frozenset({"image", "captions", "held_out"})
    compares_images: ClassVar[bool] = True
    vocab_size: PositiveInt = 23

    @property
    def num_classes(self) -> int:
        """Classes that a caption can name."""
        return self.vocab_size - FIRST_CLASS

    def data_problems(self, facts: Facts) -> list[str]:
        if len(facts.vocabulary) == self.vocab_size and facts.num_words == NUM_WORDS:
            return []
        return [
            f"train.objective.vocab_size: {self.vocab_size} words and {NUM_WORDS} per caption; {facts.name} has "
            f"{len(facts.vocabulary)} and {facts.num_words}"
        ]


def captions_of(batch: MemberBatch) -> np.ndarray:
    """The captions `[B, L]` of a batch; zeros where only shapes are asked for."""
    return batch.columns.get("captions", np.zeros((len(batch.index), NUM_WORDS), dtype=np.int64))


def three_captions(words: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Captions `[..., L]`: the true ones, those with the inverse relation, those with another class."""
    return words, with_inverse_relation(words), with_next_class(words, num_classes)


def of_one_size(captions: np.ndarray) -> np.ndarray:
    """True for the captions `[M, L]` whose objects have one size, so that only their classes tell which is which."""
    return np.asarray(captions[:, SUBJECT_SIZE] == captions[:, OBJECT_SIZE])


def choices(like: np.ndarray, captions: np.ndarray) -> Mapping[str, float]:
    """Percentages of right choices between two captions, from how much each of three suits its image, `like [M, 3]`.

    The relation or its inverse, where both objects have one size, and where they have two, which tell it too; and the
    subject's class or another.
    """
    relation, others, same = like[:, 0] > like[:, 1], like[:, 0] > like[:, 2], of_one_size(captions)
    return {
        "relation_accuracy_percent": 100 * float(relation[same].mean()),
        "sized_relation_accuracy_percent": 100 * float(relation[~same].mean()),
        "class_accuracy_percent": 100 * float(others.mean()),
    }
