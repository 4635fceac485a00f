"""Decode the images of a data set once, to one size, into shards (`data/prepared.py` reads them).

Each process decodes whole shards. A shard is written aside, flushed and renamed, with the checksum in its name, so a
kill costs the shards in progress and nothing else. One command at a time works on a set.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Literal

import numpy as np

from vitbench.base.durable import replace_durably, require_space
from vitbench.base.errors import IncompleteError, InputError, NoSpaceError, ResultsError, VitbenchError
from vitbench.base.fault_injection import fault
from vitbench.base.signals import Stopped, obey_parent
from vitbench.data.decode import centre_crop
from vitbench.data.prepared import (
    CHECKED_FILE,
    SET_FILE,
    ImgSize,
    PreparedSet,
    ShardPlace,
    contents_of,
    is_whole,
    write_checked,
)
from vitbench.data.shards import whole_header
from vitbench.data.types import DataOptions, ImageData

ELSEWHERE = "VITBENCH_CACHE_DIR names another folder"
ASIDE = re.compile(r"\.(?:train|test|set|checked)\b.*\.\d+")
"""Names of files that a killed process was writing."""
SAMPLED = 64
"""Images whose sizes tell how many whole images make a shard."""
LOCK_FILE = "lock"
LOCK_SECONDS = 3.0
"""How long a killed command's processes may take to notice it and let go of the lock."""
END_SECONDS = 10.0


@dataclass(frozen=True)
class ShardDone:
    """A shard that is in its place: decoded now, or kept from an earlier command."""

    place: ShardPlace
    name: str
    mtime_ns: int
    how: Literal["decoded", "kept"]


@dataclass(frozen=True)
class Preparation:
    """Which images become which set, and with how many processes."""

    data: ImageData
    prepared: PreparedSet
    jobs: int

    @classmethod
    def of(cls, data: ImageData, img_size: ImgSize | None, options: DataOptions, jobs: int) -> Preparation:
        """The set of these images at a size, or in their original sizes (None).

        Raises InputError for images that are stored as pixels of that size.
        """
        contents = contents_of(data.facts, data.stamp, img_size)
        if data.train.images is not None and (img_size is None or data.train.images.shape[1:] == contents.shape):
            raise InputError(f"{data.facts.name}: is stored as pixels of this size; there is nothing to prepare")
        prepared = PreparedSet.of(contents, options)
        if contents.is_whole and not (prepared.exists() and prepared.why_other() is None):
            prepared = PreparedSet.of(replace(contents, image_bytes=_mean_bytes(data)), options)
        return cls(data, prepared, jobs)

    def run(self) -> Iterator[ShardDone]:
        """Decode what is missing, shard by shard, in any order. Kept shards are compared with their checksums.

        Raises InputError (an image cannot be decoded, the folder cannot be written), NoSpaceError, and IncompleteError
        (another command is at work, or a process was lost).
        """
        folder, contents = self.prepared.folder, self.prepared.contents
        with _writing(folder), _locked(folder):
            _remove(path for path in folder.iterdir() if ASIDE.fullmatch(path.name))
            if self.prepared.exists() and self.prepared.why_other():
                _remove([*self.prepared.files().values(), folder / CHECKED_FILE, folder / SET_FILE])
            files, places = self.prepared.files(), contents.all_places()
            num_missing = sum(place.count for place in places if place.stem not in files)
            num_bytes = num_missing * contents.num_bytes // contents.num_images
            require_space(folder, num_bytes, "prepared images", f"free some space; {ELSEWHERE}")
            replace_durably(folder / SET_FILE, json.dumps(asdict(contents), indent=1).encode())
            times = {}
            for done in _distributed(self, places):
                times[done.name] = done.mtime_ns
                yield done
            write_checked(folder, times)


