"""The files inside zip and tar archives, read in place: nothing is unpacked to disk, and sizes are bounded."""

from __future__ import annotations

import functools
import lzma
import os
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vitbench.base.errors import InputError
from vitbench.data.types import Ints

MAX_FILE_BYTES = 300_000_000
"""A larger file inside an archive is refused before it is unpacked."""
MAX_PACKED_BYTES = 4 * 2**30
"""A compressed tar archive has no random access, so its images are held in memory, up to this total."""
PACKED_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
)

KeepsName = Callable[[str], bool]


@dataclass(frozen=True)
class Entry:
    """One file inside an archive: its path, its size, and where to read it.

    `offset` is its first byte in a plain tar archive; `content` holds the bytes from a compressed one; `stored_name` is
    the name by which a zip archive knows it.
    """

    path: PurePosixPath
    num_bytes: int
    offset: int | None = None
    content: bytes | None = None
    stored_name: str = ""

    def read(self, archive: Path) -> bytes:
        """The file's bytes. Raises InputError if the archive is damaged or the size is another."""
        if self.content is not None:
            return self.content
        with _readable(f"{archive}, {self.path}"):
            if self.offset is None:
                with _opened_zip(archive, archive.stat().st_mtime_ns, os.getpid()).open(self.stored_name) as file:
                    content = file.read(self.num_bytes + 1)
            else:
                with archive.open("rb") as plain:
                    plain.seek(self.offset)
                    content = plain.read(self.num_bytes)
        if len(content) != self.num_bytes:
            raise InputError(f"{archive}, {self.path}: has another size than the archive's list says")
        return content


@dataclass(frozen=True)
class ArchiveImages:
    """Image files inside archives; row i is `entries[i]` of `archives[which[i]]`."""

    archives: tuple[Path, ...]
    which: Ints
    entries: tuple[Entry, ...]

    def name(self, row: int) -> str:
        """Archive and path inside it."""
        return f"{self.archives[int(self.which[row])]}, {self.entries[row].path}"

    def identity(self, row: int) -> str:
        """The path inside the archive, and the size."""
        return f"{self.entries[row].path} {self.entries[row].num_bytes}"

    def load(self, row: int) -> bytes:
        """The file's bytes."""
        return self.entries[row].read(self.archives[int(self.which[row])])


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """Turn the errors of damaged archives into one InputError."""
    try:
        yield
    except DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{where}: cannot be read ({reason})") from error


@functools.lru_cache(maxsize=8)
def _opened_zip(path: Path, _mtime_ns: int, _process_id: int) -> zipfile.ZipFile:
    """The open archive. Each process opens its own: after a fork, two would move one file position."""
    return zipfile.ZipFile(path)


def zip_entries(path: Path) -> tuple[Entry, ...]:
    """The files of a zip archive."""
    with _readable(str(path)), zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
    encrypted = next((info.filename for info in infos if info.flag_bits & 1), None)
    if encrypted is not None:
        raise InputError(f"{path}: {encrypted} is encrypted; unpack the archive with its password")
    entries = (
        Entry(_inner_path(info.filename, path), info.file_size, stored_name=info.filename) for info in infos
    )  # fmt: skip
    return _checked(entries, path)


def tar_entries(path: Path, keeps: KeepsName) -> tuple[Entry, ...]:
    """The files of a tar archive; of a compressed one only those whose names `keeps` accepts, with their bytes.

    Links are left out: what they lead to is not in the archive, or is there under another name.
    """
    with _readable(str(path)), path.open("rb") as file:
        packed = file.read(6).startswith(PACKED_MAGIC)
    with _readable(str(path)), tarfile.open(path, "r:*") as archive:
        members = (member for member in archive if member.isreg() and not member.issparse())
        return _checked(_packed(archive, members, keeps, path) if packed else _plain(members, path), path)


def _plain(members: Iterable[tarfile.TarInfo], path: Path) -> Iterator[Entry]:
    for member in members:
        yield Entry(_inner_path(member.name, path), member.size, offset=member.offset_data)


def _packed(
    archive: tarfile.TarFile, members: Iterable[tarfile.TarInfo], keeps: KeepsName, path: Path
) -> Iterator[Entry]:
    total = 0
    for member in members:
        if not keeps(member.name):
            continue
        total += member.size
        if total > MAX_PACKED_BYTES:
            raise InputError(
                f"{path}: more than {MAX_PACKED_BYTES:,} bytes once unpacked; a plain .tar or a .zip is read in place"
            )
        _check_size(member.name, member.size, path)
        file = archive.extractfile(member)
        assert file is not None, "a regular file"
        yield Entry(_inner_path(member.name, path), member.size, content=file.read())


def _check_size(name: str, num_bytes: int, path: Path) -> None:
    if num_bytes > MAX_FILE_BYTES:
        raise InputError(f"{path}: {name} is {num_bytes:,} bytes; at most {MAX_FILE_BYTES:,} are read")


def _checked(entries: Iterable[Entry], path: Path) -> tuple[Entry, ...]:
    """The entries; InputError if one is too large, or if two have one path."""
    files = tuple(entries)
    for entry in files:
        _check_size(str(entry.path), entry.num_bytes, path)
    counts = Counter(entry.path for entry in files)
    repeated = next((name for name, count in counts.items() if count > 1), None)
    if repeated is not None:
        raise InputError(f"{path}: holds {counts[repeated]} files named {repeated}")
    return files


def _inner_path(name: str, path: Path) -> PurePosixPath:
    """The path below the archive's root; InputError if it leads out of it."""
    inner = PurePosixPath(name.replace("\\", "/"))
    if inner.is_absolute() or ".." in inner.parts or not inner.parts:
        raise InputError(f"{path}: the entry {name!r} leads out of the archive")
    return inner
