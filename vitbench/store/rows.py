"""The rows of a run: `records.jsonl`, joined with `analysis.jsonl`, or one clear error.

A row from another version of the code, or of other images than its neighbours, would move a mean in silence, so
rows of two origins are refused. `analysis.jsonl` holds what was measured on trained networks after their records were
committed, one line per trial: its numbers join a row where they were measured on that row's weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from vitbench.base.durable import replace_durably
from vitbench.base.errors import InputError, ResultsError
from vitbench.spec.trial import Frozen
from vitbench.store.record import Result, Role, Run, Status

Name = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
"""Text without control characters: a name cannot move the cursor of a terminal."""
ANALYSES_FILE = "analysis.jsonl"
ANALYSIS_VERSION = 1
"""Raised by hand when a number of an analysis changes, so that older numbers are not mixed with it."""
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


class AnalysisLine(Frozen):
    """The numbers that were measured on one trial's weights, by name, and on which images."""

    trial_id: str
    analysis_version: int = ANALYSIS_VERSION
    weights_sha256: str | None = None
    images: str = ""
    num_images: NonNegativeInt = 0
    metrics: dict[str, float] = Field(default_factory=dict)

    def origin(self) -> tuple[str | None, str, int]:
        """What was measured: numbers of two origins are never one line."""
        return self.weights_sha256, self.images, self.num_images


def read_analyses(folder: Path) -> dict[str, AnalysisLine]:
    """The lines of a run's `analysis.jsonl` by trial; lines of other versions are left out.

    Raises ResultsError naming file and line where one is damaged.
    """
    path = folder / ANALYSES_FILE
    out = {}
    for number, text in enumerate(path.read_text().splitlines() if path.is_file() else [], 1):
        try:
            line = AnalysisLine.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the line"
            raise ResultsError(f"{path}:{number}: damaged line of an analysis ({where}: {first['msg']})") from error
        if line.analysis_version == ANALYSIS_VERSION:
            out[line.trial_id] = line
    return out


def add_analyses(folder: Path, new: Iterable[AnalysisLine]) -> None:
    """Add numbers to a run's `analysis.jsonl`; older numbers of other weights or images are dropped."""
    lines = read_analyses(folder)
    for line in new:
        old = lines.get(line.trial_id)
        kept = old.metrics if old is not None and old.origin() == line.origin() else {}
        lines[line.trial_id] = line.model_copy(update={"metrics": dict(sorted({**kept, **line.metrics}.items()))})
    texts = [json.dumps(lines[key].model_dump(), sort_keys=True, allow_nan=False) for key in sorted(lines)]
    replace_durably(folder / ANALYSES_FILE, "".join(f"{text}\n" for text in texts).encode())


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run with its analyses. Raises InputError without a records file, ResultsError on damage."""
    path = folder / "records.jsonl"
    if not path.is_file():
        raise InputError(f"{folder}: no records.jsonl; run the experiment first")
    return join_analyses(read_records(path), folder)


def join_analyses(rows: Sequence[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The rows with the numbers of a run's analyses among `result.metrics`; a record's own numbers take precedence."""
    lines = read_analyses(folder)
    return [_joined(row, lines.get(row["trial_id"])) for row in rows]


def _joined(row: dict[str, Any], line: AnalysisLine | None) -> dict[str, Any]:
    result = row["result"]
    if line is None or line.weights_sha256 != result.get("weights_sha256"):
        return row
    metrics = {**line.metrics, **(result.get("metrics") or {})}
    return {**row, "result": {**result, "metrics": metrics}}
