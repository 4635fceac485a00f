"""What lies in a results root and nothing refers to: found, and removed only when told to.

A committed record that a run uses is never among it, nor anything of a trial that some process is at work on.
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
"""Files that are written aside and renamed: `.records.jsonl.<pid>`."""


@dataclass(frozen=True)
class Use:
    """What the runs of a root refer to: trials with their roles; `open_runs` may yet refer to others (and why)."""

    roles: Mapping[str, frozenset[str]]
    open_runs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Leftover:
    """A file or folder, why it is not needed, its size, and whether it is `safe` to lose without a thought."""

    path: Path
    why: str
    num_bytes: int
    trial_id: str | None = None
    safe: bool = False


def leftovers(store: Store, use: Use) -> list[Leftover]:
    """Everything that nothing refers to, by path. Trials that no plan uses are left out while a run is still open."""
    folders = [path for path in _inside(store.trials) if path.is_dir() and not path.is_symlink()]
    busy = store.locked(folder.name for folder in folders)
    dead = [*_asides(store.root), *dead_logs(store.root)]
    out = [_leftover(path, "left by a process that was killed", safe=True) for path in dead]
    for folder in folders:
        if folder.name in busy:
            continue
        if folder.name not in use.roles:
            out += [] if use.open_runs else [_leftover(folder, _unused(store, folder.name), folder.name)]
        else:
            out += _of_trial(store, folder.name, use.roles[folder.name])
    return sorted(out, key=lambda found: found.path)


def _unused(store: Store, trial_id: str) -> str:
    """Why a trial may go, and which trial it is: its status, data, seed and number of steps."""
    why = "no run's plan uses this trial"
    try:
        record = store.read(trial_id)
    except ResultsError:
        return why
    if record is None:
        return f"{why} (not finished)"
    data = record.spec.get("data", {}).get("name", "digits")
    return f"{why} ({record.status}: {data}, seed {record.seed}, {record.result.num_steps} steps)"


def _of_trial(store: Store, trial_id: str, roles: frozenset[str]) -> Iterator[Leftover]:
    """What a used trial does not need: of one that may be tried again its empty attempts only."""
    folder = store.folder(trial_id)
    try:
        record = store.read(trial_id)
    except ResultsError:  # A doctor's case.
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
    """What lies in a folder; nothing where it is a link, since that leads out of the results."""
    return [] if folder.is_symlink() else sorted(folder.glob("*"))


def is_conflict(store: Store, trial_id: str, attempt: Path) -> bool:
    """Did this attempt come to another result than the committed one? Then it is evidence, and kept."""
    path = attempt / "record.json"
    if not path.is_file():
        return False
    try:
        committed, other = store.read(trial_id), Record.model_validate_json(path.read_bytes())
    except (ResultsError, OSError, ValueError):
        return True
    return committed is not None and (committed.status, committed.result) != (other.status, other.result)


def _asides(root: Path) -> Iterator[Path]:
    """Files written aside by processes that are no longer there."""
    for path in root.rglob(".*"):
        match = ASIDE.fullmatch(path.name)
        if match and path.is_file() and not is_running(int(match[1])):
            yield path


def _leftover(path: Path, why: str, trial_id: str | None = None, *, safe: bool = False) -> Leftover:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()]
    # A record in its attempt and the committed one are two names of one file: removing one frees nothing.
    sizes = [stat.st_size for stat in (p.stat() for p in files) if stat.st_nlink == 1]
    return Leftover(path, why, sum(sizes), trial_id, safe)


def remove(store: Store, found: Iterable[Leftover]) -> list[Leftover]:
    """Remove leftovers, each under its trial's lock; those that were removed. A trial that is busy by now is left.

    Raises ResultsError where the folder cannot be written.
    """
    out = []
    for leftover in found:
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
