"""Results on disk: one committed record per trial, first writer wins, and nothing is ever rewritten.

`trials/<trial_id>/` holds `record.json` (the only mark that a trial is done), `predictions.npz`, `checkpoints/` and
`attempts/<n>/`. A file is written aside, flushed to the disk and linked into place: it is absent or whole.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import ClassVar

from vitbench.base.collector import collector_paused
from vitbench.base.contained import check_folders, exists, open_lock, status_of
from vitbench.base.durable import disk_error, make_folder, replace_durably, sync_folder, write_durably, writing
from vitbench.base.errors import ResultsError
from vitbench.base.fault_injection import fault
from vitbench.store.index import ABSENT, INDEX_FILE, Index, Stamp, stamp_of
from vitbench.store.record import Record, read_record
from vitbench.store.summary import Summary, summary_of

INDEXED_FROM = 1_000
"""From this many trials on they are looked up in the index; fewer are read at once."""
MAX_KEPT = 2_000
"""Whole records that a process keeps: 14 KB each."""
LOCK_TRIES = 5
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.EMLINK)


class Store:
    """The trials of one results root."""

    _read: ClassVar[dict[Path, tuple[Stamp, Record]]] = {}
    """The first MAX_KEPT records that this process read, by file and its stamp: a command looks at them often."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trials = root / "trials"

    def folder(self, trial_id: str) -> Path:
        """The folder of a trial's files. Raises ResultsError if a link leads to another place."""
        check_folders(self.root, self.trials / trial_id)
        return self.trials / trial_id

    def weights(self, trial_id: str) -> Path:
        """The path of a trial's final weights, if they were kept. Raises ResultsError if a link leads elsewhere."""
        checkpoints = self.trials / trial_id / "checkpoints"
        check_folders(self.root, checkpoints)
        return checkpoints / "final.safetensors"

    def attempts(self, trial_id: str) -> Path:
        """The folder of a trial's attempts. Raises ResultsError if a link leads to another place."""
        attempts = self.trials / trial_id / "attempts"
        check_folders(self.root, attempts)
        return attempts

    def read(self, trial_id: str) -> Record | None:
        """The committed record, or None. Raises ResultsError if the file is not a valid record."""
        path = self.folder(trial_id) / "record.json"
        try:
            status = status_of(path)
            stamp = stamp_of(status)
            if self._read.get(path, (None,))[0] == stamp:
                return self._read[path][1]
            record = _record_of(path, trial_id)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if path in self._read or len(self._read) < MAX_KEPT:
            self._read[path] = stamp, record
        return record

    def read_all(self, trial_ids: Iterable[str]) -> dict[str, Record]:
        """Committed records by trial id; ids without one are left out."""
        with collector_paused():
            records = ((trial_id, self.read(trial_id)) for trial_id in trial_ids)
            return {trial_id: record for trial_id, record in records if record is not None}

    def summaries(self, trial_ids: Iterable[str]) -> dict[str, Summary]:
        """Committed records in short, by trial id; ids without one are left out.

        Many records are looked up in the derived index, each held against its file. Raises ResultsError as `read`.
        """
        ids = list(trial_ids)
        with collector_paused():
            if len(ids) < INDEXED_FROM:
                records = ((trial_id, self.read(trial_id)) for trial_id in ids)
                return {trial_id: summary_of(record) for trial_id, record in records if record is not None}
            index = self.index()
            try:
                return self._indexed(ids, index)
            finally:  # After a damaged record, too: the others are not read again.
                index.save()

    def _indexed(self, trial_ids: Iterable[str], index: Index) -> dict[str, Summary]:
        """The summaries of records: those whose file has the stamp of the index from there, the others from the file.

        What was read anew is added to the index.
        """
        stamps = self._stamps(trial_ids)
        out = index.summaries({trial_id: stamp for trial_id, stamp in stamps.items() if stamp is not None})
        for trial_id, stamp in stamps.items():
            if trial_id not in out and (record := self._read_once(trial_id)) is not None:
                out[trial_id] = summary_of(record)
                if stamp is not None:
                    index.add_summary(trial_id, stamp, out[trial_id])
        return {trial_id: out[trial_id] for trial_id in stamps if trial_id in out}

    def _read_once(self, trial_id: str) -> Record | None:
        """As `read`, for one of many records: it is not kept."""
        try:
            return _record_of(self.folder(trial_id) / "record.json", trial_id)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def stamp(self, trial_id: str) -> Stamp | None:
        """What the file system says of a trial's record; None where only `read` can say what is wrong with it."""
        folder = f"{self.trials}/{trial_id}"
        try:
            if not stat.S_ISDIR(os.lstat(folder).st_mode):
                return None
        except FileNotFoundError:
            return ABSENT
        except OSError:
            return None
        return _record_stamp(folder)

    def _stamps(self, trial_ids: Iterable[str]) -> dict[str, Stamp | None]:
        """As `stamp`, of many trials, by trial id; those without a record are left out. The folder is listed once."""
        try:
            with os.scandir(self.trials) as entries:
                is_folder = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        except FileNotFoundError:
            return {}
        except OSError:  # Not a folder, or not to be listed: each trial says what is wrong.
            return {trial_id: stamp for trial_id in trial_ids if (stamp := self.stamp(trial_id)) != ABSENT}
        stamps = (
            (trial_id, _record_stamp(f"{self.trials}/{trial_id}") if is_folder[trial_id] else None)
            for trial_id in trial_ids
            if trial_id in is_folder
        )
        return {trial_id: stamp for trial_id, stamp in stamps if stamp != ABSENT}

    def index(self) -> Index:
        """The derived index. Raises ResultsError if a link leads to another place."""
        check_folders(self.root, self.trials)
        return Index(self.trials / INDEX_FILE)

    def begin_attempt(self, trial_id: str) -> Path:
        """A fresh folder `attempts/<n>` for one try, n counting from 1."""
        attempts = self.attempts(trial_id)
        make_folder(attempts)
        number = 1 + max((int(p.name) for p in attempts.iterdir() if p.name.isdigit()), default=0)
        while True:
            try:
                make_folder(attempts)  # Again: another process may just have tidied its own attempt away.
                with writing(attempts):
                    (attempts / str(number)).mkdir()
                return attempts / str(number)
            except FileExistsError:
                number += 1

    def commit(self, record: Record, attempt: Path, files: dict[str, bytes]) -> bool:
        """Link a finished attempt into place; False if another attempt was first with the same result.

        `files` (relative name -> bytes) become durable before the record does; what a killed attempt left is replaced.
        The attempt's folder is removed afterwards, as its record is in place; that of a `failed` record is kept.
        Raises ResultsError if the first attempt's result differs: that is a conflict, and the loser's record stays
        in its attempt folder.
        """
        folder = self.folder(record.trial_id)
        if not exists(folder / "record.json"):
            for name, content in files.items():
                check_folders(folder, (folder / name).parent)
                replace_durably(folder / name, content, aside=attempt / Path(name).name)
        aside = attempt / "record.json"
        write_durably(aside, record.model_dump_json(indent=1, exclude_none=True).encode() + b"\n", "record")
        fault("record.before_link")
        if _link(aside, folder / "record.json"):
            fault("record.after_link")
            _tidy(attempt, record)
            return True
        first = self.read(record.trial_id)
        assert first is not None
        if first.result != record.result or first.status != record.status:
            raise ResultsError(
                f"trial {record.trial_id}: conflict, {aside} has another result than the committed record"
            )
        _tidy(attempt, record)
        return False

    @contextlib.contextmanager
    def lock(self, trial_id: str) -> Iterator[bool]:
        """True while this process holds the trial's kernel lock, False if another does; it dies with its holder.

        The lock's file is removed once the trial has a record.
        """
        folder = self.folder(trial_id)
        handle, held = _lock_file(folder / "lock")
        with handle:
            try:
                yield held
            finally:
                if held and (folder / "record.json").exists():
                    with contextlib.suppress(OSError):
                        (folder / "lock").unlink()

    def locked(self, trial_ids: Iterable[str]) -> set[str]:
        """The trials that some process on this machine holds the lock of; read from the kernel, no lock is taken.

        Empty where the kernel does not list its locks (other than Linux).
        """
        try:
            held = {line.split()[5].rpartition(":")[2] for line in Path("/proc/locks").read_text().splitlines()}
        except OSError:
            return set()
        out = set()
        for trial_id in trial_ids:
            with contextlib.suppress(OSError):
                if str((self.trials / trial_id / "lock").lstat().st_ino) in held:
                    out.add(trial_id)
        return out

    def set_aside(self, trial_id: str) -> bool:
        """Move a failed record into its last attempt folder, so that the trial is run again; False without one."""
        record = self.read(trial_id)
        if record is None or record.status != "failed":
            return False
        folder, attempt = self.folder(trial_id), self.attempts(trial_id) / str(record.run.attempt)
        make_folder(attempt)
        with writing(folder):
            os.replace(folder / "record.json", attempt / "failed.json")
            sync_folder(folder)
        return True


