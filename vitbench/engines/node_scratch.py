"""A node's scratch folder, where it trains if the driver commits, and committed trials as they travel."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vitbench.base.contained import exists, read
from vitbench.base.durable import replace_durably
from vitbench.base.errors import ResultsError
from vitbench.plan.trials import Trial
from vitbench.store.record import parsed_record
from vitbench.store.trials import Store

RETURNED = ("predictions.npz", "checkpoints/final.safetensors")
"""Files that a node returns beside the record, if they were kept."""


@dataclass(frozen=True)
class TrialFiles:
    """A committed trial as it travels: its record and the files beside it, by relative name."""

    trial_id: str
    record: bytes
    files: Mapping[str, bytes]

    def commit(self, store: Store, attempt: Path | None = None) -> None:
        """Commit to a store as the attempt that the store counts. Raises ResultsError on a conflict."""
        attempt = attempt or store.begin_attempt(self.trial_id)
        record = parsed_record(self.record, f"trial {self.trial_id}")
        if record.trial_id != self.trial_id:
            raise ResultsError(f"trial {self.trial_id}: the record of another trial, {record.trial_id}")
        record = record.model_copy(update={"run": record.run.model_copy(update={"attempt": int(attempt.name)})})
        store.commit(record, attempt, dict(self.files))


def files_of(store: Store, trial_id: str) -> TrialFiles | None:
    """The committed files of a trial, or None."""
    if store.read(trial_id) is None:
        return None
    folder = store.folder(trial_id)
    files = {name: read(folder / name) for name in RETURNED if exists(folder / name)}
    return TrialFiles(trial_id, read(folder / "record.json"), files)


def scratch_name(root: Path) -> str:
    """The name of the scratch folders of one results root: the same after a restart of the command."""
    return hashlib.sha256(str(root).encode()).hexdigest()[:16]


def scratch_folder(name: str) -> Path:
    """This node's folder for the trials of one results root, below TMPDIR; only this user may enter it.

    Raises ResultsError if somebody else made a folder of this name.
    """
    top = Path(tempfile.gettempdir()) / f"vitbench-{os.getuid()}"
    with suppress(FileExistsError):
        top.mkdir(mode=0o700)
    status = top.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ResultsError(f"{top}: a private folder of this user is expected; move it away, or set TMPDIR")
    (top / name).mkdir(exist_ok=True)
    return top / name


def install(stage: TrialFiles, store: Store) -> None:
    """Put a committed stage into the node's folder, unless it is there."""
    if store.read(stage.trial_id) is None:
        stage.commit(store)
    for name, content in stage.files.items():
        if not exists(store.folder(stage.trial_id) / name):
            replace_durably(store.folder(stage.trial_id) / name, content)


def collected(store: Store, trials: Sequence[Trial]) -> Iterator[TrialFiles]:
    """The files of the trials that have a record. They leave this node's folder; stages stay for their children."""
    for trial in trials:
        files = files_of(store, trial.trial_id)
        if files is not None:
            yield files
            if trial.role != "stage":
                shutil.rmtree(store.folder(trial.trial_id), ignore_errors=True)


def sweep(name: str, keep: Collection[str]) -> None:
    """Remove this node's folder of a results root after a run; the checkpoints of `keep` stay.

    Does nothing while a trial of it is training, which another command may do.
    """
    root = scratch_folder(name)
    store = Store(root)
    ids = [path.name for path in store.trials.iterdir()] if store.trials.is_dir() else []
    if not store.locked(ids):
        for trial_id in set(ids) - set(keep):
            shutil.rmtree(store.trials / trial_id, ignore_errors=True)
    for folder in (store.trials, root):
        with suppress(OSError):  # It is missing, or something in it was kept.
            folder.rmdir()
