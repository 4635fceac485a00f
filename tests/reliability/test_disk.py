"""A full disk, a quota, no links, a folder that cannot be written: one clear line, and nothing finished is lost."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from faulted import checkpoints, fault, here, in_child, left, options, planned, record, saved_steps, started

from vitbench.base.durable import require_space
from vitbench.base.errors import NoSpaceError, ResultsError
from vitbench.plan.trials import Trial
from vitbench.store.record import Record, Result, Run
from vitbench.store.trials import Store

FULL = 6


@pytest.fixture(scope="module")
def trial() -> Trial:
    return planned()[0]


@pytest.mark.parametrize("kind", ["space", "quota"])
@pytest.mark.parametrize("point", ["checkpoint.mid_write:8", "sidecar.mid_write:3"])
def test_a_full_disk_keeps_the_checkpoint_before(point: str, kind: str, trial: Trial, tmp_path: Path) -> None:
    here([trial], options(tmp_path / "unbroken", every=float("inf")))
    root = tmp_path / "full"
    with pytest.raises(NoSpaceError, match="no space left") as error:
        here([trial], options(root), f"{point}:{kind}")
    assert error.value.exit_code == FULL
    assert saved_steps(root, trial) == [2, 1]
    assert not [name for name in checkpoints(root, trial) if name.startswith(".")], "the part is removed"
    here([trial], options(root))
    assert record(root, trial).run.resumed_at_step == 2
    assert left(root, [trial]) == left(tmp_path / "unbroken", [trial])


def test_a_full_disk_ends_the_process_with_its_code(trial: Trial, tmp_path: Path) -> None:
    assert in_child([trial], options(tmp_path), "checkpoint.mid_write:8:space") == FULL


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_too_little_space_is_said_before_training(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(NoSpaceError, match=r"1000 bytes free, checkpoints need 126\.2 KiB"):
        here([trial], options(tmp_path))
    assert not checkpoints(tmp_path, trial)
    monkeypatch.undo()
    require_space(tmp_path, 1)


def test_a_folder_that_became_read_only(trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mounted anew in the middle, say: exit code 5, one line, no traceback."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ResultsError, match=r"cannot write \(Read-only file system") as error:
        here([trial], options(tmp_path))
    assert error.value.exit_code == 5
    monkeypatch.undo()
    here([trial], options(tmp_path))


def made(attempt: int, top1: float = 50.0) -> Record:
    return Record(
        trial_id="0" * 16,
        status="ok",
        seed=0,
        data_fingerprint="f" * 64,
        spec={},
        result=Result(test_top1_percent=top1),
        run=Run(attempt=attempt),
    )


def no_links(*_: Any) -> None:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def commit_without_links(root: Path, wanted: str) -> None:
    os.link = no_links
    store = Store(root)
    with fault(wanted):
        store.commit(made(1), store.begin_attempt("0" * 16), {})


@pytest.mark.parametrize("point", ["claim.mid_write", "claim.before_rename"])
def test_a_kill_in_a_commit_without_hard_links_blocks_nobody(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = started(commit_without_links, tmp_path, point)
    process.join(timeout=60)
    assert process.exitcode == -9
    store = Store(tmp_path)
    assert store.read("0" * 16) is None
    monkeypatch.setattr(os, "link", no_links)
    assert store.commit(made(2), store.begin_attempt("0" * 16), {})
    assert store.read("0" * 16) == made(2)
    assert not store.commit(made(3), store.begin_attempt("0" * 16), {})
