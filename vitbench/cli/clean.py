"""What lies in a results root and nothing refers to: listed, and removed only on request.

A committed record that a run uses is never in the list, nor is anything of a trial that a process is working on.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vitbench.base.contained import exists
from vitbench.base.durable import disk_error
from vitbench.base.errors import ResultsError
from vitbench.store.event_log import dead_logs, is_running
from vitbench.store.record import Record, read_record
from vitbench.store.trials import Store

ASIDE = re.compile(r"\..+\.(\d+)")
"""Files that are written aside and renamed: `.records.jsonl.<pid>`."""


@dataclass(frozen=True)
class Use:
    """What the runs of a root refer to: trials with their roles; `open_runs` may refer to more, with the reason."""

    roles: Mapping[str, frozenset[str]]
    open_runs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Leftover:
    """A file or folder, why it is not needed, its size, and whether it is `safe` to remove without asking."""

    path: Path
    why: str
    num_bytes: int
    trial_id: str | None = None
    safe: bool = False


def leftovers(store: Store, use: Use) -> list[Leftover]:
    """Everything that nothing refers to, by path. While a run is open, trials that no plan uses are not listed."""
    folders = [path for path in _inside(store.trials) if _is_folder(path)]
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
    return sorted(out, key=lambda leftover: leftover.path)


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
    """What a used trial does not need. A trial that may be tried again keeps all but its empty attempts."""
    folder = store.folder(trial_id)
    try:
        record = store.read(trial_id)
    except ResultsError:  # `vitbench doctor` reports it.
        return
    committed = record is not None and record.status != "failed"
    for attempt in (path for path in _inside(folder / "attempts") if _is_folder(path)):
        if not any(attempt.iterdir()) and not (record and str(record.run.attempt) == attempt.name):
            yield _leftover(attempt, "an empty attempt", trial_id, safe=True)
        elif committed and not is_conflict(store, trial_id, attempt):
            yield _leftover(attempt, "an attempt of a committed trial", trial_id)
    if not committed:
        return
    checkpoints = folder / "checkpoints"
    for path in _inside(checkpoints):
        if path.name != "final.safetensors" and not ASIDE.fullmatch(path.name):
            yield _leftover(path, "a checkpoint of a committed trial", trial_id, safe=True)
        elif path.name == "final.safetensors" and roles == {"tuning"}:
            yield _leftover(path, "weights of a tuning trial", trial_id)


def _is_folder(path: Path) -> bool:
    """True for a folder, False for a link to one: it leads out of the results."""
    return stat.S_ISDIR(path.lstat().st_mode)


def _inside(folder: Path) -> list[Path]:
    """The content of a folder; none where it is a link or missing."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if _is_folder(folder):
            return sorted(folder.iterdir())
    return []


def is_conflict(store: Store, trial_id: str, attempt: Path) -> bool:
    """True if an attempt has another result than the committed record: it is evidence, and kept."""
    path = attempt / "record.json"
    try:
        if not exists(path):
            return False
        committed, other = store.read(trial_id), read_record(path)
    except (ResultsError, OSError):
        return True
    return committed is not None and differ(committed, other)


def differ(first: Record, second: Record) -> bool:
    """True if two records of one trial do not have the same outcome."""
    return (first.status, first.result) != (second.status, second.result)


def _asides(root: Path) -> Iterator[Path]:
    """Files that were written aside by processes that no longer run."""
    for path in root.rglob(".*"):
        match = ASIDE.fullmatch(path.name)
        if match and not _is_folder(path) and not is_running(int(match[1])):
            yield path


def _leftover(path: Path, why: str, trial_id: str | None = None, *, safe: bool = False) -> Leftover:
    paths = [path, *path.rglob("*")] if _is_folder(path) else [path]
    # A record in its attempt and the committed one are two names of one file: removing one frees nothing.
    sizes = [s.st_size for s in (p.lstat() for p in paths) if s.st_nlink == 1 and stat.S_ISREG(s.st_mode)]
    return Leftover(path, why, sum(sizes), trial_id, safe)


def remove(store: Store, listed: Iterable[Leftover]) -> tuple[list[Leftover], list[str]]:
    """Remove leftovers, each under its trial's lock: what was removed, and a line for each that could not be.

    A trial that a process works on by now is left alone.
    """
    out, refused = [], dict[str, None]()
    for leftover in listed:
        try:
            lock = store.lock(leftover.trial_id) if leftover.trial_id else contextlib.nullcontext(True)
            with lock as held:
                if held:
                    _remove(leftover.path)
                    out.append(leftover)
        except ResultsError as error:
            refused[str(error)] = None
    return out, list(refused)


def _remove(path: Path) -> None:
    try:
        if _is_folder(path):
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise disk_error(path, error) from error
