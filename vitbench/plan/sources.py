"""Every number against its source: rows against ids, stored answers and committed records.

A contradiction means that a file was edited, mixed up or damaged after the run: `verdict` and `report` refuse it. A
caution is possible in an honest run but changes what a comparison means: it is reported, and the user decides.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from vitbench.base.collector import collector_paused
from vitbench.base.contained import exists
from vitbench.base.errors import InputError, ResultsError
from vitbench.model.mechanisms import MODEL_KINDS
from vitbench.plan.run_table import Row, with_short_curve
from vitbench.plan.trial_id import chosen_mechanisms, trial_id
from vitbench.spec.arms import level_name
from vitbench.spec.mechanism import is_registered, registered, unknown_names_allowed
from vitbench.spec.trial import TrialSpec
from vitbench.store.answers import Answers, predictions_sha256, read_answers, read_trial_answers
from vitbench.store.checked_lines import CheckedLines
from vitbench.store.record import ALGORITHM_VERSION, Record, first_problem, parents_of
from vitbench.store.rows import join_analyses, read_lines, rows_of
from vitbench.store.trials import Store

SECTIONS = ("model", "data", "train", "evaluate")
MACHINE = {"device": "device", "torch": "torch version"}


def checked_rows(folder: Path) -> list[Row]:
    """The rows of a run with its analyses. Raises InputError without a records file.

    Raises ResultsError with the first contradiction, and the number of others.
    """
    path = folder / "records.jsonl"
    if not exists(path):
        raise InputError(f"{folder}: no records.jsonl; run the experiment first")
    with collector_paused():
        lines = read_lines(path)
        ledger = CheckedLines(lines, Store(folder.parent), _checks())
        rows = rows_of(lines, path, ledger.checked)
        ledger.note(rows)
        problems = list(contradictions(folder, rows, ledger.checked))
        if problems:
            more = f"; {len(problems) - 1} more, `vitbench doctor` lists them" if len(problems) > 1 else ""
            raise ResultsError(f"{problems[0]}{more}")
        ledger.save()
        return join_analyses(rows, folder)


def contradictions(folder: Path, rows: Sequence[Row], checked: Sequence[bool] = ()) -> Iterator[str]:
    """One line per row that contradicts its id, its labels, its stored answers or its committed record.

    A row that was `checked` is held against the stored answers alone.
    """
    answers, store = read_answers(folder), Store(folder.parent)
    for number, row in enumerate(rows, 1):
        is_checked = number <= len(checked) and checked[number - 1]
        for problem in _scores(row, answers) if is_checked else row_contradictions(row, answers, store):
            yield f"{folder / 'records.jsonl'}:{number}: trial {row['trial_id']} {problem}"


def row_contradictions(row: Row, answers: Answers | None, store: Store) -> Iterator[str]:
    """What one row says against its id, its labels, the stored answers or its committed record."""
    yield from _identity(row)
    yield from _labels(row)
    yield from _scores(row, answers)
    yield from _record(row, store)


@functools.cache
def _checks() -> str:
    """What the checks of a row depend on beside the row and its record: this code, and the mechanisms it knows."""
    package = Path(__file__).parents[1]
    files = sorted(path for room in ("spec", "store", "plan") for path in (package / room).glob("*.py"))
    names = [sorted(registered(kind)) for kind in (*MODEL_KINDS, "objective")]
    digest = hashlib.sha256(json.dumps([ALGORITHM_VERSION, names]).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def record_contradictions(record: Record, store: Store) -> Iterator[str]:
    """One line per thing in which a committed record contradicts its id or the answers stored beside it."""
    yield from _identity(record.model_dump(mode="json"))
    path = store.folder(record.trial_id) / "predictions.npz"
    if record.status == "ok" and exists(path):
        answers = read_trial_answers(path, None)
        predicted, correct = answers["predicted"], answers["predicted"] == answers["label"]
        yield from against_answers(record.result.model_dump(), predicted, correct)


def _identity(row: Row) -> Iterator[str]:
    """A trial's id is the hash of its spec, seed, data and parents, as long as this version computes it."""
    if row.get("algorithm_version", ALGORITHM_VERSION) != ALGORITHM_VERSION:
        return
    try:
        with unknown_names_allowed():
            spec = TrialSpec.model_validate(row["spec"])
    except ValidationError as error:
        yield f"has an invalid spec ({first_problem(error)})"
        return
    if spec.model.init_from is not None:  # Its weights are part of the id, and may be on another machine.
        return
    if not all(is_registered(kind, text) for kind, text in chosen_mechanisms(spec)):
        return  # A user's own, whose source is part of the id; reading results runs no code.
    if trial_id(spec, row["seed"], row.get("data_fingerprint", ""), parents_of(row)) != row["trial_id"]:
        yield "has another spec, seed or data than its id says"


