"""The folders and names of experiment files. Imports nothing, so that a shell completes names without delay."""

from __future__ import annotations

from pathlib import Path


def folders() -> list[Path]:
    """The folders in which names are looked up: the user's, then the wheel's, or the checkout's beside the package."""
    package = Path(__file__).parents[1]
    shipped = package / "experiments"
    return [Path("experiments"), shipped if shipped.is_dir() else package.parent / "experiments"]


def available() -> dict[str, Path]:
    """Every named experiment as {`paper/patch_size`: file}, sorted; a user's file hides the shipped one of its name."""
    files: dict[str, Path] = {}
    for folder in reversed(folders()):
        for path in folder.rglob("*.yaml"):
            files[path.relative_to(folder).with_suffix("").as_posix()] = path
    return dict(sorted(files.items()))
