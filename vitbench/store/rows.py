"""The rows of a run: `records.jsonl`, joined with `analysis.jsonl`, or one clear error.

A row from another version of the code, or of other images than its neighbours, would move a mean in silence, so
rows of two origins are refused. `analysis.jsonl` holds what was measured on trained networks after their records were
committed, one line per trial: its numbers join a row where they were measured on that row's weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from vitbench.base.contained import exists, read_text
from vitbench.base.durable import replace_durably
from vitbench.base.errors import InputError, ResultsError
from vitbench.spec.metrics import DEFAULT_TUNING
from vitbench.spec.trial import Frozen
from vitbench.store.bounds import (
    Count,
    Digest,
    Fields,
    Float32,
    Identifier,
    Name,
    Percent,
    Place,
    Plain,
    Positive,
    Seed,
    Text,
    Version,
    check_size,
    parse,
)
from vitbench.store.record import Result, Role, Run, Status, first_problem

ANALYSES_FILE = "analysis.jsonl"
ANALYSIS_VERSION = 1
"""Raised by hand when a number of an analysis changes, so that older numbers are not mixed with it."""
MADE_BY = {"algorithm_version": "version of the code", "data_fingerprint": "images"}


class _Line(Frozen):
    """What every reader of a row relies on; keys that are not listed pass, within the bounds of any JSON."""

    model_config = ConfigDict(extra="ignore")

    arm: Name
    levels: dict[Name, Plain]
    setting: dict[Name, Plain]
    role: Role
    chosen: bool = False
    stage: Name = ""
    seed: Seed
    trial_id: Identifier
    parent: Identifier | None = None
    networks: dict[Name, Identifier] | None = None
    tuned_by: Name = DEFAULT_TUNING
    status: Status
    reason: Text | None = None
    data: Place = ""
    data_fingerprint: Digest = ""
    algorithm_version: Version = 1
    num_classes: Positive | None = None
    grid_side: Positive | None = None
    num_coefficients: Positive | None = None
    depth: Positive | None = None
    floor_percent: Percent | None = None
    spec: Fields
    result: Result
    run: Run


def read_records(path: Path) -> list[dict[str, Any]]:
    """The rows of a `records.jsonl`, in its order.

    Raises ResultsError naming file and line where one is torn, out of range, or of another origin than those before.
    """
    return rows_of(read_lines(path), path)


def read_lines(path: Path) -> list[str]:
    """The lines of a `records.jsonl`. Raises ResultsError."""
    try:
        lines = read_text(path).split("\n")
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read ({error.strerror or error})") from error
    return lines if lines[-1] else lines[:-1]


def rows_of(lines: Sequence[str], path: Path, checked: Sequence[bool] = ()) -> list[dict[str, Any]]:
    """The rows in the lines of a file; a line that is `checked` was read as a row before, and is not held against the
    bounds again. Raises ResultsError as `read_records`."""
    out = [
        json.loads(line) if number <= len(checked) and checked[number - 1] else _row(line, f"{path}:{number}")
        for number, line in enumerate(lines, 1)
    ]
    _check_origin(out, path)
    _check_cells(out, path)
    return out


def _row(line: str, where: str) -> dict[str, Any]:
    """One line as a dictionary."""
    try:
        row = parse(line)
        _Line.model_validate(row)
        check_size({key: value for key, value in row.items() if key not in _Line.model_fields})
    except ValidationError as error:
        problem = first_problem(error)
        raise ResultsError(
            f"{where}: this line was written by an incompatible version, or is damaged ({problem})"
        ) from error
    except ValueError as error:
        raise ResultsError(f"{where}: not a JSON record ({error})") from error
    return dict(row)


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
    """No cell of the table has two trials, and no trial has two results: the last would silently stand for both."""
    canonical = json.JSONEncoder(sort_keys=True).encode
    cells: dict[str, tuple[int, str]] = {}
    results: dict[str, tuple[int, Any]] = {}
    for number, row in enumerate(rows, 1):
        cell = canonical([row["arm"], row["role"], row["setting"], row["seed"], row.get("stage")])
        line, trial_id = cells.setdefault(cell, (number, row["trial_id"]))
        if trial_id != row["trial_id"]:
            raise ResultsError(f"{path}:{number}: the same arm, setting and seed as line {line}, but another trial")
        outcome = row["status"], row["result"], row["seed"], row["spec"]
        line, first = results.setdefault(row["trial_id"], (number, outcome))
        if first != outcome:
            raise ResultsError(
                f"{path}:{number}: conflict, trial {row['trial_id']} has another result here than in line {line}"
            )


class AnalysisLine(Frozen):
    """The numbers that were measured on one trial's weights, by name, and on which images."""

    trial_id: Identifier
    analysis_version: Version = ANALYSIS_VERSION
    weights_sha256: Digest | None = None
    images: Place = ""
    num_images: Count = 0
    metrics: dict[Name, Float32] = Field(default_factory=dict, max_length=1000)

    def origin(self) -> tuple[str | None, str, int]:
        """What was measured: numbers of two origins are never one line."""
        return self.weights_sha256, self.images, self.num_images


def read_analyses(folder: Path) -> dict[str, AnalysisLine]:
    """The lines of a run's `analysis.jsonl` by trial; lines of other versions are left out.

    Raises ResultsError naming file and line where one is damaged.
    """
    path = folder / ANALYSES_FILE
    out = {}
    for number, text in enumerate(read_text(path).splitlines() if exists(path) else [], 1):
        try:
            line = AnalysisLine.model_validate(parse(text))
        except ValueError as error:
            problem = first_problem(error) if isinstance(error, ValidationError) else str(error)
            raise ResultsError(f"{path}:{number}: damaged line of an analysis ({problem})") from error
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
    if not exists(path):
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
