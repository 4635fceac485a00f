"""Images on disk, one folder a class: `folder:PATH`, Imagenette and ImageNet.

PATH holds class folders, or split folders that hold them: train (training), and test or else val (validation, valid,
eval). With a test folder beside it, a val folder is not read: validation images are drawn from train, by seed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vitbench.base.errors import InputError
from vitbench.data.source import Download, Files, Raw, Source, not_found
from vitbench.data.types import DataOptions, Encoded, Split

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")
TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "validation", "valid", "eval")
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


def _subfolders(folder: Path) -> dict[str, Path]:
    return {p.name: p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")}


def _split_folders(root: Path) -> tuple[Path, Path | None]:
    """The folders of the training and of the test images; (root, None) where PATH is not split."""
    below = {name.lower(): path for name, path in _subfolders(root).items()}
    train = next((below[name] for name in TRAIN if name in below), None)
    test = next((below[name] for name in TEST if name in below), None)
    if train is None and test is not None:
        raise InputError(f"{root}: has a folder {test.name}, but none named {' or '.join(TRAIN)}")
    return (root, None) if train is None else (train, test)


def _images_below(folder: Path) -> list[Path]:
    found = [
        Path(parent) / file
        for parent, _, files in os.walk(folder, followlinks=True)
        for file in files
        if file.lower().endswith(EXTENSIONS) and not file.startswith(".")
    ]
    return sorted(found)


def _class_images(folder: Path) -> Files:
    """All images of a folder of class folders; InputError where a class, or everything, is empty."""
    classes = {name: _images_below(path) for name, path in _subfolders(folder).items()}
    if not any(classes.values()):
        loose = any(path.suffix.lower() in EXTENSIONS for path in folder.iterdir())
        problem = "images, but in no class folder, so without labels" if loose else "no images"
        raise InputError(f"{folder}: {problem}; one folder a class is needed, with {', '.join(EXTENSIONS[:3])}, ...")
    empty = [name for name, paths in classes.items() if not paths]
    if empty:
        raise InputError(f"{folder}: class folder {empty[0]} has no images")
    return tuple(path for paths in classes.values() for path in paths)


def locate(argument: str, options: DataOptions) -> Files:
    """Every image below the folder `argument`, training images first."""
    root = Path(argument).expanduser()
    if not argument or not root.is_dir():
        raise InputError(f"folder:{argument}: there is no such folder")
    return tuple(path for folder in _split_folders(root) if folder is not None for path in _class_images(folder))


def _split(root: Path, folder: Path, files: Files, class_names: tuple[str, ...]) -> Split:
    paths = tuple(path for path in files if path.is_relative_to(folder))
    names = [path.relative_to(folder).parts[0] for path in paths]
    unknown = sorted(set(names) - set(class_names))
    if unknown:
        raise InputError(f"{folder / unknown[0]}: this class has no training images")
    number = {name: i for i, name in enumerate(class_names)}
    labels = np.array([number[name] for name in names], dtype=np.int64)
    return Split(labels, encoded=Encoded(DiskImages(root, paths), np.arange(len(paths))))


def load(argument: str, files: Files) -> Raw:
    """The images of a folder, classes in the order of their names."""
    root = Path(argument).expanduser()
    train, test = _split_folders(root)
    class_names = tuple(sorted({path.relative_to(train).parts[0] for path in files if path.is_relative_to(train)}))
    return Raw(
        _split(root, train, files, class_names),
        None if test is None else _split(root, test, files, class_names),
        class_names,
    )


def _imagenette_root(options: DataOptions) -> Path | None:
    return next((p for name in IMAGENETTE_FOLDERS if (p := options.folder / name).is_dir()), None)


def _locate_imagenette(name: str, options: DataOptions) -> Files:
    root = _imagenette_root(options)
    if root is None and options.download:
        Download("Imagenette", ({"size": "320px"},)).fetch(name, options.folder)
        root = _imagenette_root(options)
    if root is None:
        folders = [options.folder / folder for folder in IMAGENETTE_FOLDERS]
        raise not_found(name, folders, "--download would fetch it")
    return locate(str(root), options)


def _locate_imagenet(name: str, options: DataOptions) -> Files:
    folders = (options.folder / "imagenet", options.folder)
    root = next((folder for folder in folders if (folder / "train" / "n01440764").is_dir()), None)
    if root is None:
        raise not_found(name, folders, "its licence forbids a download here; train/ and val/ with a folder per synset")
    return locate(str(root), options)


def _load_synsets(name: str, files: Files) -> Raw:
    """Paths end in split/synset/file, so the root is three steps up."""
    root = files[0].parents[2]
    raw = load(str(root), files)
    if name != "imagenette":
        return raw
    if len(raw.class_names) != len(IMAGENETTE_CLASSES):
        raise InputError(f"{root}: imagenette needs {len(IMAGENETTE_CLASSES)} classes, found {len(raw.class_names)}")
    return replace(raw, class_names=IMAGENETTE_CLASSES)


FOLDER = Source(locate, load)
IMAGENETTE = Source(_locate_imagenette, _load_synsets)
IMAGENET = Source(_locate_imagenet, _load_synsets)
