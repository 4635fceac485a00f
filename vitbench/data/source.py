"""Data sources: how the files of a data set are located and read."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from vitbench.base.errors import InputError
from vitbench.data.types import DataOptions, Split

Files = tuple[Path, ...]


@dataclass(frozen=True)
class Raw:
    """Images as the source stores them.

    `test` is None without a test split, `class_names` is empty without names. `val` is a validation split beside a test
    split. `blocks`: splits are drawn as contiguous blocks of this order. `notes` are lines for the user: which files
    belong to which split, and what was left out. `vocabulary` has the words of captions, by their numbers.
    """

    train: Split
    test: Split | None
    class_names: tuple[str, ...] = ()
    val: Split | None = None
    notes: tuple[str, ...] = ()
    blocks: bool = False
    vocabulary: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """One line of DATASETS. `argument` is the text after `folder:` and the like, else the data set's name.

    `locate(argument, options)` returns every file that `load(argument, files)` reads, or raises InputError.
    `flip`: a mirrored image keeps its class. `pixels_publishable`: a committed page may show the images.
    """

    locate: Callable[[str, DataOptions], Files]
    load: Callable[[str, Files], Raw]
    flip: bool = True
    pixels_publishable: bool = False


@dataclass(frozen=True)
class Download:
    """A class of torchvision.datasets that downloads a data set, called once per set of arguments."""

    dataset: str
    calls: tuple[dict[str, str], ...] = ({},)

    def fetch(self, name: str, folder: Path) -> None:
        """Download into `folder`; torchvision checks the archives' hashes."""
        from torchvision import datasets

        folder.mkdir(parents=True, exist_ok=True)
        try:
            for arguments in self.calls:
                getattr(datasets, self.dataset)(folder, download=True, **arguments)
        except (OSError, RuntimeError) as error:
            raise InputError(f"downloading {name} into {folder} failed: {error}") from error


def present(folder: Path, names: Sequence[str]) -> Files | None:
    """The files of these names in the folder, each plain or gzipped; None if one is missing."""
    paths = [next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None) for name in names]
    files = tuple(path for path in paths if path is not None)
    return files if len(files) == len(names) else None


def locate_files(
    name: str, folders: Sequence[Path], names: Sequence[str], options: DataOptions, download: Download
) -> Files:
    """The named files in the first folder that has all of them, after a download if `options.download` allows it."""

    def search() -> Files | None:
        return next((files for folder in folders if (files := present(folder, names)) is not None), None)

    files = search()
    if files is None and options.download:
        download.fetch(name, options.folder)
        files = search()
    if files is None:
        raise not_found(name, folders, "--download downloads it")
    return files


class NotFoundError(InputError):
    """A named data set is not on this machine."""


def not_found(name: str, folders: Sequence[Path], advice: str) -> NotFoundError:
    """The error for a data set that is in none of the folders."""
    searched = ", ".join(map(str, folders))
    return NotFoundError(f"data set {name} not found in {searched}; {advice}, --data-dir DIR searches in DIR")


def optional(module: str, extra: str, name: str) -> ModuleType:
    """An optional package. Raises InputError with the extra that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{name} needs {module.split('.')[0]}: pip install 'vitbench[{extra}]'") from error
