"""Records as a pandas DataFrame, for questions that no report answers: `from vitbench import load_records`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from vitbench.base.errors import InputError
from vitbench.spec.arms import level_name
from vitbench.store.rows import read_records

TRIAL = ("seed", "role", "chosen", "stage", "status", "reason", "data", "trial_id", "parent")
COST = ("train_seconds", "eval_seconds", "images_per_second", "peak_memory_mib", "attempt", "device", "threads")
NO_COLUMNS = ("curve", "metrics")
"""What a result holds that is no single value: readings are rows with `curve=True`, metrics have their own columns."""


def load_records(path: str | Path = "results", *, curve: bool = False) -> pd.DataFrame:
    """A tidy frame, one row per trial of each run; with `curve`, one row per reading of each trial's training curve.

    `path` is a results root, a run's folder or a records.jsonl. Columns: run and arm; the factors and tuned settings
    under their spec paths (`model.global_pool`, `train.lr`); seed, role (`tuning`, `reporting`, `stage`), chosen (at
    its arm's own choice?), status and the like; then the results and metrics, and what the trial cost; with `curve`
    step, train_loss, val_top1_percent and val_loss instead. What a trial does not have (the accuracy of a diverged
    one) is missing in pandas' way, so look at `status` and count before you average.
    Raises InputError if there are no records, ResultsError if a file is torn.
    """
    rows = [(name, row) for name, file in _files(Path(path)) for row in read_records(file)]
    lines = [line for name, row in rows for line in (_readings(name, row) if curve else [_trial(name, row)])]
    columns = dict.fromkeys(key for name, row in rows for key in _identity(name, row))
    others = dict.fromkeys(key for line in lines for key in line)
    return pd.DataFrame(lines, columns=list(columns | others))


def _files(path: Path) -> list[tuple[str, Path]]:
    """(run, records file) of a root, a run or a file."""
    if path.is_file():
        return [(path.parent.name, path)]
    files = [path / "records.jsonl"] if (path / "records.jsonl").is_file() else sorted(path.glob("*/records.jsonl"))
    named_files = [(file.parent.name, file) for file in files if file.stat().st_size]
    if not named_files:
        raise InputError(f"{path}: no records here; a results folder, a run in it or a records.jsonl is needed")
    return named_files


def _identity(run: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Run, arm, and what was varied, by spec path; levels that are lists or mappings as words."""
    varied = {**{path: value for path, value in row["levels"].items() if path != "arm"}, **row["setting"]}
    words = {path: level_name(value) if isinstance(value, list | dict) else value for path, value in varied.items()}
    return {"run": run, "arm": row["arm"], **words}


def _trial(run: str, row: Mapping[str, Any]) -> dict[str, Any]:
    result = {key: value for key, value in row["result"].items() if key not in NO_COLUMNS}
    cost = {key: row["run"].get(key) for key in COST}
    return {**_identity(run, row), **{key: row[key] for key in TRIAL}, **result, **row["result"]["metrics"], **cost}


def _readings(run: str, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for point in row["result"]["curve"]:
        yield {**_identity(run, row), **{key: row[key] for key in TRIAL}, **point}
