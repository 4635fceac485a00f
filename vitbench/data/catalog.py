"""The table of data sets, and the two ways in: `facts` (from a cache if possible) and `open_images`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vitbench.base.errors import InputError, nearest
from vitbench.data.assembly import assemble
from vitbench.data.readers import (
    archive,
    cifar,
    csv_list,
    digits,
    fake,
    folder,
    hub,
    idx,
    npz,
    parquet,
    scenes,
    stl10,
    svhn,
    webdataset,
)
from vitbench.data.reading import Reading, parse_reading
from vitbench.data.source import Files, Raw, Source
from vitbench.data.types import DataOptions, Facts, ImageData

DATASETS: dict[str, Source] = {
    "digits": digits.DIGITS,
    "fashion_mnist": idx.FASHION_MNIST,
    "mnist": idx.MNIST,
    "cifar10": cifar.CIFAR10,
    "cifar100": cifar.CIFAR100,
    "svhn": svhn.SVHN,
    "stl10": stl10.STL10,
    "imagenette": folder.IMAGENETTE,
    "imagenet": folder.IMAGENET,
    "folder:PATH": folder.FOLDER,
    "parquet:PATH": parquet.PARQUET,
    "npz:PATH": npz.NPZ,
    "csv:PATH": csv_list.CSV,
    "zip:PATH": archive.ZIP,
    "tar:PATH": archive.TAR,
    "webdataset:PATH": webdataset.WEBDATASET,
    "hf:ORG/NAME": hub.HUB,
    "scenes": scenes.SCENES,
    "scenes_textured": scenes.SCENES_TEXTURED,
    "scenes_fashion": scenes.SCENES_FASHION,
    "fake": fake.FAKE,
    "fake_colour": fake.FAKE_COLOUR,
}
"""Allowed values of `data.name`. A name with a colon takes an argument."""

FACTS_VERSION = 5
"""Raised when the same files give other facts than before; part of every cached entry's name."""


@dataclass(frozen=True)
class DataFiles:
    """A data set on this machine: its source, its files, and where its facts are cached.

    `stamp` is a digest of the sizes and times of the files, and of how they are read.
    """

    name: str
    argument: str
    source: Source
    files: Files
    num_bytes: int
    cache_file: Path
    reading: Reading
    stamp: str

    def load(self) -> Raw:
        """What the source reads from the files."""
        return self.reading.apply(self.source.load(self.argument, self.files))


def find(name: str) -> tuple[str, str, Source]:
    """Canonical name, argument and source of `data.name`; InputError with the nearest names if it is not allowed."""
    canonical = name.removeprefix("torch/")
    kind, colon, argument = parse_reading(canonical)[0].partition(":")
    sources = {allowed.partition(":")[0]: (allowed, source) for allowed, source in DATASETS.items()}
    if kind in sources and (":" in sources[kind][0]) == bool(colon):
        return canonical, argument if colon else kind, sources[kind][1]
    hint = _path_hint(name) or nearest(kind, sources) or f" Allowed: {', '.join(DATASETS)}"
    raise InputError(f"data.name: no data set {name!r}.{hint}")


def _path_hint(name: str) -> str:
    """What to write for a path that stands without its kind; empty if `name` is not a path."""
    path = Path(name).expanduser()
    if not name.strip(".") or not path.exists():
        return ""
    if path.is_dir():
        kind = "parquet" if any(path.glob("*.parquet")) else "folder"
    else:
        kind = folder.KINDS.get(path.suffix.lower(), "")
    return f" Did you mean '{kind}:{name}'?" if kind else ""


def locate(name: str, options: DataOptions) -> DataFiles:
    """The files of a data set. Raises InputError."""
    canonical, argument, source = find(name)
    files = source.locate(argument, options)
    reading, num_bytes = parse_reading(canonical)[1], 0
    key = hashlib.sha256("\n".join([str(FACTS_VERSION), canonical]).encode())
    stamp = hashlib.sha256(repr(reading).encode())
    for path in files:
        try:
            stat = path.stat()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        key.update(f"\n{path.absolute()} {stat.st_size} {stat.st_mtime_ns}".encode())
        stamp.update(f"\n{stat.st_size} {stat.st_mtime_ns}".encode())
        num_bytes += stat.st_size
    cache_file = cache_folder(options) / "facts" / f"{key.hexdigest()[:32]}.json"
    return DataFiles(canonical, argument, source, files, num_bytes, cache_file, reading, stamp.hexdigest())


def facts(name: str, options: DataOptions) -> Facts:
    """The facts of a data set; from the cache if the files have the sizes and times of an earlier reading."""
    data_files = locate(name, options)
    return _cached_facts(data_files) or _open(data_files).facts


def open_images(name: str, options: DataOptions) -> ImageData:
    """Facts and images; the fingerprint is that of the images as they are now."""
    return _open(locate(name, options))


def _open(data_files: DataFiles) -> ImageData:
    cached = _cached_facts(data_files)
    data = assemble(data_files.name, data_files.source, data_files.load(), data_files.num_bytes, cached)
    if data.facts != cached:
        keep_facts(data_files, data.facts)
    return replace(data, stamp=data_files.stamp)


def keep_facts(data_files: DataFiles, facts: Facts) -> None:
    """Cache the facts; of a set without files nothing is cached."""
    if data_files.files:
        write_aside(json.dumps(asdict(facts)), data_files.cache_file)


def _cached_facts(data_files: DataFiles) -> Facts | None:
    """The cached facts of these files, or None."""
    try:
        content = json.loads(data_files.cache_file.read_text()) if data_files.files else None
        return Facts(**{key: _as_tuples(value) for key, value in content.items()}) if content else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _as_tuples(value: Any) -> Any:
    """JSON's lists as the tuples that `Facts` has."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def cache_folder(options: DataOptions) -> Path:
    """Where facts about data sets are cached; it need not exist."""
    return Path(options.cache_dir or os.environ.get("VITBENCH_CACHE_DIR") or Path.home() / ".cache" / "vitbench")


def write_aside(text: str, path: Path) -> None:
    """Write a cache entry beside its place and rename it into it, so that no reader sees half of it.

    A cache that cannot be written is no error: the facts are computed again next time.
    """
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(aside, path)
