"""Prepared images: the images of a data set, decoded once, for all processes of a host.

They have one size, or their original sizes (height and width 0).
`prepared/<fingerprint>-<height>x<width>x<channels>/` (or `-original-<channels>/`) of the cache folder holds `set.json`
(what is prepared) and shards `train-00012-<sha256>.u8`: raw pixels, images in the order that the fingerprint fixes.
`vitbench prepare` writes it (`data/preparation.py`). A set that does not fit the images, the size or the decoder at
hand is not used, and `why_not` says why; the images are then decoded from their files, to the same pixels.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
from PIL import features

from vitbench.base.durable import replace_durably
from vitbench.base.errors import VitbenchError
from vitbench.data.catalog import cache_folder
from vitbench.data.shards import Shards
from vitbench.data.types import DataOptions, Facts, ImageData, Split
from vitbench.spec.trial import sides, size_words

FORMAT = 1
"""Raised when the files of a set, or the pixels that decoding gives, change."""
SHARD_BYTES = 128 * 2**20
MOST_PER_SHARD = 2048
"""Smaller shards of small images, so that processes can share the work and a kill loses little of it."""
SET_FILE, CHECKED_FILE = "set.json", "checked.json"
SHARD_NAME = re.compile(r"((?:train|test)-\d{5,})-([0-9a-f]{64})\.u8")
CODECS = ("jpg", "jpg_2000", "zlib", "libtiff", "webp", "avif")

Part = Literal["train", "test"]
ImgSize = int | tuple[int, int]


@dataclass(frozen=True)
class ShardPlace:
    """One shard of a set: images `first` to `first + count - 1` of a split."""

    part: Part
    number: int
    first: int
    count: int

    @property
    def stem(self) -> str:
        """The file's name without the checksum."""
        return f"{self.part}-{self.number:05d}"


