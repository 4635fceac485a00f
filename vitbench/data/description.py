"""What a data set is, in a few lines for the user: splits, classes, and what was done to it."""

from __future__ import annotations

from collections.abc import Sequence

from vitbench.data.types import Facts

LISTED_CLASSES = 5


def describe(facts: Facts) -> list[str]:
    """Counts, class names (the first few) and the notes of the reader; the first line starts with the set's name."""
    num_val = sum(facts.val_counts)
    held = f", {num_val:,} validation" if num_val else ""
    counts = f"{facts.num_train - num_val:,} training{held} and {facts.num_test:,} test images"
    return [f"{facts.name}: {counts} in {facts.num_classes} classes ({listed(facts.class_names)})", *facts.notes]


def listed(names: Sequence[str], limit: int = LISTED_CLASSES) -> str:
    """The first names, separated by commas, with dots for the others."""
    return ", ".join([*names[:limit], *(["..."] if len(names) > limit else [])])
