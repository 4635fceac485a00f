"""The words of the captions of scenes: a fixed vocabulary, eight words per caption, and their meaning.

A caption is `start PLACE SIZE CLASS RELATION SIZE CLASS end`, as in "top: a large seven left of a small three". The
first object is the subject. The relation says where the subject is, seen from the other object.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vitbench.data.types import Ints

START, END, MASK = 0, 1, 2
PLACES = ("top", "bottom", "left", "right")
SIZES = ("small", "large")
RELATIONS = ("left of", "right of", "above", "below")
WORDS = ("[start]", "[end]", "[mask]", *PLACES, *SIZES, *RELATIONS)
"""The words before those of the classes."""
FIRST_PLACE, FIRST_SIZE, FIRST_RELATION, FIRST_CLASS = 3, 7, 9, 13
NUM_WORDS = 8
PLACE, SUBJECT_SIZE, SUBJECT_CLASS, RELATION, OBJECT_SIZE, OBJECT_CLASS = range(1, 7)
"""Where each word stands in a caption."""


def vocabulary(class_names: Sequence[str]) -> tuple[str, ...]:
    """All words in the order of their numbers; the classes' names are the last ones."""
    return (*WORDS, *class_names)


def inverse(relation: Ints) -> Ints:
    """The relation of the other object to the subject: left of <-> right of, above <-> below."""
    return relation ^ 1


def captions(place: Ints, subject: tuple[Ints, Ints], relation: Ints, other: tuple[Ints, Ints]) -> Ints:
    """Captions `int64 [n, 8]`; `subject` and `other` are (size, class) `[n]` each."""
    words = np.empty((len(place), NUM_WORDS), dtype=np.int64)
    words[:, 0], words[:, -1] = START, END
    words[:, PLACE], words[:, RELATION] = FIRST_PLACE + place, FIRST_RELATION + relation
    words[:, SUBJECT_SIZE], words[:, SUBJECT_CLASS] = FIRST_SIZE + subject[0], FIRST_CLASS + subject[1]
    words[:, OBJECT_SIZE], words[:, OBJECT_CLASS] = FIRST_SIZE + other[0], FIRST_CLASS + other[1]
    return words


def turned(words: Ints) -> Ints:
    """The captions `[..., 8]` that say the same with the other object as the subject."""
    out = words.copy()
    out[..., [SUBJECT_SIZE, SUBJECT_CLASS]] = words[..., [OBJECT_SIZE, OBJECT_CLASS]]
    out[..., [OBJECT_SIZE, OBJECT_CLASS]] = words[..., [SUBJECT_SIZE, SUBJECT_CLASS]]
    return with_inverse_relation(out)


def with_inverse_relation(words: Ints) -> Ints:
    """The captions `[..., 8]` with the inverse relation and all other words: a wrong one of the same axis."""
    out = words.copy()
    out[..., RELATION] = FIRST_RELATION + inverse(words[..., RELATION] - FIRST_RELATION)
    return out


def with_next_class(words: Ints, num_classes: int) -> Ints:
    """The captions `[..., 8]` with another class of the subject, which the caption does not name yet."""
    out, other = words.copy(), words[..., OBJECT_CLASS] - FIRST_CLASS
    changed = (words[..., SUBJECT_CLASS] - FIRST_CLASS + 1) % num_classes
    out[..., SUBJECT_CLASS] = FIRST_CLASS + np.where(changed == other, (changed + 1) % num_classes, changed)
    return out


def meaning(words: Ints) -> Ints:
    """One number `[...]` per caption `[..., 8]`; equal for captions that say the same of a scene."""
    is_second = (words[..., RELATION] - FIRST_RELATION) % 2 == 1
    first = np.where(is_second[..., None], turned(words), words)
    code = np.zeros(words.shape[:-1], dtype=np.int64)
    for column in range(1, NUM_WORDS - 1):
        code = code * 1000 + first[..., column]
    return code


def text(words: Sequence[int], names: Sequence[str]) -> str:
    """A caption as a person reads it; `names` is the vocabulary."""
    place, size, cls, relation, other_size, other = (names[word] for word in words[1:-1])
    return f"{place}: a {size} {cls} {relation} a {other_size} {other}"
