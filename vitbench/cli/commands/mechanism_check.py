"""`vitbench check-mechanism`: the contract of a built-in or a user's own mechanism."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vitbench.base.errors import InputError
from vitbench.spec.mechanism import load_code, located_code

if TYPE_CHECKING:
    from rich.console import Console

KINDS = ("patch_embed", "position", "token_mixer", "channel_mixer", "readout", "objective")


def check(kind: str, name: str, code: tuple[str, ...], console: Console) -> int:
    """Print what the mechanism does not keep; exit code 0, or 4 if there is anything. Raises InputError."""
    if kind not in KINDS:
        raise InputError(f"check-mechanism {kind}: no such kind; allowed: {', '.join(KINDS)}")
    load_code(located_code(code, Path()))
    from vitbench.inspection.contract import check_mechanism, planning_loads_torch

    complaints = check_mechanism(kind, name)
    if code and planning_loads_torch(located_code(code, Path())):
        complaints.append("planning: importing the file imports torch; import torch inside `module` instead")
    for line in complaints:
        console.print(f"{kind} {name}: {line}", markup=False, highlight=False)
    if not complaints:
        console.print(f"{kind} {name} keeps the contract", highlight=False)
    return 4 if complaints else 0
