"""Scenes: real handwritten digits, or clothes of Fashion-MNIST, on a canvas; with boxes, masks and captions.

A scene has a pair of objects side by side or one above the other, which the caption describes, and none, one or two
small objects beside it, of classes of their own. Objects never overlap. Everything about scene i is a function of i.
Axis u runs through the pair, axis v across it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from vitbench.base.seeding import hash_indices, permutation
from vitbench.data.captions import captions, inverse, vocabulary
from vitbench.data.readers.digits import DIGITS
from vitbench.data.readers.idx import FASHION_MNIST
from vitbench.data.source import Files, Raw, Source
from vitbench.data.types import Ints, Pixels, Split

NUM_TRAIN, NUM_TEST = 6_000, 1_000
CANVAS = 32
MOST_OBJECTS, MOST_BESIDE = 4, 2
LARGEST_GAP = 3
"""Free pixels between the two objects of a pair: 1 to 3."""
NUM_PLACES = 8
"""A pair is 0 to 7 pixels away from the edge that the caption names."""
INK = 64
"""Grey levels above this are part of an object."""
HELD_OUT_DIFFERENCES = ((1, 9), (3, 7))
"""Classes (b - a modulo 10) that stand side by side, and one above the other, in no training scene."""
TEXTURE_CELL = 4
DIGITS_CUT = 1_437
"""Training scenes have the digits before this one in file order; scikit-learn's copy keeps the writers' order."""


@dataclass(frozen=True)
class Glyphs:
    """Objects of one split at both sizes, `small uint8 [n, s, s]` and `large [n, t, t]`, with classes `[n]`."""

    small: Pixels
    large: Pixels
    classes: Ints

    def numbers(self, classes: Ints, draws: npt.NDArray[np.uint64]) -> Ints:
        """For each class `[m]` the number of one of its glyphs, by a draw `[m]`."""
        out = np.empty(len(classes), dtype=np.int64)
        for cls in np.unique(classes):
            members, at = np.flatnonzero(self.classes == cls), classes == cls
            out[at] = members[(draws[at] % np.uint64(len(members))).astype(np.int64)]
        return out


@dataclass(frozen=True)
class Layout:
    """Objects of n scenes, `[n, 4]` each: class (-1: none), size (0 small, 1 large), left, top; captions `[n, 8]`.

    The first two are the pair, the left or upper one first.
    """

    classes: Ints
    sizes: Ints
    left: Ints
    top: Ints
    captions: Ints
    held_out: npt.NDArray[np.bool_]


class Draws:
    """Integers per scene from named streams; the scenes are numbered from `first`."""

    def __init__(self, first: int, num: int) -> None:
        self.index = np.arange(first, first + num)

    def hashes(self, stream: str) -> npt.NDArray[np.uint64]:
        """A 64-bit number per scene."""
        return hash_indices(0, f"scenes/{stream}", 0, self.index)

    def below(self, stream: str, limit: int | Ints) -> Ints:
        """An integer in [0, limit) per scene."""
        return (self.hashes(stream) % np.asarray(limit, dtype=np.uint64)).astype(np.int64)


def is_held_out(first: Ints, second: Ints, vertical: Ints) -> npt.NDArray[np.bool_]:
    """True for combinations of classes and axis that are in no training scene, `[n]`."""
    beside, above = (np.isin((second - first) % 10, differences) for differences in HELD_OUT_DIFFERENCES)
    return np.where(vertical == 1, above, beside)


def pair_classes(draws: Draws, vertical: Ints, held_out: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """The classes `[n]` of the first and the second object; `held_out [n]` says of which kind."""
    table = {(axis, kept): [d for d in range(1, 10) if (d in HELD_OUT_DIFFERENCES[axis]) == kept]
             for axis in (0, 1) for kept in (False, True)}  # fmt: skip
    first, difference = draws.below("class", 10), np.zeros(len(vertical), dtype=np.int64)
    for (axis, kept), values in table.items():
        at = (vertical == axis) & (held_out == kept)
        difference[at] = np.array(values)[draws.below("difference", len(values))[at]]
    return first, (first + difference) % 10


def layout(draws: Draws, sides: tuple[int, int], held_out: npt.NDArray[np.bool_]) -> Layout:
    """The objects of every scene; `sides` are the pixels of a small and of a large object."""
    num, side_of = len(draws.index), np.array(sides)
    vertical, far, turned = (draws.below(stream, 2) for stream in ("axis", "far", "subject"))
    classes, sizes = np.full((num, MOST_OBJECTS), -1), np.zeros((num, MOST_OBJECTS), dtype=np.int64)
    classes[:, 0], classes[:, 1] = pair_classes(draws, vertical, held_out)
    sizes[:, 0], sizes[:, 1] = draws.below("first size", 2), draws.below("second size", 2)
    lengths = side_of[sizes[:, :2]]
    u, v = np.zeros((2, num, MOST_OBJECTS), dtype=np.int64)
    gap, extent = 1 + draws.below("gap", LARGEST_GAP), lengths.max(axis=1)
    u[:, 0] = draws.below("along", CANVAS - lengths.sum(axis=1) - gap + 1)
    u[:, 1] = u[:, 0] + lengths[:, 0] + gap
    edge = draws.below("across", NUM_PLACES)
    for k in (0, 1):
        v[:, k] = edge + draws.below(f"shift {k}", extent - lengths[:, k] + 1)
    count, free = draws.below("beside", MOST_BESIDE + 1), CANVAS - edge - extent - 1
    for k in range(MOST_BESIDE):
        present = count > k
        classes[present, 2 + k] = _other_class(classes, draws.below(f"class beside {k}", 8 - k))[present]
        u[:, 2 + k] = k * (CANVAS // 2) + draws.below(f"along beside {k}", CANVAS // 2 - sides[0])
        v[:, 2 + k] = edge + extent + 1 + draws.below(f"across beside {k}", free - sides[0] + 1)
    v = np.where(far[:, None] == 1, CANVAS - v - side_of[sizes], v)
    left, top = (np.where((vertical == axis)[:, None], u, v) for axis in (0, 1))
    relation, place = 2 * vertical + turned, 2 * vertical + far
    first, second = ((sizes[:, k], classes[:, k]) for k in (0, 1))
    words = np.where(
        turned[:, None] == 1, captions(place, second, relation, first), captions(place, first, relation, second)
    )
    assert (inverse(relation) // 2 == vertical).all(), "an inverse relation is of the same axis"
    return Layout(classes, sizes, left, top, words, held_out)


def _other_class(classes: Ints, rank: Ints) -> Ints:
    """The class `[n]` of this rank among those that a scene does not have yet."""
    missing = ~(classes[:, :, None] == np.arange(10)).any(axis=1)
    order = np.argsort(~missing, axis=1, kind="stable")
    out: Ints = order[np.arange(len(rank)), rank]
    return out


def texture(draws: Draws) -> Pixels:
    """Grey cells with noise, `uint8 [n, 32, 32]`: levels below 128, so that no threshold separates the objects."""
    cells = CANVAS // TEXTURE_CELL
    scenes = draws.index[:, None, None]
    coarse = hash_indices(0, "scenes/cells", 0, scenes * cells**2 + np.arange(cells**2).reshape(cells, cells))
    fine = hash_indices(0, "scenes/noise", 0, scenes * CANVAS**2 + np.arange(CANVAS**2).reshape(CANVAS, CANVAS))
    levels = (coarse % np.uint64(96)).repeat(TEXTURE_CELL, axis=1).repeat(TEXTURE_CELL, axis=2) + fine % np.uint64(32)
    return levels.astype(np.uint8)


def painted(glyphs: Glyphs, plan: Layout, draws: Draws, background: Pixels) -> Split:
    """The scenes with all their columns. The label is the class of the object with most pixels, the first of a tie."""
    num, images = len(draws.index), background.copy()
    masks, boxes = np.zeros((num, CANVAS, CANVAS), dtype=np.uint8), np.full((num, MOST_OBJECTS, 5), -1)
    area = np.zeros((num, MOST_OBJECTS), dtype=np.int64)
    for k in range(MOST_OBJECTS):
        numbers = glyphs.numbers(np.maximum(plan.classes[:, k], 0), draws.hashes(f"glyph {k}"))
        for size, shapes in enumerate((glyphs.small, glyphs.large)):
            at = np.flatnonzero((plan.classes[:, k] >= 0) & (plan.sizes[:, k] == size))
            glyph, classes, corner = shapes[numbers[at]], plan.classes[at, k], (plan.left[at, k], plan.top[at, k])
            ink, along = glyph > INK, np.arange(glyph.shape[1])
            place = (at[:, None, None], (corner[1][:, None] + along)[:, :, None], (corner[0][:, None] + along)[:, None])
            images[place] = np.where(ink, glyph, images[place])
            masks[place] = np.where(ink, 1 + classes[:, None, None], masks[place])
            boxes[at, k] = np.column_stack([*_extent(ink, corner), classes])
            area[at, k] = ink.sum(axis=(1, 2))
    largest = (np.arange(num), area.argmax(axis=1))
    columns = {"boxes": boxes, "masks": masks, "captions": plan.captions, "held_out": plan.held_out}
    return Split(plan.classes[largest], images[..., None], boxes=boxes[largest][:, :4], columns=columns)


def _extent(ink: npt.NDArray[np.bool_], corner: tuple[Ints, Ints]) -> tuple[Ints, Ints, Ints, Ints]:
    """Left, top, right and bottom `[n]` of the pixels of an object `[n, s, s]`; right and bottom are excluded."""
    columns, rows, (left, top), side = ink.max(axis=1), ink.max(axis=2), corner, ink.shape[1]
    return (
        left + columns.argmax(axis=1),
        top + rows.argmax(axis=1),
        left + side - columns[:, ::-1].argmax(axis=1),
        top + side - rows[:, ::-1].argmax(axis=1),
    )


def scenes(glyphs: Glyphs, first: int, held_out: npt.NDArray[np.bool_], textured: bool) -> Split:
    """Scenes `first`, `first + 1`, ...: as many as `held_out` has entries."""
    draws = Draws(first, len(held_out))
    sides = (glyphs.small.shape[1], glyphs.large.shape[1])
    empty = np.zeros((len(held_out), CANVAS, CANVAS), dtype=np.uint8)
    return painted(glyphs, layout(draws, sides, held_out), draws, texture(draws) if textured else empty)


def _digits(raw: Raw) -> tuple[Glyphs, Glyphs]:
    """Digits of 8 and 12 pixels: the first 1,437 in file order, and the last 360."""
    assert raw.train.images is not None
    small, labels = raw.train.images[..., 0], raw.train.labels
    wide = np.arange(12) * 8 // 12
    large = small[:, wide][:, :, wide]
    parts = (slice(None, DIGITS_CUT), slice(DIGITS_CUT, None))
    train, test = (Glyphs(small[part], large[part], labels[part]) for part in parts)
    return train, test


def _clothes(raw: Raw) -> tuple[Glyphs, Glyphs]:
    """Clothes of 7 and 14 pixels, means of the original's 28: those of the training split, and of the test split."""

    def glyphs(split: Split) -> Glyphs:
        assert split.images is not None
        small, large = (
            split.images[..., 0].reshape(-1, side, 28 // side, side, 28 // side).mean(axis=(2, 4)).astype(np.uint8)
            for side in (7, 14)
        )
        inked = (small > INK).any(axis=(1, 2)) & (large > INK).any(axis=(1, 2))
        return Glyphs(small[inked], large[inked], split.labels[inked])

    assert raw.test is not None
    return glyphs(raw.train), glyphs(raw.test)


def _load(name: str, files: Files, source: Source, cut: Callable[[Raw], tuple[Glyphs, Glyphs]], textured: bool) -> Raw:
    """Training scenes have no held-out combination; half of the test scenes have one."""
    raw = source.load(name, files)
    train, test = cut(raw)
    half = permutation(0, "scenes/held out", 0, np.arange(NUM_TEST)) % 2 == 0
    return Raw(
        scenes(train, 0, np.zeros(NUM_TRAIN, dtype=bool), textured),
        scenes(test, NUM_TRAIN, half, textured),
        raw.class_names,
        vocabulary=vocabulary([NUMBER_WORDS[int(each)] if each.isdigit() else each for each in raw.class_names]),
    )


NUMBER_WORDS = "zero one two three four five six seven eight nine".split()  # noqa: SIM905


def _scenes(source: Source, cut: Callable[[Raw], tuple[Glyphs, Glyphs]], textured: bool = False) -> Source:
    return Source(
        source.locate, partial(_load, source=source, cut=cut, textured=textured), flip=False, pixels_publishable=True
    )


SCENES = _scenes(DIGITS, _digits)
SCENES_TEXTURED = _scenes(DIGITS, _digits, textured=True)
SCENES_FASHION = _scenes(FASHION_MNIST, _clothes)
