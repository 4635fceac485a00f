"""Scenes: what their columns say is true of the pixels, and no column gives away another beyond what DATA.md states."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.stats import chi2_contingency

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, ImageData, Split, open_images
from vitbench.data.captions import (
    FIRST_CLASS,
    FIRST_RELATION,
    FIRST_SIZE,
    OBJECT_CLASS,
    OBJECT_SIZE,
    PLACE,
    RELATION,
    SUBJECT_CLASS,
    SUBJECT_SIZE,
    meaning,
    text,
    turned,
    vocabulary,
    with_inverse_relation,
    with_next_class,
)
from vitbench.data.image_columns import check_columns
from vitbench.data.readers.digits import DIGITS
from vitbench.data.readers.scenes import DIGITS_CUT, Draws, Glyphs, _digits, scenes

DATA_PAGE = Path(__file__).parents[2] / "docs" / "DATA.md"


@pytest.fixture(scope="module")
def data() -> ImageData:
    return open_images("scenes", DataOptions())


def pair_boxes(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of the two objects that the captions name, `[n, 5]` each, the subject first; by class, not by place."""
    words, boxes = split.columns["captions"], split.columns["boxes"]
    of_word = [
        boxes[np.arange(len(boxes)), (boxes[:, :, 4] == words[:, [place]] - FIRST_CLASS).argmax(1)]
        for place in (SUBJECT_CLASS, OBJECT_CLASS)
    ]
    return of_word[0], of_word[1]


def test_scenes_never_change(data: ImageData) -> None:
    """A change of these numbers changes trials."""
    assert data.facts.fingerprint.startswith("c7698438f1cfe6e5")
    assert open_images("scenes_textured", DataOptions()).facts.fingerprint.startswith("0d9bd1de5f54f133")
    assert (data.facts.num_train, data.facts.num_test, data.facts.img_size) == (6_000, 1_000, 32)


def test_a_changed_column_changes_the_fingerprint(data: ImageData) -> None:
    from vitbench.data.image_columns import columns_digest

    flipped = {**data.test.columns, "held_out": ~data.test.columns["held_out"]}
    splits = {"train": data.train, "test": data.test}
    assert columns_digest(splits) != columns_digest({**splits, "test": replace(data.test, columns=flipped)})
    assert columns_digest({"train": Split(data.train.labels, data.train.images)}) is None


def test_boxes_masks_and_labels_agree_with_the_pixels(data: ImageData) -> None:
    for split in (data.train, data.test):
        assert split.images is not None
        masks, boxes = split.columns["masks"], split.columns["boxes"]
        assert (split.images[..., 0][masks > 0] > 64).all()
        assert (split.images[..., 0][masks == 0] == 0).mean() > 0.8
        for i in range(0, len(split), 7):
            present = boxes[i][boxes[i, :, 4] >= 0]
            rebuilt, areas = np.zeros_like(masks[i]), []
            for left, top, right, bottom, cls in present:
                inside = masks[i, top:bottom, left:right]
                assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()  # noqa: PT018
                assert set(np.unique(inside)) <= {0, cls + 1}, "boxes of two objects never overlap"
                rebuilt[top:bottom, left:right] = inside
                areas.append((inside > 0).sum())
            assert np.array_equal(rebuilt, masks[i]), "every pixel of an object is in its box"
            assert split.labels[i] == present[np.argmax(areas), 4]


def test_captions_are_true_of_the_boxes(data: ImageData) -> None:
    for split in (data.train, data.test):
        words, (subject, other) = split.columns["captions"], pair_boxes(split)
        relation, place = words[:, RELATION] - FIRST_RELATION, words[:, PLACE] - 3
        is_true = np.stack([
            subject[:, 2] < other[:, 0] + 1, other[:, 2] < subject[:, 0] + 1,
            subject[:, 3] < other[:, 1] + 1, other[:, 3] < subject[:, 1] + 1,
        ])  # fmt: skip
        assert is_true[relation, np.arange(len(words))].all()
        centre = (np.minimum(subject[:, :2], other[:, :2]) + np.maximum(subject[:, 2:4], other[:, 2:4])) / 2
        at_place = np.stack([centre[:, 1] < 16, centre[:, 1] > 16, centre[:, 0] < 16, centre[:, 0] > 16])
        assert at_place[place, np.arange(len(words))].all()
        for boxes, column in ((subject, SUBJECT_SIZE), (other, OBJECT_SIZE)):
            assert ((boxes[:, 3] - boxes[:, 1] > 8) == (words[:, column] - FIRST_SIZE == 1)).mean() > 0.97


