"""Which class and which split the files of an archive belong to, from their paths alone.

`class/.../file` or `split/class/.../file`. One folder around everything, as archives often have it, is stepped over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from vitbench.base.errors import InputError
from vitbench.data.split_names import SplitName, split_of_name, splits_in

EXPECTED = "class folders that hold images are expected, or split folders (train, val, test) that hold class folders"

Parts = dict[int, tuple[str, ...]]
"""Folders and file name by position among the files."""


@dataclass(frozen=True)
class Placed:
    """Positions of one split's files, and the name of each one's class folder."""

    rows: tuple[int, ...]
    class_names: tuple[str, ...]


def place(paths: Sequence[PurePosixPath], where: str) -> dict[SplitName, Placed]:
    """The splits and classes of `paths`; everything is `train` if no folder at the top states a split.

    Raises InputError, starting with `where`, if a file lies in no class folder, or if some folders state a split and
    others do not.
    """
    parts = _inside_common_folder({row: path.parts for row, path in enumerate(paths)})
    if not parts:
        raise InputError(f"{where}: no images; {EXPECTED}")
    stated = _stated_splits(dict.fromkeys(folders[0] for folders in parts.values()), where)
    if not any(stated.values()):
        return {"train": _placed(parts, where)}
    unstated = next((top for top, split in stated.items() if split is None), None)
    if unstated is not None:
        other = next(top for top, split in stated.items() if split)
        raise InputError(f"{where}: {other} is named after a split and {unstated} is not; {EXPECTED}")
    groups: dict[SplitName, Parts] = {}
    for row, folders in parts.items():
        split = stated[folders[0]]
        assert split is not None
        groups.setdefault(split, {})[row] = folders[1:]
    if "train" not in groups:
        raise InputError(f"{where}: no folder is named after train, only {', '.join(stated)}")
    return {split: _placed(_inside_repeated_split(rows, split), where) for split, rows in groups.items()}


def _stated_splits(tops: Iterable[str], where: str) -> dict[str, SplitName | None]:
    try:
        return {top: split_of_name(top) for top in tops}
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _inside_common_folder(parts: Parts) -> Parts:
    """The paths below a folder that holds everything, unless it states a split; a class folder and a file are left."""
    while parts and min(map(len, parts.values())) > 2:
        tops = {folders[0] for folders in parts.values()}
        if len(tops) > 1 or len(splits_in(next(iter(tops)))) == 1:
            break
        parts = {row: folders[1:] for row, folders in parts.items()}
    return parts


def _inside_repeated_split(parts: Parts, split: SplitName) -> Parts:
    """The paths below a second folder of the same split, as in `seg_train/seg_train/street/1.jpg`."""
    repeated = all(len(folders) > 2 and splits_in(folders[0]) == {split} for folders in parts.values())
    return {row: folders[1:] for row, folders in parts.items()} if repeated else parts


def _placed(parts: Parts, where: str) -> Placed:
    loose = [folders for folders in parts.values() if len(folders) < 2]
    if loose:
        count = f"{len(loose)} of {len(parts)} images lie" if len(loose) > 1 else f"{loose[0][-1]} lies"
        raise InputError(f"{where}: {count} in no class folder; {EXPECTED}")
    below: dict[str, list[tuple[str, ...]]] = {}
    for folders in parts.values():
        below.setdefault(folders[0], []).append(folders[1:])
    for top, files in below.items():
        _check_class_folder(top, files, where)
    return Placed(tuple(parts), tuple(folders[0] for folders in parts.values()))


def _check_class_folder(name: str, files: Sequence[tuple[str, ...]], where: str) -> None:
    """Nothing; InputError if the folder is named after a split, holds such a folder, or holds only folders."""
    inner = next((f"{name}/{folders[0]}" for folders in files if len(folders) > 1 and splits_in(folders[0])), None)
    if splits_in(name) or inner is not None:
        raise InputError(f"{where}: the folder {inner or name} is named after a split, not after a class; {EXPECTED}")
    if all(len(folders) > 1 for folders in files):
        raise InputError(f"{where}: the class folder {name} holds folders and no images; {EXPECTED}")
