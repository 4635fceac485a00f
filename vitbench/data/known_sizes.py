"""Published sizes of the named data sets, from which a plan computes costs before the images are on this machine."""

from __future__ import annotations

from vitbench.data.catalog import DATASETS, facts
from vitbench.data.source import NotFoundError
from vitbench.data.types import DataOptions, Facts

NOMINAL = "nominal"
"""The fingerprint of facts that do not come from images."""

SIZES: dict[str, tuple[int | None, int, int, int, int]] = {
    "fashion_mnist": (28, 1, 10, 60_000, 10_000),
    "mnist": (28, 1, 10, 60_000, 10_000),
    "cifar10": (32, 3, 10, 50_000, 10_000),
    "cifar100": (32, 3, 100, 50_000, 10_000),
    "svhn": (32, 3, 10, 73_257, 26_032),
    "stl10": (96, 3, 10, 5_000, 8_000),
    "imagenette": (None, 3, 10, 9_469, 3_925),
    "imagenet": (None, 3, 1000, 1_281_167, 50_000),
}
"""Side (None: sizes differ), channels, classes, training images, test images (for ImageNet the validation set)."""


def nominal_facts(name: str) -> Facts | None:
    """The published sizes of a named data set, with classes of equal size; None for other names.

    Such facts are for plans only: trials carry a fingerprint of images.
    """
    if name not in SIZES:
        return None
    img_size, in_chans, num_classes, num_train, num_test = SIZES[name]
    per_class, remainder = divmod(num_train, num_classes)
    return Facts(
        name=name,
        img_size=img_size,
        in_chans=in_chans,
        num_classes=num_classes,
        class_names=tuple(map(str, range(num_classes))),
        class_counts=tuple(per_class + (c < remainder) for c in range(num_classes)),
        num_train=num_train,
        num_test=num_test,
        flip=DATASETS[name].flip,
        fingerprint=NOMINAL,
        fingerprint_note=NOMINAL,
        pixels_publishable=DATASETS[name].pixels_publishable,
    )


def facts_or_nominal(name: str, options: DataOptions) -> Facts:
    """The facts of a data set, or the published sizes of a named set that is not here. Raises InputError."""
    try:
        return facts(name, options)
    except NotFoundError:
        published = nominal_facts(name.removeprefix("torch/"))
        if published is None:
            raise
        return published
