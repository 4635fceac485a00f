"""WebDataset shards: `webdataset:PATH`, tar files whose samples are an image and a `.cls` file of one name.

PATH is a shard, a folder of shards (train and test by the shards' names), or a pattern as `train-{0000..0009}.tar`.
A sample's name ends at the last dot, so `scan.v1.png` and `scan.v2.png` are two samples; its files need not be
neighbours in the shard. Differs: the package webdataset ends the name at the first dot and joins neighbours only.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path, PurePath, PurePosixPath

import numpy as np

from vitbench.base.errors import InputError
from vitbench.data.file_tree import has_ignored_part, is_image_name
from vitbench.data.readers.archive_files import ArchiveImages, Entry, tar_entries
from vitbench.data.readers.labels import LabelledSplit, Labels, from_numbers, from_texts, join, to_raw
from vitbench.data.source import Files, Raw, Source
from vitbench.data.split_names import SplitName, group_by_split
from vitbench.data.types import DataOptions, Encoded

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
LABEL_SUFFIX = ".cls"
MAX_LABEL_BYTES = 1000


def _shards(argument: str) -> Files:
    """The shards that PATH means, by name."""
    where = f"webdataset:{argument}"
    path = Path(argument).expanduser()
    if argument and path.is_dir():
        shards = tuple(sorted(p for p in path.iterdir() if p.name.endswith(SHARD_SUFFIXES) and p.is_file()))
        if not shards:
            raise InputError(f"{where}: no shards ({', '.join(SHARD_SUFFIXES)}) in this folder")
        return shards
    shards = tuple(_expanded(path)) if argument else ()
    missing = next((shard for shard in shards if not shard.is_file()), None)
    if missing is not None or not shards:
        raise InputError(f"{where}: there is no file {missing}" if shards else f"{where}: a path is needed")
    return shards


def _expanded(path: Path) -> list[Path]:
    """The paths that a pattern with one range `{0000..0009}` stands for, or the path itself."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", path.name)
    if match is None:
        return [path]
    first, last = int(match[1]), int(match[2])
    names = [path.name[: match.start()] + f"{i:0{len(match[1])}d}" + path.name[match.end() :]
             for i in range(first, last + 1)]  # fmt: skip
    return [path.with_name(name) for name in names]


def _is_sample_file(name: str) -> bool:
    return is_image_name(name) or PurePosixPath(name).suffix.lower() == LABEL_SUFFIX


def _samples(shard: Path) -> tuple[tuple[Entry, ...], Labels]:
    """The images of one shard, in the order of the shard, and their labels."""
    entries = [entry for entry in tar_entries(shard, keeps=_is_sample_file) if not has_ignored_part(entry.path)]
    images = [entry for entry in entries if is_image_name(entry.path.name)]
    labels = {_key(entry): entry for entry in entries if entry.path.suffix.lower() == LABEL_SUFFIX}
    counts = Counter(_key(entry) for entry in images)
    if not images:
        suffixes = ", ".join(sorted({entry.path.suffix or "no suffix" for entry in entries})) or "none"
        raise InputError(f"{shard}: no images (suffixes of the files: {suffixes})")
    problems = {
        "images without a .cls file": [key for key in counts if key not in labels],
        ".cls files without an image": [key for key in labels if key not in counts],
        "samples with several images": [key for key, count in counts.items() if count > 1],
    }
    for problem, keys in problems.items():
        if keys:
            raise InputError(
                f"{shard}: {len(keys)} {problem}, the first is {keys[0]} (a sample's name ends at the last dot)"
            )
    texts = [_label_text(shard, labels[_key(image)]) for image in images]
    return tuple(images), _labels(texts, f"{shard}, .cls files")


def _key(entry: Entry) -> PurePosixPath:
    """The sample's name: folder and file name up to the last dot."""
    return entry.path.with_suffix("")


def _label_text(shard: Path, entry: Entry) -> str:
    if entry.num_bytes > MAX_LABEL_BYTES:
        raise InputError(f"{shard}, {entry.path}: {entry.num_bytes} bytes are no class label")
    try:
        return entry.read(shard).decode().strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{shard}, {entry.path}: not text, so no class label") from error


def _labels(texts: list[str], where: str) -> Labels:
    """Class numbers if every label is a whole number, else class names."""
    if all(re.fullmatch(r"-?\d{1,18}", text) for text in texts):
        return from_numbers(np.array(texts, dtype=np.int64), where)
    return from_texts(texts, where)


def _part(shards: Files, where: str) -> LabelledSplit:
    entries, labels = zip(*(_samples(shard) for shard in shards), strict=True)
    which = np.repeat(np.arange(len(shards)), [len(images) for images in entries])
    store = ArchiveImages(shards, which, tuple(image for images in entries for image in images))
    return LabelledSplit(join(labels, where), Encoded(store, np.arange(len(which))))


def _locate(argument: str, options: DataOptions) -> Files:
    return _shards(argument)


def _load(argument: str, files: Files) -> Raw:
    where = f"webdataset:{argument}"
    groups = group_by_split([PurePath(shard.name) for shard in files], where) if len(files) > 1 else None
    parts: dict[SplitName, LabelledSplit] = {}
    for split, rows in (groups or {"train": list(range(len(files)))}).items():
        parts[split] = _part(tuple(files[row] for row in rows), where)
    taken_from = {split: [files[row].name for row in rows] for split, rows in (groups or {}).items()}
    return to_raw(parts, where, taken_from)


WEBDATASET = Source(_locate, _load)
