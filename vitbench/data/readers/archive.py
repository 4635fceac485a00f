"""Class folders inside a zip or tar archive, without unpacking: `zip:PATH`, `tar:PATH` (plain, gzip, bzip2 or xz)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from vitbench.base.errors import InputError
from vitbench.data.file_tree import has_ignored_part, is_image_name
from vitbench.data.readers.archive_files import ArchiveImages, Entry, tar_entries, zip_entries
from vitbench.data.readers.class_layout import place
from vitbench.data.readers.labels import Part, from_texts, to_raw
from vitbench.data.source import Files, Raw, Source
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
    images = tuple(
        entry for entry in list_entries(path) if is_image_name(entry.path.name) and not has_ignored_part(entry.path)
    )
    parts = {}
    for split, placed in place([entry.path for entry in images], str(path)).items():
        entries = tuple(images[row] for row in placed.rows)
        store = ArchiveImages((path,), np.zeros(len(entries), dtype=np.int64), entries)
        parts[split] = Part(from_texts(placed.class_names, str(path)), Encoded(store, np.arange(len(entries))))
    return to_raw(parts, str(path))


ZIP = Source(partial(_locate, kind="zip"), partial(_load, list_entries=zip_entries))
TAR = Source(
    partial(_locate, kind="tar"), partial(_load, list_entries=partial(tar_entries, keeps=is_image_name))
)  # fmt: skip
