"""What was found out about a data set, kept for the next command; a cache that cannot be written is done without."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from vitbench.data.types import DataOptions


def cache_folder(options: DataOptions) -> Path:
    """Where findings are kept; it need not exist."""
    return Path(options.cache_dir or os.environ.get("VITBENCH_CACHE_DIR") or Path.home() / ".cache" / "vitbench")


def write_aside(text: str, path: Path) -> None:
    """Writes the text beside its place and renames it into it, so that no reader sees half of it."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(aside, path)
