"""Writing files so that a crash leaves the old file or the new one, never a part of one."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from vitbench.base.errors import NoSpaceError, ResultsError
from vitbench.base.fault_injection import fault

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
PIECE_BYTES = 1 << 14


def make_folder(path: Path) -> None:
    """Create a folder and its parents. Raises NoSpaceError or ResultsError with a clear line."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(path, error) from error


def write_durably(path: Path, content: bytes, what: str = "file") -> None:
    """Write and flush to the disk; on a full disk the partial file is removed. Raises NoSpaceError.

    `what` names the fault points: a test may end the process after any PIECE_BYTES.
    """
    view = memoryview(content)
    try:
        with path.open("wb", buffering=0) as handle:
            for start in range(0, len(content), PIECE_BYTES):
                _write_all(handle, view[start : start + PIECE_BYTES])
                fault(f"{what}.mid_write")
            os.fsync(handle.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise disk_error(path, error) from error


def _write_all(handle: FileIO, piece: memoryview) -> None:
    """Write the whole piece: the kernel may take a part of it, and says only at the next call why."""
    while piece:
        piece = piece[handle.write(piece) :]


def replace_durably(path: Path, content: bytes, what: str = "file", aside: Path | None = None) -> None:
    """Replace a derived file in one step: the old one or the new one is there, never a part.

    It is written to `aside` first, on the same file system; by default beside it, under this process's number.
    """
    make_folder(path.parent)
    aside = aside or path.with_name(f".{path.name}.{os.getpid()}")
    write_durably(aside, content, what)
    fault(f"{what}.before_rename")
    try:
        os.replace(aside, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise disk_error(path, error) from error


def require_space(folder: Path, num_bytes: int) -> None:
    """Raises NoSpaceError where the disk has less free than `num_bytes`, which are about to be written to it."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise NoSpaceError(
            f"{folder}: {free / 2**20:.0f} MiB free, {num_bytes / 2**20:.0f} MiB needed for checkpoints; "
            "finished trials are safe, and with space the same command goes on"
        )


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the disk as errors of ours; that a file exists is for the caller."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise disk_error(path, error) from error


def disk_error(path: Path, error: OSError) -> NoSpaceError | ResultsError:
    """The error to raise where writing failed: no space, or no permission and the like."""
    if error.errno in NO_SPACE:
        return NoSpaceError(f"{path}: no space left on the disk or in the quota; finished trials are safe")
    return ResultsError(f"{path}: cannot write ({error.strerror or error})")
