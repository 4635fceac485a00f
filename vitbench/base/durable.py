"""Writing files so that a crash leaves the old file or the new file, never a part of one."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path

from vitbench.base.contained import check_folders, check_target, create
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


def write_durably(path: Path, content: bytes | memoryview, what: str = "file") -> None:
    """Create a file and flush it to the disk; on a full disk the partial file is removed. Raises NoSpaceError.

    `what` names the fault points: a test may end the process after any PIECE_BYTES.
    """
    view = memoryview(content)
    try:
        with create(path) as handle:
            for start in range(0, len(content), PIECE_BYTES):
                _write_all(handle, view[start : start + PIECE_BYTES])
                fault(f"{what}.mid_write")
            os.fsync(handle.fileno())
    except OSError as error:
        _discard([path])
        raise disk_error(path, error) from error


def _write_all(handle: FileIO, piece: memoryview) -> None:
    """Write the whole piece: the kernel may take a part of it, and reports the reason only at the next call."""
    while piece:
        piece = piece[handle.write(piece) :]


def replace_durably(path: Path, content: bytes | memoryview, what: str = "file", aside: Path | None = None) -> None:
    """Replace a file in one step: the old file or the new file is there, never a part of one.

    The content is written to `aside` first, on the same file system; by default a file beside `path` whose name holds
    the number of this process. Raises ResultsError if `path` is a link or no regular file.
    """
    make_folder(path.parent)
    check_target(path)
    aside = aside or _aside(path)
    write_durably(aside, content, what)
    fault(f"{what}.before_rename")
    with _renaming(path, [aside]):
        os.replace(aside, path)
        sync_folder(path.parent)


def replace_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace several files of a folder (relative name -> content): no file changes before all are on the disk.

    A full disk therefore leaves every old file as it was. Raises NoSpaceError, or ResultsError if a target or a
    folder on its way is a link.
    """
    targets = {folder / name: content for name, content in files.items()}
    for path in targets:
        check_folders(folder, path.parent)
        make_folder(path.parent)
        check_target(path)
    asides: list[Path] = []
    for path, content in targets.items():
        asides.append(_aside(path))
        try:
            write_durably(asides[-1], content)
        except (NoSpaceError, ResultsError) as error:
            _discard(asides)
            raise type(error)(str(error).replace(str(asides[-1]), str(path))) from error
    for path, aside in zip(targets, asides, strict=True):
        with _renaming(path, asides):
            os.replace(aside, path)
    for parent in {path.parent for path in targets}:
        with _renaming(parent, asides):
            sync_folder(parent)


def _aside(path: Path) -> Path:
    """Where the new content of a file is written first. `vitbench clean` knows these names."""
    return path.with_name(f".{path.name}.{os.getpid()}")


@contextlib.contextmanager
def _renaming(path: Path, asides: list[Path]) -> Iterator[None]:
    """Turn an error of the disk into an error of ours, after removing what was written aside."""
    try:
        yield
    except OSError as error:
        _discard(asides)
        raise disk_error(path, error) from error


def _discard(paths: list[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def require_space(
    folder: Path,
    num_bytes: int,
    what: str = "checkpoints",
    advice: str = "finished trials are kept, free some space and run the same command again",
) -> None:
    """Raise NoSpaceError if the disk has less free space than the `num_bytes` that are about to be written."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise NoSpaceError(f"{folder}: {size_words(free)} free, {what} need {size_words(num_bytes)}; {advice}")


def size_words(num_bytes: int) -> str:
    """`3 bytes`, `1.5 KiB`, `20.0 MiB`, `3.1 GiB`."""
    if num_bytes < 2**10:
        return f"{num_bytes} bytes"
    unit, scale = next((u, s) for u, s in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)) if num_bytes >= s)
    return f"{num_bytes / scale:.1f} {unit}"


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the disk into errors of ours; FileExistsError passes: its meaning depends on the caller."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise disk_error(path, error) from error


def disk_error(path: Path, error: OSError) -> NoSpaceError | ResultsError:
    """The error to raise after a failed write: no space, or anything else (no permission, read-only)."""
    if error.errno in NO_SPACE:
        return NoSpaceError(f"{path}: no space left on the disk or in the quota; finished trials are kept")
    return ResultsError(f"{path}: cannot write ({error.strerror or error})")