def _record_stamp(folder: str) -> Stamp | None:
    """As `Store.stamp`, of a trial's own folder."""
    try:
        status = os.lstat(f"{folder}/record.json")
    except FileNotFoundError:
        return ABSENT
    except OSError:
        return None
    return stamp_of(status) if stat.S_ISREG(status.st_mode) else None


def _record_of(path: Path, trial_id: str) -> Record:
    """The record in a trial's file. Raises ResultsError, FileNotFoundError, NotADirectoryError."""
    record = read_record(path)
    if record.trial_id != trial_id:
        raise ResultsError(f"{path}: the record of another trial, {record.trial_id}")
    return record


def _link(source: Path, target: Path) -> bool:
    """Link `source` to `target` if that is free; first writer wins."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise disk_error(target, error) from error
        return _create(target, source.read_bytes())
    with writing(target):
        sync_folder(target.parent)
    return True


def _create(target: Path, content: bytes) -> bool:
    """As `_link`, on file systems without hard links: who holds a kernel lock looks and renames.

    The lock dies with its holder, so that a process killed in between keeps nobody from committing.
    """
    path = target.with_name(f".{target.name}.claim")
    with writing(path):
        handle = open_lock(path)
    with handle:
        with contextlib.suppress(OSError):  # Neither links nor locks: two that look at the same instant may both win.
            fcntl.flock(handle, fcntl.LOCK_EX)
        if exists(target):
            return False
        replace_durably(target, content, "claim")
    return True


def _lock_file(path: Path) -> tuple[FileIO, bool]:
    """A trial's lock file, open, and whether this process has its lock.

    A holder may remove the file between opening and locking: its lock would exclude nobody, and the next file is tried.
    """
    for tries_left in reversed(range(LOCK_TRIES)):
        make_folder(path.parent)
        with writing(path):
            handle = open_lock(path)
        held = _try_lock(handle)
        if not held or not tries_left or _is_at(path, handle):
            break
        handle.close()
    return handle, held


def _is_at(path: Path, handle: FileIO) -> bool:
    """True if the open file is the one at `path`."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(handle.fileno()))
    except OSError:
        return False


def _tidy(attempt: Path, record: Record) -> None:
    """Remove the folder of an attempt whose record is in place, and the folder of attempts if it is empty then.

    A process that is killed before it leaves a second name of the record, which nobody reads. The attempt of a failed
    record stays for its retry, and other attempts stay for their processes: one may still run on another host.
    """
    if record.status == "failed":
        return
    with contextlib.suppress(OSError):
        fault("record.before_tidy")
        (attempt / "record.json").unlink()
        fault("record.mid_tidy")
        attempt.rmdir()
        attempt.parent.rmdir()


def _try_lock(handle: FileIO) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # Any other: no working locks here, and the first writer wins all the same.
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True
