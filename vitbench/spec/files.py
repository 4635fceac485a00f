"""Where experiment files lie and what they are called; imports nothing, so that a shell can complete names at once."""

from __future__ import annotations

from pathlib import Path


def folders() -> list[Path]:
    """Where names are looked up: the user's folder, then the one in the wheel, or beside the package in a checkout."""
    package = Path(__file__).parents[1]
    shipped = package / "experiments"
    return [Path("experiments"), shipped if shipped.is_dir() else package.parent / "experiments"]


def available() -> dict[str, Path]:
    """Every experiment that has a name, as {`paper/patch_size`: file}, sorted; the user's hide the shipped."""
    found: dict[str, Path] = {}
    for folder in reversed(folders()):
        for path in folder.rglob("*.yaml"):
            found[path.relative_to(folder).with_suffix("").as_posix()] = path
    return dict(sorted(found.items()))
