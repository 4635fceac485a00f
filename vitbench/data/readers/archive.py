"""Class folders inside a zip or tar archive, without unpacking: `zip:PATH`, `tar:PATH` (plain, gzip, bzip2 or xz)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from vitbench.base.errors import InputError
from vitbench.data.file_tree import LeftOut, is_ignored, is_image_name
from vitbench.data.readers.archive_files import ArchiveImages, Entry, tar_entries, zip_entries
from vitbench.data.readers.class_layout import Placed, place
from vitbench.data.readers.labels import LabelledSplit, from_texts, to_raw
from vitbench.data.source import Files, Raw, Source
from vitbench.data.split_names import SplitName, splits_in
from vitbench.data.types import DataOptions, Encoded

ListEntries = Callable[[Path], tuple[Entry, ...]]


def _locate(argument: str, options: DataOptions, kind: str) -> Files:
    path = Path(argument).expanduser()
    if argument and path.is_dir():
        raise InputError(f"{kind}:{argument}: a folder; give the archive, or use folder:{argument}")
    if not argument or not path.is_file():
        raise InputError(f"{kind}:{argument}: there is no such file")
    return (path,)


def _load(argument: str, files: Files, list_entries: ListEntries) -> Raw:
    (path,) = files
    images, left_out = _images(list_entries(path))
    splits = place([entry.path for entry in images], str(path))
    parts = {}
    for split, placed in splits.items():
        entries = tuple(images[row] for row in placed.rows)
        store = ArchiveImages((path,), np.zeros(len(entries), dtype=np.int64), entries)
        parts[split] = LabelledSplit(from_texts(placed.class_names, str(path)), Encoded(store, np.arange(len(entries))))
    return to_raw(parts, str(path), _tops(splits, images) if len(splits) > 1 else None, left_out.note())


def _images(entries: tuple[Entry, ...]) -> tuple[tuple[Entry, ...], LeftOut]:
    """The image files, and what else is in the archive."""
    images: list[Entry] = []
    left_out = LeftOut()
    for entry in entries:
        ignored = next((part for part in entry.path.parts if is_ignored(part)), None)
        if ignored is not None:
            left_out.ignored[ignored] += 1
        elif is_image_name(entry.path.name):
            images.append(entry)
        else:
            left_out.add_file(entry.path.name)
    return tuple(images), left_out


def _tops(splits: Mapping[SplitName, Placed], images: tuple[Entry, ...]) -> dict[SplitName, list[str]]:
    """The folders that were taken for each split."""
    return {
        split: sorted({f"{_stating_folder(images[row].path, split)}/" for row in placed.rows})
        for split, placed in splits.items()
    }


def _stating_folder(path: PurePosixPath, split: SplitName) -> str:
    """The outermost folder of the path that states the split."""
    return next((part for part in path.parts if splits_in(part) == {split}), path.parts[0])


ZIP = Source(partial(_locate, kind="zip"), partial(_load, list_entries=zip_entries))
TAR = Source(
    partial(_locate, kind="tar"), partial(_load, list_entries=partial(tar_entries, keeps=is_image_name))
)  # fmt: skip
