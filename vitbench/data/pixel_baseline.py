"""The lowest accuracy that a sane model reaches on a data set: logistic regression on raw pixels."""

from __future__ import annotations

import json
import warnings
from contextlib import suppress
from dataclasses import replace

import numpy as np

from vitbench.data.catalog import cache_folder, open_images, write_aside
from vitbench.data.splits import partition
from vitbench.data.types import DataOptions, Facts, Floats, Pixels, resident
from vitbench.spec.trial import DataSpec

MOST_IMAGES = 5_000
MOST_QUICK = 2_000
LARGEST_SIDE = 32
STRENGTH, MAX_ITER = 1e-2, 200


def pixel_floor_percent(facts: Facts, name: str, options: DataOptions) -> float:
    """Test top-1 in percent of a logistic regression (C = 0.01, 200 iterations at most) on standardised raw pixels.

    Fitted on at most 5,000 training images, stratified, at most 32 x 32 pixels, so that it is a low bar; cached by
    the images' fingerprint.
    """
    path = cache_folder(options) / "floors" / f"{facts.fingerprint[:32]}.json"
    with suppress(OSError, ValueError, KeyError):
        return float(json.loads(path.read_text())["top1_percent"])
    data = open_images(name, replace(options, download=False))
    share = min(1.0, MOST_IMAGES / len(data.train))
    rows = partition(data.train, 0, DataSpec(val_fraction=0.0, train_fraction=share)).train
    side = min(facts.img_size or LARGEST_SIDE, LARGEST_SIDE)
    train, test = (_flat(resident(split, side)) for split in (data.train.take(rows), data.test))
    score = _score((train, data.train.labels[rows]), (test, data.test.labels))
    write_aside(json.dumps({"data": facts.name, "top1_percent": score}), path)
    return score


def pixel_validation_percent(facts: Facts, name: str, options: DataOptions, val_fraction: float) -> float:
    """As `pixel_floor_percent`, scored on the validation images of seed 0; no test image is read."""
    data = open_images(name, replace(options, download=False)).train
    parts = partition(data, 0, DataSpec(val_fraction=val_fraction))
    side = min(facts.img_size or LARGEST_SIDE, LARGEST_SIDE)
    rng = np.random.default_rng(0)
    rows, val_rows = (rng.permutation(part)[:MOST_QUICK] for part in (parts.train, parts.val))
    train, val = (_flat(resident(data.take(part), side)) for part in (rows, val_rows))
    return _score((train, data.labels[rows]), (val, data.labels[val_rows]))


def _flat(images: Pixels) -> Floats:
    return images.reshape(len(images), -1).astype(np.float64) / 255


def _score(train: tuple[Floats, np.ndarray], test: tuple[Floats, np.ndarray]) -> float:
    from sklearn.linear_model import LogisticRegression

    mean, std = train[0].mean(0), train[0].std(0) + 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # A fit that stops early is only a lower bar.
        model = LogisticRegression(C=STRENGTH, max_iter=MAX_ITER).fit((train[0] - mean) / std, train[1])
    return 100.0 * float(model.score((test[0] - mean) / std, test[1]))