def _mean_bytes(data: ImageData) -> int:
    """Bytes of a decoded image, from a few that are spread over the set. Raises InputError."""
    rows = np.linspace(0, len(data.train) - 1, min(SAMPLED, len(data.train)), dtype=int)
    return max(1, sum(data.train.read(int(row)).size for row in rows) // len(rows))


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Create the folder; errors of the disk say what to do about a cache folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except NoSpaceError as error:
        text = str(error).replace("; finished trials are kept", "; finished shards are kept")
        raise NoSpaceError(text) from error
    except ResultsError as error:
        raise InputError(f"{error}; {ELSEWHERE}") from error
    except OSError as error:
        raise InputError(f"{error.filename or folder}: cannot write ({error.strerror}); {ELSEWHERE}") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the set's lock. Raises IncompleteError if another command keeps it."""
    until = time.monotonic() + LOCK_SECONDS
    with (folder / LOCK_FILE).open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise IncompleteError(f"{folder}: another `vitbench prepare` is at work") from None
                time.sleep(0.1)
        yield


def _remove(paths: Sequence[Path] | Iterator[Path]) -> None:
    for path in paths:
        with suppress(FileNotFoundError):
            path.unlink()


def _distributed(preparation: Preparation, places: Sequence[ShardPlace]) -> Iterator[ShardDone]:
    """Every shard, by `jobs` processes; the next shard goes to the first that is idle."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    pending = list(reversed(places))
    processes = []
    busy: dict[Connection, ShardPlace] = {}
    try:
        for _ in range(min(preparation.jobs, len(places))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, ours, preparation, os.getpid()), daemon=True)
            process.start()
            processes.append(process)
            theirs.close()
            busy[ours] = pending.pop()
            ours.send(busy[ours])
        while busy:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                place = busy.pop(connection)
                yield _answer(connection, place)
                if pending:
                    busy[connection] = pending.pop()
                    connection.send(busy[connection])
                else:
                    connection.close()
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        for process in processes:
            process.join(END_SECONDS)
            if process.is_alive():
                process.kill()


def _answer(connection: Connection, place: ShardPlace) -> ShardDone:
    """What a process says of its shard. Raises the error that it met."""
    try:
        answer = connection.recv()
    except (EOFError, OSError) as error:
        text = f"the process that decodes {place.stem} was lost (killed, or out of memory); finished shards are kept"
        raise IncompleteError(f"{text}; the same command goes on, -j 1 takes less memory") from error
    if isinstance(answer, VitbenchError):
        raise answer
    assert isinstance(answer, ShardDone)
    return answer


def _serve(connection: Connection, parents: Connection, preparation: Preparation, parent: int) -> None:
    """Decode shard after shard until the pipe closes, or the parent is gone."""
    parents.close()  # Else the pipe would never close.
    obey_parent()
    with suppress(Stopped, EOFError, OSError):
        while True:
            place: ShardPlace = connection.recv()
            try:
                answer: ShardDone | VitbenchError = _done(preparation, place, parent)
            except VitbenchError as error:
                answer = error
            connection.send(answer)


def _done(preparation: Preparation, place: ShardPlace, parent: int) -> ShardDone:
    """A shard in its place: kept if it is whole, else decoded."""
    prepared = preparation.prepared
    path = prepared.files().get(place.stem)
    if path is not None and is_whole(path):
        return ShardDone(place, path.name, path.stat().st_mtime_ns, "kept")
    if path is not None:
        _remove([path])
    content = memoryview(b"".join(_content(preparation, place, parent)))
    path = prepared.folder / f"{place.stem}-{hashlib.sha256(content).hexdigest()}.u8"
    replace_durably(path, content, "shard")
    return ShardDone(place, path.name, path.stat().st_mtime_ns, "decoded")


def _content(preparation: Preparation, place: ShardPlace, parent: int) -> list[bytes]:
    """The pieces of a shard's file. Raises InputError; ends the process if the parent is gone."""
    contents = preparation.prepared.contents
    split = preparation.data.train if place.part == "train" else preparation.data.test
    pieces, shapes = list[bytes](), list[tuple[int, ...]]()
    for i in range(place.first, place.first + place.count):
        if os.getppid() != parent:
            raise SystemExit(1)
        image = split.read(i)
        if contents.is_whole:
            shapes.append(image.shape)
            pieces.append(image.tobytes())
        else:
            pieces.append(centre_crop(image, contents.shape[:2]).transpose(2, 0, 1).tobytes())
        fault("prepare.image")
    return [whole_header(shapes), *pieces] if contents.is_whole else pieces
