"""Images on disk, one folder per class: `folder:PATH`, Imagenette and ImageNet.

PATH holds class folders, or split folders (named by `split_names`) that hold class folders. Without a test folder the
validation folder is the test split; without both, a test split is drawn.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from vitbench.base.errors import InputError
from vitbench.data.class_names import listed, sort_class_names
from vitbench.data.file_tree import IMAGE_SUFFIXES, FileTree, files_below, subfolders
from vitbench.data.readers.class_layout import EXPECTED, Placed, place
from vitbench.data.source import Download, Files, Raw, Source, not_found
from vitbench.data.split_names import SplitName, describe_splits, splits_in
from vitbench.data.types import DataOptions, Encoded, Ints, Split

KINDS = {
    ".zip": "zip",
    ".tar": "tar",
    ".gz": "tar",
    ".tgz": "tar",
    ".xz": "tar",
    ".bz2": "tar",
    ".parquet": "parquet",
    ".npz": "npz",
    ".csv": "csv",
    ".tsv": "csv",
}
"""The kind of data set that a file is read as, by its suffix."""
IMAGENETTE_FOLDERS = ("imagenette2-320", "imagenette2-160", "imagenette2")
IMAGENETTE_CLASSES = (
    "tench", "English springer", "cassette player", "chain saw", "church", "French horn", "garbage truck", "gas pump",
    "golf ball", "parachute",
)  # fmt: skip


@dataclass(frozen=True)
class DiskImages:
    """Image files by their paths."""

    root: Path
    paths: Files

    def name(self, row: int) -> str:
        """The path."""
        return str(self.paths[row])

    def identity(self, row: int) -> str:
        """The path below the root, and the size."""
        path = self.paths[row]
        return f"{path.relative_to(self.root).as_posix()} {path.stat().st_size}"

    def load(self, row: int) -> bytes:
        """The file's bytes."""
        try:
            return self.paths[row].read_bytes()
        except OSError as error:
            raise InputError(f"{self.paths[row]}: cannot be read ({error.strerror})") from error


def locate(argument: str, options: DataOptions) -> Files:
    """Every image below the folder `argument`. Raises InputError."""
    return _tree(_root(argument)).files


def load(argument: str, files: Files) -> Raw:
    """The images of a folder, split and labelled by the folders that they are in."""
    root = _root(argument)
    tree = _tree(root)
    _check_levels(root, tree)
    folders = [PurePosixPath(path.relative_to(root).as_posix()) for path in tree.files]
    in_folders, num_loose = _without_loose(folders, root)
    splits = place([folders[row] for row in in_folders], str(root))
    names = sort_class_names(splits["train"].class_names)
    paths = tuple(tree.files[row] for row in in_folders)
    parts = {split: _split(root, paths, placed, names, split) for split, placed in splits.items()}
    test = parts.get("test", parts.get("val"))
    _check_empty(root, splits, [folders[row] for row in in_folders])
    notes = list(_notes(splits, [folders[row] for row in in_folders]))
    if num_loose:
        notes.append(f"left out: {num_loose} images that are in no class folder")
    if note := tree.left_out.note():
        notes.append(note)
    return Raw(parts["train"], test, names, parts.get("val") if "test" in parts else None, tuple(notes))


def _root(argument: str) -> Path:
    root = Path(argument).expanduser()
    if argument and root.is_file():
        kind = KINDS.get(root.suffix.lower())
        advice = f"use {kind}:{argument}" if kind else "a folder is needed"
        raise InputError(f"folder:{argument}: is a file; {advice}")
    if not argument or not root.is_dir():
        raise InputError(f"folder:{argument}: there is no such folder")
    return root


def _tree(root: Path) -> FileTree:
    tree = files_below(root, IMAGE_SUFFIXES)
    if not tree.files:
        left_out = tree.left_out.note()
        raise InputError(f"{root}: no images{f' ({left_out})' if left_out else ''}; {EXPECTED}")
    return tree


def _check_levels(root: Path, tree: FileTree) -> None:
    """Nothing; InputError if everything is one folder too deep, which would give one class only."""
    relative = [path.relative_to(root).parts for path in tree.files]
    tops = {parts[0] for parts in relative}
    if len(tops) > 1 or min(map(len, relative)) < 3:
        return
    (top,) = tops
    if len(splits_in(top)) == 1:
        return
    inner = sorted({parts[1] for parts in relative})
    raise InputError(f"{root}: holds one folder, {top}, which holds {listed(inner)}; use folder:{root / top}")


