"""The order of class names, on which the labels depend."""

from __future__ import annotations

from collections.abc import Iterable


def sort_class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Distinct names in label order: by number if all are whole numbers (`2` before `10`), else by character."""
    distinct = sorted(set(names))
    if all(name.isascii() and name.isdigit() for name in distinct):
        distinct.sort(key=int)
    return tuple(distinct)
