"""Find files in a results root that no run needs, and remove them on request.

Never lists a committed record that a run uses, nor files of a trial that a process is working on.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vitbench.base.durable import disk_error
from vitbench.base.errors import ResultsError
from vitbench.store.event_log import dead_logs, is_running
from vitbench.store.record import Record
from vitbench.store.trials import Store

ASIDE = re.compile(r"\..+\.(\d+)")
"""Temporary files that get renamed when complete: `.records.jsonl.<pid>`."""


@dataclass(frozen=True)
class Use:
    """Trials that the runs of a root use, with their roles. `open_runs` (name: reason) may still need others."""

    roles: Mapping[str, frozenset[str]]
    open_runs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Leftover:
    """A file or folder, why nobody needs it, its size, and whether removing it is `safe` without asking."""

    path: Path
    why: str
    num_bytes: int
    trial_id: str | None = None
    safe: bool = False


def leftovers(store: Store, use: Use) -> list[Leftover]:
    """Every unused file or folder, by path. Trials without a plan are left out while a run is still open."""
    folders = [path for path in _inside(store.trials) if path.is_dir() and not path.is_symlink()]
    busy = store.locked(folder.name for folder in folders)
    dead = [*_asides(store.root), *dead_logs(store.root)]
    out = [_leftover(path, "left by a killed process", safe=True) for path in dead]
    for folder in folders:
        if folder.name in busy:
            continue
        if folder.name not in use.roles:
            out += [] if use.open_runs else [_leftover(folder, "no run uses this trial", folder.name)]
        else:
            out += _of_trial(store, folder.name, use.roles[folder.name])
    return sorted(out, key=lambda leftover: leftover.path)


def _of_trial(store: Store, trial_id: str, roles: frozenset[str]) -> Iterator[Leftover]:
    """What a used trial does not need. For a trial that may be tried again: only its empty attempts."""
    folder = store.folder(trial_id)
    try:
        record = store.read(trial_id)
    except ResultsError:  # `vitbench doctor` reports it
        return
    committed = record is not None and record.status != "failed"
    for attempt in (path for path in _inside(folder / "attempts") if path.is_dir()):
        if not any(attempt.iterdir()) and not (record and str(record.run.attempt) == attempt.name):
            yield _leftover(attempt, "an empty attempt", trial_id, safe=True)
        elif committed and not is_conflict(store, trial_id, attempt):
            yield _leftover(attempt, "an attempt of a committed trial", trial_id)
    weights = store.weights(trial_id)
    if not committed:
        return
    for path in _inside(folder / "checkpoints"):
        if path != weights and not ASIDE.fullmatch(path.name):
            yield _leftover(path, "a checkpoint of a committed trial", trial_id, safe=True)
    if weights.is_file() and roles == {"tuning"}:
        yield _leftover(weights, "weights of a tuning trial", trial_id)


def _inside(folder: Path) -> list[Path]:
    """The content of a folder; empty for a link, because it may lead out of the results."""
    return [] if folder.is_symlink() else sorted(folder.glob("*"))


def is_conflict(store: Store, trial_id: str, attempt: Path) -> bool:
    """True if this attempt gave another result than the committed record: it is evidence, so it is kept."""
    path = attempt / "record.json"
    if not path.is_file():
        return False
    try:
        committed, other = store.read(trial_id), Record.model_validate_json(path.read_bytes())
    except (ResultsError, OSError, ValueError):
        return True
    return committed is not None and (committed.status, committed.result) != (other.status, other.result)


def _asides(root: Path) -> Iterator[Path]:
    """Temporary files of processes that no longer exist."""
    for path in root.rglob(".*"):
        match = ASIDE.fullmatch(path.name)
        if match and path.is_file() and not is_running(int(match[1])):
            yield path


def _leftover(path: Path, why: str, trial_id: str | None = None, *, safe: bool = False) -> Leftover:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()]
    # The record in its attempt and the committed record are hard links to one file: removing one frees nothing.
    sizes = [stat.st_size for stat in (p.stat() for p in files) if stat.st_nlink == 1]
    return Leftover(path, why, sum(sizes), trial_id, safe)


def remove(store: Store, leftovers: Iterable[Leftover]) -> list[Leftover]:
    """Remove leftovers, each under its trial's lock, and return the removed ones. Skips trials that are busy by now.

    Raises ResultsError if the folder cannot be written.
    """
    out = []
    for leftover in leftovers:
        lock = store.lock(leftover.trial_id) if leftover.trial_id else contextlib.nullcontext(True)
        with lock as held:
            if held:
                _remove(leftover.path)
                out.append(leftover)
    return out


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(path, error) from error