def _labels(row: Row) -> Iterator[str]:
    """The levels and the setting that name a row's arm are the values in its spec."""
    names = [level_name(level) for level in row["levels"].values()]
    parts = sorted(row["arm"].replace("+", " ").split()), sorted(" ".join(names).replace("+", " ").split())
    if row["levels"] and parts[0] != parts[1]:
        yield f"is listed as arm {row['arm']}, its levels are {', '.join(names)}"
    for path, label in {**row["levels"], **row["setting"]}.items():
        section, _, key = path.partition(".")
        value = row["spec"].get(section, {}).get(key) if section in SECTIONS else None
        if value is not None and level_name(value) != level_name(label):
            yield f"is listed under {path} {level_name(label)}, its spec says {level_name(value)}"


def _scores(row: Row, answers: Answers | None) -> Iterator[str]:
    """The accuracy of a row is that of its stored answers."""
    if answers is not None and row["status"] == "ok" and row["trial_id"] in answers.predicted:
        yield from against_answers(row["result"], answers.predicted[row["trial_id"]], answers.correct[row["trial_id"]])


def against_answers(result: Mapping[str, Any], predicted: np.ndarray, correct: np.ndarray) -> Iterator[str]:
    """What a result says of its answers to the test images `[M]`, against these answers."""
    percent = 100.0 * float(np.mean(correct)) if correct.size else 0.0
    claimed = result.get("test_top1_percent")
    if claimed is None or abs(claimed - percent) > 1e-9:
        yield f"has test_top1_percent {claimed}, its stored answers give {percent:.10g}"
    if result.get("num_test_images") not in (None, 0, correct.size):
        yield f"has num_test_images {result['num_test_images']}, its stored answers are {correct.size}"
    if result.get("predictions_sha256") not in (None, predictions_sha256(predicted)):
        yield "has a predictions_sha256 that is not that of its stored answers"


def _record(row: Row, store: Store) -> Iterator[str]:
    """A row repeats the committed record, where the trial is still there."""
    record = store.read(row["trial_id"])
    if record is not None and _of_row(row) != _of_record(record):
        yield f"differs from its committed record, {store.folder(record.trial_id) / 'record.json'}"


def _of_row(row: Row) -> tuple[Any, ...]:
    return row["status"], row["seed"], row.get("data_fingerprint", ""), row["spec"], row["result"]


def _of_record(record: Record) -> tuple[Any, ...]:
    result = with_short_curve(record.result.model_dump(mode="json"))
    return record.status, record.seed, record.data_fingerprint, record.spec, result


def cautions(rows: Sequence[Row]) -> Iterator[str]:
    """One line per circumstance that changes what a comparison of these rows means."""
    versions = sorted({row.get("algorithm_version", ALGORITHM_VERSION) for row in rows} - {ALGORITHM_VERSION})
    if versions:
        yield f"made by algorithm version {versions[0]}, this is {ALGORITHM_VERSION}; its ids cannot be checked"
    yield from _equal_weights(rows)
    for key, words in MACHINE.items():
        yield from _confounded(rows, key, words)


def _equal_weights(rows: Sequence[Row]) -> Iterator[str]:
    """Two seeds never end with the same weights, unless one was copied or the seed has no effect."""
    trials: dict[str, dict[str, int]] = defaultdict(dict)
    for row in rows:
        if row["result"].get("weights_sha256"):
            trials[row["result"]["weights_sha256"]][row["trial_id"]] = row["seed"]
    for same in trials.values():
        if len(set(same.values())) > 1:
            names = ", ".join(f"{trial} (seed {seed})" for trial, seed in same.items())
            yield f"trials with different seeds ended with equal weights: {names}"


def _confounded(rows: Sequence[Row], key: str, words: str) -> Iterator[str]:
    """An arm that ran on one kind of machine only, where another arm never did: the difference holds both effects."""
    values: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row["role"] == "reporting" and row["status"] == "ok":
            values[row["arm"]].add(_machine(row, key))
    first, *others = values or [""]
    for other in others:
        if values[first].isdisjoint(values[other]):
            left, right = (", ".join(sorted(values[arm])) for arm in (first, other))
            yield f"arm and {words} are confounded: {first} ran with {left} only, {other} with {right} only"


def _machine(row: Row, key: str) -> str:
    run = row["run"]
    return str(run.get("versions", {}).get("torch", "?") if key == "torch" else run.get("device", "?"))
