"""Walk a folder of files: skip hidden and system entries at every depth, count what is not read, refuse link cycles."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from vitbench.base.errors import InputError

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".apng", ".avif", ".avifs", ".blp", ".bmp", ".bw", ".cur", ".dcx", ".dds", ".dib", ".fit", ".fits", ".flc", ".fli",
    ".ftc", ".ftu", ".gbr", ".gif", ".icb", ".icns", ".ico", ".iim", ".im", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc",
    ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".msp", ".pbm", ".pcd", ".pcx", ".pfm", ".pgm", ".png", ".pnm", ".ppm",
    ".psd", ".pxr", ".qoi", ".ras", ".rgb", ".rgba", ".sgi", ".tga", ".tif", ".tiff", ".vda", ".vst", ".webp", ".xbm",
    ".xpm",
))
"""Suffixes of formats that Pillow decodes by itself; written out because asking Pillow loads all of its plug-ins."""

SYSTEM_NAMES = frozenset((
    "__macosx", "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "__pycache__",
    "lost+found", "system volume information", "thumbs.db", "desktop.ini", "ehthumbs.db",
))
"""Lower-case names of folders and files that operating systems and storage devices add."""
# fmt: on

FileKey = tuple[int, int]


def is_ignored(name: str) -> bool:
    """Whether an entry of this name is hidden (a leading dot) or belongs to the system."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def has_ignored_part(relative: PurePath) -> bool:
    """Whether any part of a path below the data set's folder is hidden or belongs to the system."""
    return any(is_ignored(part) for part in relative.parts)


def is_image_name(name: str) -> bool:
    """Whether the suffix is that of an image format."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


@dataclass
class LeftOut:
    """What a reader does not read: files by suffix, and the names of hidden or system entries."""

    suffixes: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)

    def add_file(self, name: str) -> None:
        """Count one file by its suffix."""
        self.suffixes[os.path.splitext(name)[1].lower() or "no suffix"] += 1

    def merge(self, other: LeftOut) -> None:
        """Add the counts of another walk."""
        self.suffixes += other.suffixes
        self.ignored += other.ignored

    def note(self) -> str | None:
        """One line for the user, or None if everything was read."""
        parts = []
        if self.suffixes:
            counts = ", ".join(f"{count} {suffix}" for suffix, count in self.suffixes.most_common(5))
            more = ", ..." if len(self.suffixes) > 5 else ""
            parts.append(f"{sum(self.suffixes.values())} files that are not read by suffix ({counts}{more})")
        if self.ignored:
            names = ", ".join(name for name, _ in self.ignored.most_common(3))
            more = ", ..." if len(self.ignored) > 3 else ""
            parts.append(f"{sum(self.ignored.values())} hidden or system entries ({names}{more})")
        return f"left out: {' and '.join(parts)}" if parts else None


@dataclass(frozen=True)
class FileTree:
    """Files below a folder, sorted by path, and what was left out."""

    files: tuple[Path, ...]
    left_out: LeftOut


def files_below(folder: Path, suffixes: Iterable[str]) -> FileTree:
    """All files with one of these suffixes (lower case, with the dot) below `folder`; links are followed.

    Raises InputError if a link leads to a folder above itself, a link is broken, or a folder cannot be read.
    """
    allowed = frozenset(suffixes)
    files: list[Path] = []
    left_out = LeftOut()
    above = frozenset(_key(parent) for parent in (folder.resolve(), *folder.resolve().parents))
    pending: list[tuple[Path, frozenset[FileKey]]] = [(folder, above)]
    while pending:
        parent, chain = pending.pop()
        for entry in entries(parent):
            if is_ignored(entry.name):
                left_out.ignored[entry.name] += 1
            elif entry.is_dir():
                path = Path(entry.path)
                pending.append((path, chain | {_checked_key(path, chain)}))
            elif os.path.splitext(entry.name)[1].lower() not in allowed:
                left_out.add_file(entry.name)
            elif entry.is_file():
                files.append(Path(entry.path))
            else:
                problem = "a broken link" if entry.is_symlink() else "not a regular file"
                raise InputError(f"{entry.path}: {problem}; remove it")
    return FileTree(tuple(sorted(files)), left_out)


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder by name; InputError if it cannot be read."""
    try:
        with os.scandir(folder) as scan:
            return sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error


def subfolders(folder: Path) -> dict[str, Path]:
    """The visible folders directly below `folder`, by name."""
    return {entry.name: Path(entry.path) for entry in entries(folder) if entry.is_dir() and not is_ignored(entry.name)}


def _checked_key(path: Path, above: frozenset[FileKey]) -> FileKey:
    """The folder's device and inode; InputError if it is one of the folders above it."""
    key = _key(path)
    if key in above:
        raise InputError(f"{path}: a link that leads up, to {path.resolve()}; remove it")
    return key


def _key(path: Path) -> FileKey:
    stat = path.stat()
    return stat.st_dev, stat.st_ino
