"""What a data set is, in a few lines for the user: splits, classes, and what was done to it."""

from __future__ import annotations

from vitbench.data.class_names import listed
from vitbench.data.types import Facts


def describe(facts: Facts) -> list[str]:
    """Counts, class names (the first few) and the notes of the reader; the first line starts with the set's name."""
    num_val = sum(facts.val_counts)
    held = f", {num_val:,} validation" if num_val else ""
    counts = f"{facts.num_train - num_val:,} training{held} and {facts.num_test:,} test images"
    return [f"{facts.name}: {counts} in {facts.num_classes} classes ({listed(facts.class_names)})", *facts.notes]
