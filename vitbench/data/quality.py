"""Faults of a data set that training would not show: damaged images, and test images that are also trained on."""

from __future__ import annotations

import numpy as np

from vitbench.base.errors import InputError
from vitbench.data.catalog import find
from vitbench.data.fingerprint import check_labels, digests
from vitbench.data.types import DataOptions, ImageData


def check(name: str, options: DataOptions) -> tuple[str, ...]:
    """One line for every image that cannot be decoded and every split with bad labels; decodes everything."""
    _, argument, source = find(name)
    raw = source.load(argument, source.locate(argument, options))
    num_classes = len(raw.class_names) or int(raw.train.labels.max(initial=0)) + 1
    problems: list[str] = []
    for split_name, split in (("train", raw.train), ("test", raw.test)):
        if split is None:
            continue
        try:
            check_labels(split, num_classes, split_name)
        except InputError as error:
            problems.append(str(error))
        for i in range(len(split)):
            try:
                split.read(i)
            except InputError as error:
                problems.append(str(error))
    return tuple(problems)


def overlap(data: ImageData) -> int:
    """How many test images are, byte for byte (of the file, or of the decoded pixels), also training images."""
    return int(np.isin(digests(data.test), digests(data.train)).sum())