def _without_loose(folders: list[PurePosixPath], root: Path) -> tuple[list[int], int]:
    """Positions of the images that are in some folder, and how many are not; InputError if no image is."""
    rows = [row for row, path in enumerate(folders) if len(path.parts) > 1]
    if not rows:
        raise InputError(f"{root}: images, but in no class folder, so without labels; {EXPECTED}")
    return rows, len(folders) - len(rows)


def _split(root: Path, paths: Files, placed: Placed, names: tuple[str, ...], split: SplitName) -> Split:
    unknown = sorted(set(placed.class_names) - set(names))
    if unknown:
        raise InputError(
            f"{root}: class {unknown[0]} of the {split} split has no training images; "
            f"training classes: {listed(names, 10)}; {split} classes: {listed(sorted(set(placed.class_names)), 10)}"
        )
    number = {name: i for i, name in enumerate(names)}
    labels: Ints = np.array([number[name] for name in placed.class_names], dtype=np.int64)
    store = DiskImages(root, tuple(paths[row] for row in placed.rows))
    return Split(labels, encoded=Encoded(store, np.arange(len(labels))))


def _check_empty(root: Path, splits: dict[SplitName, Placed], folders: list[PurePosixPath]) -> None:
    """Nothing; InputError if a folder beside the class folders of the training split has no images."""
    placed = splits["train"]
    parents = Counter(
        _class_parent(folders[row], name) for row, name in zip(placed.rows, placed.class_names, strict=True)
    )
    for parent in parents:
        empty = [name for name in subfolders(root / parent) if name not in set(placed.class_names)]
        if empty and len(splits) == 1 and parent == PurePosixPath("."):
            raise InputError(f"{root}: class folder {empty[0]} has no images that can be read")
        if empty and parent != PurePosixPath("."):
            raise InputError(f"{root / parent}: class folder {empty[0]} has no images that can be read")


def _class_parent(path: PurePosixPath, class_name: str) -> PurePosixPath:
    """The folder that holds the class folder of an image."""
    return next(parent for parent in path.parents if parent.name == class_name).parent


def _notes(splits: dict[SplitName, Placed], folders: list[PurePosixPath]) -> list[str]:
    if len(splits) == 1 and not splits_in(folders[0].parts[0]):
        return []
    tops = {split: sorted({folders[row].parts[0] + "/" for row in placed.rows}) for split, placed in splits.items()}
    return [describe_splits(tops)]


def _imagenette_root(options: DataOptions) -> Path | None:
    folders = (options.folder / name for name in IMAGENETTE_FOLDERS)
    return next((folder for folder in folders if folder.is_dir()), None)


def _locate_imagenette(name: str, options: DataOptions) -> Files:
    root = _imagenette_root(options)
    if root is None and options.download:
        Download("Imagenette", ({"size": "320px"},)).fetch(name, options.folder)
        root = _imagenette_root(options)
    if root is None:
        folders = [options.folder / folder for folder in IMAGENETTE_FOLDERS]
        raise not_found(name, folders, "--download downloads it")
    return locate(str(root), options)


def _locate_imagenet(name: str, options: DataOptions) -> Files:
    folders = (options.folder / "imagenet", options.folder)
    root = next((folder for folder in folders if (folder / "train" / "n01440764").is_dir()), None)
    if root is None:
        raise not_found(
            name, folders, "its licence forbids a download; put it there as train/ and val/ with a folder per synset"
        )
    return locate(str(root), options)


def _load_synsets(name: str, files: Files) -> Raw:
    """Paths end in split/synset/file, so the root is three steps up."""
    root = files[0].parents[2]
    raw = load(str(root), files)
    if name != "imagenette":
        return raw
    if len(raw.class_names) != len(IMAGENETTE_CLASSES):
        raise InputError(
            f"{root}: imagenette needs {len(IMAGENETTE_CLASSES)} classes, and there are {len(raw.class_names)}"
        )
    return replace(raw, class_names=IMAGENETTE_CLASSES)


FOLDER = Source(locate, load)
IMAGENETTE = Source(_locate_imagenette, _load_synsets)
IMAGENET = Source(_locate_imagenet, _load_synsets)
