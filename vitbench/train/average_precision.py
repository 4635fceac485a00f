"""Average precision of detected boxes, as COCO defines it.

Source: Lin et al. 2014 (COCO) and the published evaluation: detections match objects greedily by score, precision is
read at 101 levels of recall, and the mean is over classes. Held against pycocotools in tests/train/test_detect.py.

Shapes: n images, M most objects, d detections, T thresholds, G objects of one class in one image. A box is left, top,
right, bottom in pixels, the last two excluded.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Of the intersection over union that a match needs."""
RECALLS = np.linspace(0.0, 1.0, 101)
MOST_PER_IMAGE = 100
ALL = (0.0, 1e10)


@dataclass(frozen=True)
class Detections:
    """The number of its image `[d]`, class `[d]`, score `[d]` and box `[d, 4]` of each detection."""

    image: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]
    scores: Floats
    boxes: Floats

    def __getitem__(self, chosen: npt.NDArray[np.int64] | Bools) -> Detections:
        return Detections(self.image[chosen], self.classes[chosen], self.scores[chosen], self.boxes[chosen])


class Matched(NamedTuple):
    """Of detections, `[T, d]` each: whether it matches an object, and whether it does not count."""

    right: Bools
    ignored: Bools


def overlaps(a: Floats, b: Floats) -> Floats:
    """Intersection over union `[d, G]` of boxes `[d, 4]` and `[G, 4]`."""
    sides = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    inner = np.maximum(sides, 0).prod(axis=-1)
    union = areas(a)[:, None] + areas(b) - inner
    out: Floats = np.divide(inner, union, out=np.zeros_like(inner), where=inner > 0)
    return out


def areas(boxes: Floats) -> Floats:
    """Pixels `[...]` of boxes `[..., 4]`."""
    out: Floats = (boxes[..., 2:4] - boxes[..., :2]).prod(axis=-1)
    return out


def suppressed(found: Detections, most_overlap: float) -> Detections:
    """Without detections that overlap a better one of their class and image by more than `most_overlap`."""
    order = np.lexsort((-found.scores, found.classes, found.image))
    found = found[order]
    kept = np.ones(len(order), dtype=bool)
    group = np.flatnonzero(np.diff(found.image, prepend=-1) | np.diff(found.classes, prepend=-1))
    for start, end in pairwise([*group, len(order)]):
        if end - start > 1:
            overlap = overlaps(found.boxes[start:end], found.boxes[start:end])
            for i in range(end - start):
                if kept[start + i]:
                    kept[start + i + 1 : end] &= overlap[i, i + 1 :] <= most_overlap
    return found[kept]


def average_precision(
    found: Detections, boxes: npt.NDArray[np.int64], thresholds: Floats = THRESHOLDS, size: tuple[float, float] = ALL
) -> Floats:
    """The mean over classes `[T]`, in [0, 1], against objects `[n, M, 5]` (box and class; -1: none).

    Objects and unmatched detections whose area is not within `size`, ends included, do not count; NaN without objects.
    """
    of_class = []
    for number in np.unique(boxes[..., 4][boxes[..., 4] >= 0]):
        images, objects = np.nonzero(boxes[..., 4] == number)
        truth = boxes[images, objects, :4].astype(np.float64)
        counts = _within(areas(truth), size)
        if counts.any():
            mine = found[found.classes == number]
            mine = _best_per_image(mine[np.lexsort((-mine.scores, mine.image))])
            matched = _matched(mine, (images, truth, counts), thresholds, size)
            of_class.append(_precision(matched, mine.scores, int(counts.sum())))
    return np.mean(of_class, axis=0) if of_class else np.full(len(thresholds), np.nan)


def _within(area: Floats, size: tuple[float, float]) -> Bools:
    inside: Bools = (area >= size[0]) & (area <= size[1])
    return inside


def _best_per_image(found: Detections) -> Detections:
    """The first MOST_PER_IMAGE of each image; detections are sorted by image."""
    first = np.searchsorted(found.image, found.image)
    return found[np.arange(len(first)) - first < MOST_PER_IMAGE]


def _matched(
    found: Detections,
    truth: tuple[npt.NDArray[np.int64], Floats, Bools],
    thresholds: Floats,
    size: tuple[float, float],
) -> Matched:
    """Match detections, sorted by image and score, of one class; `truth`: image `[g]`, box and whether it counts."""
    images, boxes, counts = truth
    right = np.zeros((len(thresholds), len(found.scores)), dtype=bool)
    ignored = np.repeat(~_within(areas(found.boxes), size)[None], len(thresholds), axis=0)
    for image in np.intersect1d(images, found.image):
        start, end = np.searchsorted(found.image, [image, image + 1])
        objects = np.flatnonzero(images == image)
        objects = objects[np.argsort(~counts[objects], kind="stable")]
        taken = np.full((len(thresholds), end - start), -1)
        overlap, free = overlaps(found.boxes[start:end], boxes[objects]), np.ones((len(thresholds), len(objects)), bool)
        for i, row in enumerate(overlap):
            chosen = _choice(row, free & (row >= thresholds[:, None]), counts[objects])
            free[np.flatnonzero(chosen >= 0), chosen[chosen >= 0]] = False
            taken[:, i] = chosen
        hit = taken >= 0
        right[:, start:end] = hit
        ignored[:, start:end] = np.where(hit, ~counts[objects][taken], ignored[:, start:end])
    return Matched(right, ignored)


def _choice(overlap: Floats, allowed: Bools, counts: Bools) -> npt.NDArray[np.int64]:
    """The object `[T]` that a detection matches, of overlaps `[G]`: the best that counts, else the best; -1: none.

    Of equal overlaps it is the last one.
    """
    preferred = np.where((allowed & counts).any(axis=1, keepdims=True), allowed & counts, allowed)
    masked = np.where(preferred, overlap, -1.0)
    best = masked.shape[1] - 1 - masked[:, ::-1].argmax(axis=1)
    return np.where(preferred.any(axis=1), best, -1)


def _precision(matched: Matched, scores: Floats, num_objects: int) -> Floats:
    """Mean precision `[T]` over RECALLS: at each, the best precision at this recall or more."""
    order = np.argsort(-scores, kind="stable")
    right, ignored = (values[:, order] for values in matched)
    hits, misses = np.cumsum(right & ~ignored, axis=1), np.cumsum(~right & ~ignored, axis=1)
    recall, precision = hits / num_objects, hits / np.maximum(hits + misses, 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    out = np.zeros(len(right))
    for t, (at_recall, values) in enumerate(zip(recall, precision, strict=True)):
        at = np.searchsorted(at_recall, RECALLS)
        out[t] = values[at[at < len(values)]].sum() / len(RECALLS)
    return out