def test_held_out_combinations_are_in_no_training_scene(data: ImageData) -> None:
    train, test = data.train.columns, data.test.columns
    assert not train["held_out"].any()
    assert test["held_out"].sum() == len(data.test) // 2

    def combinations_of(words: np.ndarray) -> set[tuple[int, ...]]:
        both = np.concatenate([words, turned(words)])
        return set(map(tuple, both[:, [SUBJECT_CLASS, RELATION, OBJECT_CLASS]].tolist()))

    seen = combinations_of(train["captions"])
    assert not seen & combinations_of(test["captions"][test["held_out"]])
    assert combinations_of(test["captions"][~test["held_out"]]) <= seen
    held = test["captions"][test["held_out"]]
    assert set(np.unique(held)) == set(np.unique(train["captions"])), "all words are known"


def test_training_and_test_scenes_share_no_glyph() -> None:
    raw = DIGITS.load("digits", DIGITS.locate("digits", DataOptions()))
    train, test = _digits(raw)
    assert (len(train.classes), len(test.classes)) == (DIGITS_CUT, 1_797 - DIGITS_CUT)
    assert not {glyph.tobytes() for glyph in train.small} & {glyph.tobytes() for glyph in test.small}
    marked = Glyphs(np.full_like(train.small, 200), np.full_like(train.large, 200), train.classes)
    assert set(np.unique(scenes(marked, 0, np.zeros(20, dtype=bool), textured=False).images)) == {0, 200}


def test_a_scene_depends_on_its_number_alone() -> None:
    raw = DIGITS.load("digits", DIGITS.locate("digits", DataOptions()))
    glyphs, _ = _digits(raw)
    whole = scenes(glyphs, 0, np.zeros(10, dtype=bool), textured=True)
    part = scenes(glyphs, 4, np.zeros(3, dtype=bool), textured=True)
    assert whole.images is not None
    assert part.images is not None
    assert np.array_equal(whole.images[4:7], part.images)
    assert all(np.array_equal(whole.columns[name][4:7], part.columns[name]) for name in whole.columns)
    assert (Draws(4, 3).hashes("x") == Draws(0, 10).hashes("x")[4:7]).all()


def test_words_are_independent_but_for_what_the_page_states(data: ImageData) -> None:
    """Stated: the place names the axis of the relation, and classes differ, with held-out combinations missing."""
    words, labels = data.train.columns["captions"], data.train.labels
    stated = {frozenset((PLACE, RELATION)), frozenset((SUBJECT_CLASS, OBJECT_CLASS))}
    for a, b in combinations(range(1, 7), 2):
        _, x = np.unique(words[:, a], return_inverse=True)
        _, y = np.unique(words[:, b], return_inverse=True)
        table = np.zeros((x.max() + 1, y.max() + 1))
        np.add.at(table, (x, y), 1)
        p = chi2_contingency(table).pvalue
        assert (p < 1e-9) if frozenset((a, b)) in stated else (p > 1e-4), (a, b, p)
    relation = words[:, RELATION] - FIRST_RELATION
    by_label = np.zeros((10, 4))
    np.add.at(by_label, (labels, relation), 1)
    assert chi2_contingency(by_label).pvalue > 1e-4


def best_guess(known: np.ndarray, target: np.ndarray, test_known: np.ndarray, test_target: np.ndarray) -> float:
    """Percent right of the commonest answer of the 25 nearest training rows."""
    _, nearest = cKDTree(known).query(test_known, k=25)
    votes = (target[nearest][:, :, None] == np.arange(target.max() + 1)).sum(axis=1)
    return 100 * float(np.mean(votes.argmax(axis=1) == test_target))


