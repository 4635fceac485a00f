"""One copy of the resident images for all trial processes of a command, in memory without a file name.

The command creates an empty memory file per set of images and passes its number on; the first trial process that needs
the set fills it, the others map it. The kernel frees the memory with the last process, however that one ends.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import pickle
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import reduction
from typing import Any

from vitbench.spec.trial import DataSpec

HEADER = struct.Struct("<QQ")
"""Bytes of the pickle (0: not filled yet) and number of its buffers; then come the buffers' sizes, and the bytes."""
SIZE = struct.Struct("<Q")
PAGE = mmap.PAGESIZE
MOST_SETS = 16
"""Sets of images of one command that are shared; a further one is read by every process for itself."""

Fields = Mapping[str, Any]


def set_key(spec: DataSpec) -> str:
    """What decides the pixels of a set of images in one command."""
    return f"{spec.name} {spec.img_size} {spec.in_chans}"


class SharedImages:
    """The memory files of a command, by set of images. They travel to child processes as open files."""

    def __init__(self, files: Mapping[str, int] | None = None) -> None:
        self._files = dict(files or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, ({key: reduction.DupFd(file) for key, file in self._files.items()},)

    def hold(self, specs: Iterable[DataSpec]) -> None:
        """Have an empty memory file for each new set of images; release the sets that are not among them."""
        if sys.platform != "linux":
            return
        keys = list(dict.fromkeys(set_key(spec) for spec in specs))[:MOST_SETS]
        for key in self._files.keys() - set(keys):
            os.close(self._files.pop(key))
        for key in keys:
            if key not in self._files:
                self._files[key] = os.memfd_create("vitbench-images")

    def fields(self, spec: DataSpec, read: Callable[[], Fields | None]) -> Fields | None:
        """What `read` returns, from shared memory where possible; None, if it returns that, is not shared.

        A process that writes to an array changes its own copy only.
        """
        file = self._files.get(set_key(spec))
        if file is None:
            return read()
        with _locked(file):
            if not _is_filled(file):
                fields = read()
                if fields is None or not _is_stored(file, fields):
                    return fields
            return _mapped(file)


def _received(files: Mapping[str, Any]) -> SharedImages:
    return SharedImages({key: file.detach() for key, file in files.items()})


@contextmanager
def _locked(file: int) -> Iterator[None]:
    """One process at a time; a lock ends with its process."""
    fcntl.lockf(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN)


def _is_filled(file: int) -> bool:
    header = os.pread(file, HEADER.size, 0)
    return len(header) == HEADER.size and HEADER.unpack(header)[0] > 0


def _is_stored(file: int, fields: Fields) -> bool:
    """Store the fields; False if there is too little shared memory, and each process keeps its own copy."""
    try:
        _fill(file, fields)
    except OSError:
        os.ftruncate(file, 0)
        return False
    return True


def _fill(file: int, fields: Fields) -> None:
    """Write the fields; the header comes last, so that a process that dies here leaves an empty file to the next."""
    buffers: list[pickle.PickleBuffer] = []
    text = pickle.dumps(dict(fields), protocol=5, buffer_callback=buffers.append)
    raws = [buffer.raw() for buffer in buffers]
    place = HEADER.size + SIZE.size * len(raws)
    _write(file, place, memoryview(text))
    place += len(text)
    for number, raw in enumerate(raws):
        place = -(-place // PAGE) * PAGE
        _write(file, HEADER.size + SIZE.size * number, memoryview(SIZE.pack(raw.nbytes)))
        _write(file, place, raw)
        place += raw.nbytes
    os.ftruncate(file, place)
    _write(file, 0, memoryview(HEADER.pack(len(text), len(raws))))


def _write(file: int, place: int, content: memoryview) -> None:
    while content.nbytes:
        written = os.pwrite(file, content[: 1 << 30], place)
        place, content = place + written, content[written:]


def _mapped(file: int) -> Fields:
    memory = memoryview(mmap.mmap(file, 0, access=mmap.ACCESS_COPY))
    num_text, num_buffers = HEADER.unpack_from(memory)
    place = HEADER.size + SIZE.size * num_buffers
    sizes = [SIZE.unpack_from(memory, HEADER.size + SIZE.size * number)[0] for number in range(num_buffers)]
    text, buffers = memory[place : place + num_text], list[memoryview]()
    place += num_text
    for size in sizes:
        place = -(-place // PAGE) * PAGE
        buffers.append(memory[place : place + size])
        place += size
    fields: Fields = pickle.loads(text, buffers=buffers)
    return fields


shared = SharedImages()
"""Those of this process: the command's, or what a trial process was given."""


def take(given: SharedImages) -> None:
    """Use the memory files that the command passes to this process."""
    shared._files = given._files
