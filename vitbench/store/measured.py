"""What was measured on trained networks after their records were committed: `<run>/analysis.jsonl`, a line a trial.

Records are never rewritten. A line's numbers join its trial's metrics where rows are read, if it was made by this
version of the analyses and of these weights; so claims on them are judged like any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt, ValidationError

from vitbench.base.durable import replace_durably
from vitbench.base.errors import InputError, ResultsError
from vitbench.spec.trial import Frozen
from vitbench.store.rows import read_records

ANALYSES_FILE = "analysis.jsonl"
ANALYSIS_VERSION = 1
"""Raised by hand when a number of an analysis changes, so that older numbers are not mixed with it."""


class Measured(Frozen):
    """One trial's line: its numbers by name, and on which weights and images they were measured."""

    trial_id: str
    analysis_version: int = ANALYSIS_VERSION
    weights_sha256: str | None = None
    images: str = ""
    num_images: NonNegativeInt = 0
    metrics: dict[str, float] = Field(default_factory=dict)


def read_measured(folder: Path) -> dict[str, Measured]:
    """The lines of a run by trial; none of another version. Raises ResultsError naming file and line of a torn one."""
    path = folder / ANALYSES_FILE
    found = {}
    for number, line in enumerate(path.read_text().splitlines() if path.is_file() else [], 1):
        try:
            measured = Measured.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the line"
            raise ResultsError(f"{path}:{number}: no line of an analysis ({where}: {first['msg']})") from error
        if measured.analysis_version == ANALYSIS_VERSION:
            found[measured.trial_id] = measured
    return found


def add_measured(folder: Path, new: Iterable[Measured]) -> None:
    """Put new numbers beside or in place of older ones; older numbers of other weights or images go."""
    known = read_measured(folder)
    for one in new:
        old = known.get(one.trial_id)
        same = old is not None and _origin(old) == _origin(one)
        metrics = {**(old.metrics if old is not None and same else {}), **one.metrics}
        known[one.trial_id] = one.model_copy(update={"metrics": dict(sorted(metrics.items()))})
    lines = [json.dumps(known[key].model_dump(), sort_keys=True, allow_nan=False) for key in sorted(known)]
    replace_durably(folder / ANALYSES_FILE, "".join(f"{line}\n" for line in lines).encode())


def _origin(one: Measured) -> tuple[str | None, str, int]:
    return one.weights_sha256, one.images, one.num_images


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run, with what was measured. Raises InputError where there are none, ResultsError on damage."""
    path = folder / "records.jsonl"
    if not path.is_file():
        raise InputError(f"{folder}: no records.jsonl; run the experiment first")
    return with_measured(read_records(path), folder)


def with_measured(rows: Sequence[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The rows with what was measured on their trials' weights among `result.metrics`; a record's own numbers stay."""
    known = read_measured(folder)
    return [_joined(row, known.get(row["trial_id"])) for row in rows]


def _joined(row: dict[str, Any], measured: Measured | None) -> dict[str, Any]:
    result = row["result"]
    if measured is None or measured.weights_sha256 != result.get("weights_sha256"):
        return row
    metrics = {**measured.metrics, **(result.get("metrics") or {})}
    return {**row, "result": {**result, "metrics": metrics}}
