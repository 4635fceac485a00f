"""Looks at networks trained on scenes: masks drawn into the images, and the attention of a caption's words.

Shapes: n images, S side in pixels, L words, H heads, T tokens, N patches, G grid side.
"""

from __future__ import annotations

import colorsys

import numpy as np
import torch
from torch import Tensor

from vitbench.base.errors import InputError
from vitbench.data.captions import OBJECT_CLASS, RELATION, SUBJECT_CLASS
from vitbench.inspection.hooks import attention_seen
from vitbench.inspection.network import Subject
from vitbench.inspection.results import Findings, Row, Shown
from vitbench.train.objectives.segment import Segment, intersection_over_union
from vitbench.train.objectives.vilt import Vilt

GALLERY = 8
BATCH = 64
OPACITY = 0.6
WORDS = {"subject": SUBJECT_CLASS, "relation": RELATION, "object": OBJECT_CLASS}
"""The words whose attention is drawn, by their place in a caption."""


def masks(subject: Subject, shown: Shown) -> Findings:
    """Images with the true and with the predicted masks; the overlap of each class that some mask has."""
    if not isinstance(subject.objective, Segment):
        raise InputError(f"{subject.name}: was not trained to segment, so it has no masks to draw")
    pictures, predicted = shown.test, []
    truth = _column(shown, "masks")
    with torch.no_grad():
        for _, images in pictures.batches(BATCH):
            predicted.append(subject.module(subject.standardise(images)).argmax(1).to(torch.uint8))
    answers, first = torch.cat(predicted).numpy(), pictures.pixels[:GALLERY].numpy() / 255
    each = intersection_over_union(answers, truth)
    rows: list[Row] = [
        {"mask": f"class {value - 1}" if value else "background", "iou_percent": 100 * float(iou), "images": len(truth)}
        for value, iou in zip(np.unique(truth).astype(int), each, strict=True)
    ]
    arrays = {"images": first, "truth": overlaid(first, truth), "predicted": overlaid(first, answers)}
    return Findings({}, rows, arrays)


def overlaid(images: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Images `[n, C, S, S]` in [0, 1] with one colour per class of masks `[m, S, S]`: `[n, 3, S, S]`."""
    grey = np.repeat(images.mean(axis=1, keepdims=True), 3, axis=1)
    hues = np.array([(0.0, 0.0, 0.0), *(colorsys.hsv_to_rgb(k / 10, 1.0, 1.0) for k in range(max(10, values.max())))])
    colours = np.moveaxis(hues[values[: len(images)]], -1, 1)
    is_object = values[: len(images), None] > 0
    return np.asarray(np.where(is_object, (1 - OPACITY) * grey + OPACITY * colours, grey))


def words(subject: Subject, shown: Shown) -> Findings:
    """The patches that a caption's words attend to in the last layer, mean over heads; per layer the share of each
    word's attention that goes to patches."""
    if not isinstance(subject.objective, Vilt):
        raise InputError(f"{subject.name}: its encoder reads no words")
    num_words = _column(shown, "captions").shape[1]
    to_patches, last = word_attention(subject, shown)
    uniform = subject.side**2 / (num_words + subject.num_tokens)
    rows: list[Row] = [
        {"layer": layer, "word": name, "to_patches_percent": 100 * float(to_patches[layer, place]),
         "percent_if_uniform": 100 * uniform}
        for layer in range(len(to_patches))
        for name, place in WORDS.items()
    ]  # fmt: skip
    maps = {name: last[:, place].reshape(-1, subject.side, subject.side) for name, place in WORDS.items()}
    return Findings({}, rows, {"images": shown.test.pixels[:GALLERY].numpy() / 255, **maps})


def word_attention(subject: Subject, shown: Shown) -> tuple[np.ndarray, np.ndarray]:
    """The mean share of each word's attention that goes to patches `[layers, L]`, and in the last layer, for the first
    images, where it goes `[n, L, N]`."""
    captions = torch.from_numpy(_column(shown, "captions"))
    num_words, num_patches = captions.shape[1], subject.side**2
    shares, first = torch.zeros(len(subject.blocks()), num_words), torch.zeros(0)
    kept: dict[int, Tensor] = {}

    def see(layer: int, maps: Tensor) -> None:
        kept[layer] = maps.mean(1)[:, :num_words, -num_patches:]

    for where, images in shown.test.batches(BATCH):
        with attention_seen(subject.blocks(), see), torch.no_grad():
            subject.module(subject.standardise(images), captions[where])
        shares += torch.stack([kept[layer].sum(-1).sum(0) for layer in sorted(kept)]) / len(captions)
        if where.start == 0:
            first = kept[max(kept)][:GALLERY]
    return shares.numpy(), first.numpy()


def _column(shown: Shown, name: str) -> np.ndarray:
    """A column of the test images. Raises InputError if the data set has no such column."""
    if name not in shown.test.columns:
        raise InputError(f"{shown.test.name}: has no {name}")
    return shown.test.columns[name]
