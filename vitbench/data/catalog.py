"""The table of data sets, and the two ways in: `facts` (cheap when seen before) and `open_images`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from vitbench.base.errors import InputError, nearest
from vitbench.data.cache import cache_folder, write_aside
from vitbench.data.fingerprint import assemble
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
    stl10,
    svhn,
    webdataset,
)
from vitbench.data.source import Files, Source
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
    "fake": fake.FAKE,
    "fake_colour": fake.FAKE_COLOUR,
}
"""What may stand in `data.name`. A name with a colon takes an argument."""

FACTS_VERSION = 3
"""Raised when the same files come to give other facts; part of every cached entry's name."""


def find(name: str) -> tuple[str, str, Source]:
    """Canonical name, argument and source of `data.name`; InputError with the nearest names where there is none."""
    kind, colon, argument = name.removeprefix("torch/").partition(":")
    sources = {known.partition(":")[0]: (known, source) for known, source in DATASETS.items()}
    if kind in sources and (":" in sources[kind][0]) == bool(colon):
        return kind + colon + argument, argument if colon else kind, sources[kind][1]
    hint = nearest(kind, sources) or f" Known: {', '.join(DATASETS)}"
    raise InputError(f"data.name: no data set {name!r}.{hint}")


def facts(name: str, options: DataOptions) -> Facts:
    """The facts of a data set; from the cache where the files' sizes and times are those of an earlier reading."""
    canonical, argument, source = find(name)
    files = source.locate(argument, options)
    return _recall(canonical, files, options) or _open(canonical, argument, source, files, options).facts


def open_images(name: str, options: DataOptions) -> ImageData:
    """Facts and images; the fingerprint is that of the images as they are now."""
    canonical, argument, source = find(name)
    return _open(canonical, argument, source, source.locate(argument, options), options)


def _open(canonical: str, argument: str, source: Source, files: Files, options: DataOptions) -> ImageData:
    known = _recall(canonical, files, options)
    total_bytes = sum(path.stat().st_size for path in files)
    data = assemble(canonical, source, source.load(argument, files), total_bytes, known)
    if files and data.facts != known:
        write_aside(json.dumps(asdict(data.facts)), _cache_file(canonical, files, options))
    return data


def _cache_file(canonical: str, files: Files, options: DataOptions) -> Path:
    """Where the facts of these files, at these sizes and times, are kept."""
    stamps = [f"{path.absolute()} {stat.st_size} {stat.st_mtime_ns}" for path in files for stat in [path.stat()]]
    key = hashlib.sha256("\n".join([str(FACTS_VERSION), canonical, *stamps]).encode()).hexdigest()
    return cache_folder(options) / "facts" / f"{key[:32]}.json"


def _recall(canonical: str, files: Files, options: DataOptions) -> Facts | None:
    """The cached facts of these files, if there are any; a set without files is never cached."""
    try:
        content = json.loads(_cache_file(canonical, files, options).read_text()) if files else None
        if not content:
            return None
        lists = {key: tuple(content[key]) for key in ("class_names", "class_counts")}
        return Facts(**{**content, **lists})
    except (OSError, ValueError, TypeError, KeyError):
        return None
