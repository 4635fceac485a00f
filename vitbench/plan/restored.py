"""Trials from a run's own files: a copied or committed page goes on where it stopped, without its `trials/` folder."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vitbench.base.contained import exists, read
from vitbench.base.errors import ResultsError
from vitbench.plan.run_table import Row
from vitbench.plan.sources import row_contradictions
from vitbench.store.answers import read_answers, read_arrays
from vitbench.store.index import ABSENT
from vitbench.store.record import ALGORITHM_VERSION, Record
from vitbench.store.rows import rows_of
from vitbench.store.trials import Store

TRIAL_ID = re.compile(r'"trial_id":"([^"]+)"')


def restore(folder: Path, store: Store) -> int:
    """Commit the trials of a run's `records.jsonl` that the store lacks, with their answers; return their number.

    Left out, so that they train again: damaged lines, rows that contradict their id or their answers, and rows of
    another algorithm version. The weights of a stage are not in a page; a trial that needs them trains the stage again.
    Raises ResultsError if the page's answers are damaged.
    """
    path = folder / "records.jsonl"
    content = read(path).decode(errors="replace") if exists(path) else ""
    lines = [line for line in content.splitlines() if _is_lost(line, store)]
    if not lines:
        return 0
    answers = read_answers(folder)
    lost = {row["trial_id"]: row for row in _sound(lines, path) if not any(row_contradictions(row, answers, store))}
    files = _answer_files(folder / "predictions.npz") if answers is not None else {}
    for name, row in lost.items():
        record = Record.model_validate({key: row[key] for key in Record.model_fields if key in row})
        store.commit(record, store.begin_attempt(name), files.get(name, {}))
    return len(lost)


def _is_lost(line: str, store: Store) -> bool:
    """Whether a line names a trial without a record."""
    found = TRIAL_ID.search(line)
    return found is not None and store.stamp(found[1]) == ABSENT


def _sound(lines: Sequence[str], path: Path) -> Iterator[Row]:
    """The rows of this version of the algorithm in lines that are whole."""
    for line in lines:
        with contextlib.suppress(ResultsError):
            yield from (row for row in rows_of([line], path) if row.get("algorithm_version") == ALGORITHM_VERSION)


def _answer_files(path: Path) -> dict[str, dict[str, bytes]]:
    """The file of answers of each trial, by trial id, as training writes it."""
    parts = read_arrays(path, ("trial_id", "index", "label", "predicted", "confidence"))
    out = {}
    for row, name in enumerate(parts["trial_id"].tolist()):
        buffer = io.BytesIO()
        confidence = (parts["confidence"][row] / 100.0).astype(np.float16)
        np.savez_compressed(
            buffer, index=parts["index"], label=parts["label"], predicted=parts["predicted"][row], confidence=confidence
        )
        out[str(name)] = {"predictions.npz": buffer.getvalue()}
    return out