def trivial(data: ImageData) -> dict[str, float]:
    """What predictors reach on the test scenes that see no pixel, or only where objects are."""
    train, test = data.train.columns["captions"], data.test.columns["captions"]
    out = {"majority class": 100 * float(np.mean(data.test.labels == np.bincount(data.train.labels).argmax()))}
    background = float(np.mean(data.test.columns["masks"] == 0))
    out["majority pixel, mIoU with background"] = 100 * background / 11
    out["majority pixel, foreground mIoU"] = 0.0
    target = {"relation": RELATION, "place": PLACE, "size": SUBJECT_SIZE, "class": SUBJECT_CLASS}
    weight = np.array([0, 1000, 1, 1, 100, 1, 1, 0])  # Place and relation first: they are the words that tell.
    for word, at in target.items():
        masked = [np.delete(words * weight, at, axis=1) for words in (train, test)]
        out[f"text only, {word}"] = best_guess(masked[0], train[:, at], masked[1], test[:, at])
    layouts = [split.columns["boxes"][:, :2, :4].reshape(-1, 8) for split in (data.train, data.test)]
    out["layout only, relation"] = best_guess(layouts[0], train[:, RELATION], layouts[1], test[:, RELATION])
    out["retrieval by chance"] = 100 / len(np.unique(meaning(test)))
    return out


def test_trivial_predictors_reach_what_the_page_states(data: ImageData) -> None:
    stated = dict(re.findall(r"^\| (.+?) \| ([\d.]+) \|$", DATA_PAGE.read_text(), re.M))
    assert {name: f"{value:.1f}" for name, value in trivial(data).items()}.items() <= stated.items()


def test_meaning_is_equal_for_the_same_scene_only() -> None:
    words = np.array([[0, 3, 8, 20, 9, 7, 16, 1]])
    names = vocabulary(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    assert text(words[0], names) == "top: a large seven left of a small three"
    assert text(turned(words)[0], names) == "top: a small three right of a large seven"
    assert meaning(turned(words)) == meaning(words)
    assert np.array_equal(turned(turned(words)), words)
    for other in (with_inverse_relation(words), with_next_class(words, 10)):
        assert meaning(other) != meaning(words)
        assert (other != words).sum() == 1
    clash = words.copy()
    clash[0, OBJECT_CLASS] = words[0, SUBJECT_CLASS] + 1
    assert with_next_class(clash, 10)[0, SUBJECT_CLASS] == words[0, SUBJECT_CLASS] + 2


def split_of(num: int = 4, **columns: np.ndarray) -> Split:
    return Split(np.arange(num) % 2, np.zeros((num, 8, 8, 1), dtype=np.uint8), columns=columns)


BOX = np.array([[[0, 0, 8, 8, 1]]] * 4)
WORDS = np.array([[0, 1], [1, 0], [0, 1], [1, 0]])
BAD = [
    ({"masks": np.zeros((4, 7, 8), np.uint8)}, "masks are 7 x 8 pixels and images are 8 x 8; they must be equal"),
    ({"masks": np.full((4, 8, 8), 3, np.uint8)}, "masks have class 2, and the last class is 1"),
    ({"boxes": BOX + np.array([0, 0, 1, 0, 0])}, r"box 0 of image 0 \(0, 0, 9, 8\) is outside the image, which is 8"),
    ({"boxes": BOX - np.array([1, 0, 0, 0, 0])}, "is outside the image"),
    ({"boxes": BOX - np.array([0, 0, 8, 0, 0])}, "has no pixel"),
    ({"boxes": BOX + np.array([0, 0, 0, 0, 1])}, "boxes have class 2"),
    ({"captions": WORDS + 2}, "captions have word 3, and the vocabulary has 3 words"),
    ({"captions": WORDS[:3]}, "captions has 3 rows for 4 images"),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "complaint"), BAD)
def test_columns_that_do_not_fit_are_refused_in_one_line(columns: dict[str, np.ndarray], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as error:
        check_columns("mine", {"train": split_of(**columns)}, ("a", "b", "c"), 2)
    assert "\n" not in str(error.value)


def test_a_vocabulary_that_grows_at_test_is_refused() -> None:
    splits = {"train": split_of(captions=WORDS), "test": split_of(captions=WORDS + 1)}
    with pytest.raises(InputError, match=r"mine, test: 1 words are in no training caption \(c\)"):
        check_columns("mine", splits, ("a", "b", "c"), 2)
    check_columns("mine", {**splits, "test": split_of(captions=WORDS)}, ("a", "b", "c"), 2)
    with pytest.raises(InputError, match=r"every split needs the same columns \(train: captions; test: none\)"):
        check_columns("mine", {**splits, "test": split_of()}, ("a", "b", "c"), 2)
