"""`vitbench inspect`: look into one trained network, or into all networks of an experiment."""

from __future__ import annotations

import re
from pathlib import Path

from rich.console import Console

from vitbench.base.errors import InputError
from vitbench.cli.commands.prepare import read_run, runs_named
from vitbench.data import DataOptions
from vitbench.model.weights.start import TIMM
from vitbench.plan.metric_check import reads_analyses
from vitbench.store.rows import read_rows


def inspect(name: str, root: Path, selection: tuple[str | None, str | None, int], to: Path | None, where: DataOptions,
            console: Console) -> int:  # fmt: skip
    """Look into a run's networks, or into one trial, timm model or exported folder, and print where the figures are.

    `selection` is --what, --images and --limit.
    """
    from vitbench.inspection.catalogue import chosen
    from vitbench.inspection.network import load_subject
    from vitbench.inspection.write_analyses import InspectionRequest, look_into, look_into_run

    what, images, limit = selection
    if limit < 1:
        raise InputError(f"--limit {limit}: at least 1 image")

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    request = InspectionRequest(chosen(what), what is not None, images, limit, where, tell)
    folders = _runs(name, root)
    for folder in folders:
        done = look_into_run(read_rows(folder), folder, request, every_setting=reads_analyses(read_run(folder)))
        tell(f"{folder.name}: {', '.join(done)}. Figures and tables: {folder / 'analysis'}")
    if folders:
        return 0
    folder = to or root / "inspect" / re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-")
    done = look_into(load_subject(name, root, where), request, folder)
    tell(f"{name}: {', '.join(done)}. Figures and tables: {folder}")
    return 0


def _runs(name: str, root: Path) -> list[Path]:
    """The runs that `name` means; empty for a trial id, a timm model or a folder. Raises InputError."""
    if name.startswith(TIMM) or re.fullmatch(r"[0-9a-f]{4,64}", name):
        return []
    if Path(name).is_dir() and not (Path(name) / "experiment.yaml").is_file():
        return []
    return runs_named(root, [name])
