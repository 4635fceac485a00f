"""Files and folders of a results folder: regular ones only, and no link is followed.

A results folder may come from somebody else. A symbolic link in it could lead a write or a removal outside, a hard link
could make two names share one content, and a pipe keeps its reader waiting. The results root itself and a run's folder
may be links: the user chose them. These checks hold for a folder as it lies on the disk; they do not protect against
somebody who changes it at the same moment.
"""

from __future__ import annotations

import contextlib
import os
import stat
from io import FileIO
from pathlib import Path

from vitbench.base.errors import ResultsError

MAX_FILE_BYTES = 1 << 30
"""The largest file that is read whole. The committed results hold at most 1 MB per file."""
_KINDS = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def check_folders(root: Path, folder: Path) -> None:
    """Raise ResultsError if a part of `folder` below `root` exists and is no folder of its own."""
    path = root
    for part in folder.relative_to(root).parts:
        path = path / part
        try:
            mode = status_of(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return
        if not stat.S_ISDIR(mode):
            raise ResultsError(f"{path}: {_kind(mode)} where a folder is expected; move it away")


def check_target(path: Path) -> None:
    """Raise ResultsError if `path` exists and may not be replaced: no regular file, or one with several names."""
    try:
        _check(path, status_of(path), to_write=True)
    except FileNotFoundError:
        return


def exists(path: Path) -> bool:
    """True for a regular file. Raises ResultsError for anything else of this name, a broken link included."""
    try:
        _check(path, status_of(path))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def create(path: Path) -> FileIO:
    """A new file, open for writing. What an interrupted process left under this name is removed, never written to."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    return FileIO(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "w")


def open_lock(path: Path) -> FileIO:
    """A file to lock, created if it is missing; its content is not touched. Raises ResultsError for a link."""
    check_target(path)
    file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666), "r+")
    _check(path, os.fstat(file.fileno()), to_write=True)
    return file


def open_to_read(path: Path) -> FileIO:
    """A regular file, open for reading. Raises FileNotFoundError, ResultsError for anything that is no regular file."""
    _check(path, status_of(path))  # Before it is opened: to open a device may already have an effect.
    try:
        file = FileIO(os.open(path, _READ), "r")
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ResultsError(f"{path}: cannot be read ({error.strerror or error})") from error
    _check(path, os.fstat(file.fileno()))
    return file


def read(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """The content of a regular file. Raises FileNotFoundError; ResultsError if it is larger, or no regular file."""
    with open_to_read(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise ResultsError(f"{path}: {size:,} bytes, at most {max_bytes:,} are read")
        return file.readall()


def read_text(path: Path, max_bytes: int = MAX_FILE_BYTES) -> str:
    """As `read`, as UTF-8 text; raises ResultsError also for other bytes."""
    try:
        return read(path, max_bytes).decode()
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path}: not UTF-8 text (byte {error.start})") from error


def status_of(path: Path) -> os.stat_result:
    """The status of a link itself, not of its target. Raises OSError; ResultsError without permission."""
    try:
        return path.lstat()
    except PermissionError as error:
        raise ResultsError(f"{path}: cannot be read ({error.strerror})") from error


def _check(path: Path, status: os.stat_result, *, to_write: bool = False) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ResultsError(f"{path}: {_kind(status.st_mode)} where a file is expected; move it away")
    if to_write and status.st_nlink > 1:
        raise ResultsError(
            f"{path}: a file with {status.st_nlink} names (hard links), which is not written; replace it by a copy"
        )


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "a device" if not stat.S_ISREG(mode) else "a file")
