"""The order of class names, on which the labels depend, and the classes that a user names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vitbench.base.errors import InputError, nearest

LISTED_NAMES = 10


def sort_class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Distinct names in label order: by number if all are whole numbers (`2` before `10`), else by character."""
    distinct = sorted(set(names))
    if _all_numbers(distinct):
        distinct.sort(key=int)
    return tuple(distinct)


def class_positions(classes: Sequence[int | str], names: Sequence[str]) -> tuple[int, ...]:
    """The labels of the named classes, ascending, each once.

    A number is a position, but if all names are whole numbers it is a name: class 1 of the folders 1, 2 and 3 is the
    folder 1. Raises InputError if a class does not exist, or if fewer than two are named.
    """
    by_name: dict[int | str, int] = {name: label for label, name in enumerate(names)}
    if _all_numbers(names):
        by_name |= {int(name): label for label, name in enumerate(names)}
    else:
        by_name |= {label: label for label in range(len(names))}
    positions = set()
    for value in classes:
        if value not in by_name:
            hint = nearest(str(value), names)
            allowed = f"names are {listed(names, LISTED_NAMES)}, positions 0 to {len(names) - 1}"
            raise InputError(f"data.classes: no class {value!r};{hint or ''} {allowed}")
        positions.add(by_name[value])
    if len(positions) < 2:
        raise InputError(f"data.classes: {list(classes)} is one class, and at least two are needed")
    return tuple(sorted(positions))


def listed(names: Sequence[str], limit: int = 5) -> str:
    """The first names, separated by commas, with dots for the others."""
    return ", ".join([*names[:limit], *(["..."] if len(names) > limit else [])])


def _all_numbers(names: Sequence[str]) -> bool:
    return all(name.isascii() and name.isdigit() for name in names)
