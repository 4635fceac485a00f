"""Reading `records.jsonl`: rows that are whole, in range and of one origin, or one clear error; nothing is mixed.

A row that came from another version of the code or from other images than its neighbours would move a mean in silence.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from vitbench.base.errors import ResultsError
from vitbench.spec.trial import Frozen
from vitbench.store.record import Result, Role, Run, Status

Name = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
"""Text without control characters: a name cannot move the cursor of a terminal."""
MADE_BY = {"algorithm_version": "version of the code", "data_fingerprint": "images"}


class _Line(Frozen):
    """What every reader of a row relies on; keys that are not listed pass."""

    model_config = ConfigDict(extra="ignore")

    arm: Name
    levels: dict[Name, Any]
    setting: dict[Name, Any]
    role: Role
    stage: Name = ""
    seed: NonNegativeInt
    trial_id: Name
    status: Status
    reason: str | None = None
    data: Name = ""
    data_fingerprint: Name = ""
    algorithm_version: PositiveInt = 1
    num_classes: PositiveInt | None = None
    grid_side: PositiveInt | None = None
    depth: PositiveInt | None = None
    spec: dict[str, Any]
    result: Result
    run: Run


def read_records(path: Path) -> list[dict[str, Any]]:
    """The rows of a `records.jsonl`, in its order.

    Raises ResultsError naming file and line where one is torn, out of range, or of another origin than those before.
    """
    out: list[dict[str, Any]] = []
    try:
        lines = path.read_bytes().decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        if line or number < len(lines):
            out.append(_row(line, f"{path}:{number}"))
    _check_origin(out, path)
    _check_cells(out, path)
    return out


def _row(line: str, where: str) -> dict[str, Any]:
    """One line as a dictionary."""
    try:
        row = json.loads(line, parse_constant=_no_number)
        _Line.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the line"
        raise ResultsError(f"{where}: no record of this version ({place}: {first['msg']})") from error
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{where}: not a JSON record ({error})") from error
    return dict(row)


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _check_origin(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """One version of the code made all rows, and from one set of images under each name."""
    for key, words in MADE_BY.items():
        first: dict[str, tuple[int, Any]] = {}
        for number, row in enumerate(rows, 1):
            group = str(row.get("data")) if key == "data_fingerprint" else ""
            line, value = first.setdefault(group, (number, row.get(key)))
            if row.get(key) != value:
                raise ResultsError(
                    f"{path}:{number}: {key} is {row.get(key)}, that of line {line} is {value}; "
                    f"another {words} is never mixed into one table"
                )


def _check_cells(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """No cell of the table has two trials: the last would silently stand for both."""
    seen: dict[str, tuple[int, str]] = {}
    for number, row in enumerate(rows, 1):
        cell = json.dumps([row[key] for key in ("arm", "role", "setting", "seed")] + [row.get("stage")], sort_keys=True)
        line, trial_id = seen.setdefault(cell, (number, row["trial_id"]))
        if trial_id != row["trial_id"]:
            raise ResultsError(f"{path}:{number}: the same arm, setting and seed as line {line}, but another trial")