@dataclass(frozen=True)
class Contents:
    """What a set holds. `files_stamp` is empty where the fingerprint is that of the files' content.

    `image_bytes` are those of one image, on average; 0 if it is not known yet how large whole images are.
    """

    name: str
    fingerprint: str
    height: int
    width: int
    in_chans: int
    num_train: int
    num_test: int
    image_bytes: int
    files_stamp: str
    decoder: str
    format: int = FORMAT

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one image."""
        return self.height, self.width, self.in_chans

    @property
    def per_shard(self) -> int:
        """Images per shard; the last one of a split holds the rest."""
        return max(1, min(SHARD_BYTES // max(1, self.image_bytes), MOST_PER_SHARD))

    @property
    def num_images(self) -> int:
        """Training and test images."""
        return self.num_train + self.num_test

    @property
    def num_bytes(self) -> int:
        """Bytes of all pixels; of whole images, about."""
        return self.num_images * self.image_bytes

    @property
    def is_whole(self) -> bool:
        """Whether images have their original sizes."""
        return self.height == 0

    @property
    def words(self) -> str:
        """`10,000 images of 224 x 224 px`."""
        return f"{self.num_images:,} images {self.form}"

    @property
    def form(self) -> str:
        """`of 224 x 224 px`."""
        size = "in their original sizes" if self.is_whole else f"of {size_words((self.height, self.width))} px"
        return f"{size}, grey" if self.in_chans == 1 else size

    def places(self, part: Part) -> list[ShardPlace]:
        """The shards of a split."""
        total = self.num_train if part == "train" else self.num_test
        firsts = range(0, total, self.per_shard)
        return [
            ShardPlace(part, number, first, min(self.per_shard, total - first)) for number, first in enumerate(firsts)
        ]

    def all_places(self) -> list[ShardPlace]:
        """The shards of both splits."""
        return [*self.places("train"), *self.places("test")]


@functools.cache
def decoder() -> str:
    """The versions on which decoded pixels depend."""
    turbo = features.version_feature("libjpeg_turbo")
    libraries = [f"{name} {version}" for name in CODECS if (version := features.version(name))]
    return ", ".join([f"Pillow {PIL.__version__}", *([f"libjpeg-turbo {turbo}"] if turbo else []), *libraries])


def contents_of(facts: Facts, stamp: str, img_size: ImgSize | None, in_chans: int | None = None) -> Contents:
    """What a set of these images holds; `stamp` is that of their files, and None the original sizes."""
    height, width = (0, 0) if img_size is None else sides(img_size)
    return Contents(
        name=facts.name,
        fingerprint=facts.fingerprint,
        height=height,
        width=width,
        in_chans=in_chans or facts.in_chans,
        num_train=facts.num_train,
        num_test=facts.num_test,
        image_bytes=height * width * (in_chans or facts.in_chans),
        files_stamp=stamp if facts.fingerprint_note else "",
        decoder=decoder(),
    )


@dataclass(frozen=True)
class PreparedSet:
    """The folder in which the images of `contents` are, or would be."""

    folder: Path
    contents: Contents

    @classmethod
    def of(cls, contents: Contents, options: DataOptions) -> PreparedSet:
        """The set of these contents in the cache folder."""
        size = f"original-{contents.in_chans}" if contents.is_whole else "x".join(map(str, contents.shape))
        folder = sets_folder(options) / f"{contents.fingerprint[:32]}-{size}"
        if contents.image_bytes == 0 and (written := read_contents(folder)):
            contents = replace(contents, image_bytes=written.image_bytes)
        return cls(folder, contents)

    def exists(self) -> bool:
        """Whether somebody began to prepare this set."""
        return (self.folder / SET_FILE).exists()

    def why_other(self) -> str | None:
        """Why the shards of the folder are not those of `contents`; None if they are, as far as they exist."""
        written = read_contents(self.folder)
        if written is None:
            return f"{SET_FILE} is damaged"
        if written.format != self.contents.format:
            return f"it has format {written.format}, this vitbench reads {self.contents.format}"
        if written.decoder != self.contents.decoder:
            return f"it was decoded by {written.decoder}; here is {self.contents.decoder}"
        if written.files_stamp != self.contents.files_stamp:
            return "the times or sizes of the image files have changed since"
        return None if replace(written, name=self.contents.name) == self.contents else "it holds other images"

    def files(self) -> dict[str, Path]:
        """The finished shards by stem. A shard has its name only when it is whole on the disk."""
        matches = ((SHARD_NAME.fullmatch(name), name) for name in _names(self.folder))
        return {match[1]: self.folder / name for match, name in matches if match}

    def why_not(self) -> str | None:
        """Why the set cannot be used; None if it is whole.

        A shard's checksum is compared once; afterwards its size and time decide whether it is compared again.
        """
        if reason := self.why_other():
            return reason
        files, places = self.files(), self.contents.all_places()
        missing = sum(place.stem not in files for place in places)
        if missing:
            return f"it is incomplete: {len(places) - missing} of {len(places)} shards"
        checked = read_checked(self.folder)
        times: dict[str, int] = {}
        for place in places:
            path = files[place.stem]
            status = path.stat()
            num_bytes = place.count * math.prod(self.contents.shape)
            if status.st_size != num_bytes and not self.contents.is_whole:
                return f"{path.name} is truncated"
            times[path.name] = status.st_mtime_ns
            if checked.get(path.name) != status.st_mtime_ns and not is_whole(path):
                return f"{path.name} is damaged: its checksum is another"
        if times != checked:
            write_checked(self.folder, times)
        return None

    def split(self, split: Split, part: Part) -> Split:
        """A split of the same images, read from the shards."""
        files, places = self.files(), self.contents.places(part)
        paths = tuple(files[place.stem] for place in places)
        shards = Shards(paths, self.contents.per_shard, self.contents.shape, np.arange(len(split)))
        return replace(split, images=None, encoded=None, shards=shards)


def with_prepared(data: ImageData, img_size: ImgSize | None, options: DataOptions) -> ImageData:
    """The same images as prepared for this size, else as prepared in their original sizes (None: only these).

    `data` itself if they are not prepared, or if the sets cannot be used.
    """
    if not sets_folder(options).is_dir():
        return data
    for size in dict.fromkeys((img_size, None)):
        prepared = PreparedSet.of(contents_of(data.facts, data.stamp, size), options)
        with suppress(OSError):  # A shard that vanished.
            if prepared.exists() and prepared.why_not() is None:
                train, test = prepared.split(data.train, "train"), prepared.split(data.test, "test")
                return replace(data, train=train, test=test)
    return data


def sets_folder(options: DataOptions) -> Path:
    """Where prepared images are; it need not exist."""
    return cache_folder(options) / "prepared"


def prepared_sets(options: DataOptions) -> Iterator[PreparedSet]:
    """The sets in the cache folder whose `set.json` can be read, with what it says."""
    for name in sorted(_names(sets_folder(options))):
        folder = sets_folder(options) / name
        contents = read_contents(folder)
        if contents is not None:
            yield PreparedSet(folder, contents)


def read_contents(folder: Path) -> Contents | None:
    """What `set.json` says; None if it cannot be read. Only the format of a set of another format is right."""
    try:
        written = json.loads((folder / SET_FILE).read_text())
        if written["format"] != FORMAT:
            return Contents("", "", 0, 0, 0, 0, 0, 0, "", "", int(written["format"]))
        contents = Contents(**written)
        kinds = Contents.__annotations__
        is_right = all(type(value).__name__ == kinds[key] for key, value in asdict(contents).items())
        least = min(contents.height, contents.width, contents.in_chans - 1, contents.image_bytes - 1)
        return contents if is_right and least >= 0 else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def is_whole(path: Path) -> bool:
    """Whether a shard has the content that its name says."""
    match = SHARD_NAME.fullmatch(path.name)
    with path.open("rb") as file:
        return match is not None and hashlib.file_digest(file, "sha256").hexdigest() == match[2]


def read_checked(folder: Path) -> dict[str, int]:
    """The times of the shards whose checksum was compared, in nanoseconds by file name."""
    with suppress(OSError, ValueError):
        checked = json.loads((folder / CHECKED_FILE).read_text())
        return checked if isinstance(checked, dict) else {}
    return {}


def write_checked(folder: Path, times: dict[str, int]) -> None:
    """Remember the times of shards whose checksum was compared; no error if the folder cannot be written."""
    with suppress(OSError, VitbenchError):
        replace_durably(folder / CHECKED_FILE, json.dumps(times).encode())


def _names(folder: Path) -> list[str]:
    """The names of a folder's entries; none if there is no such folder."""
    with suppress(OSError):
        return os.listdir(folder)
    return []
