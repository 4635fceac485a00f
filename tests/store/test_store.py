"""Results on disk: absent or whole, the first writer wins, locks die with their holders, a full disk is said."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vitbench.base.durable import make_folder, replace_durably, write_durably
from vitbench.base.errors import NoSpaceError, ResultsError
from vitbench.store import record as record_module
from vitbench.store import trials
from vitbench.store.record import Record, Result, Run
from vitbench.store.trials import Store

ID = "0123456789abcdef"


def record(trial_id: str = ID, top1: float = 50.0, attempt: int = 1, **changes: Any) -> Record:
    result = Result(test_top1_percent=top1)
    run = Run(attempt=attempt, train_seconds=float(attempt))
    fields = {"status": "ok", "seed": 0, "data_fingerprint": "f" * 64, "spec": {}, "result": result, "run": run}
    return Record(trial_id=trial_id, **{**fields, **changes})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def commit(store: Store, made: Record, **files: bytes) -> bool:
    return store.commit(made, store.begin_attempt(made.trial_id), dict(files))


def test_what_is_committed_is_read_back(store: Store) -> None:
    assert store.read(ID) is None
    assert commit(store, record(), **{"predictions.npz": b"one", "checkpoints/final.safetensors": b"two"})
    assert store.read(ID) == record()
    assert (store.folder(ID) / "predictions.npz").read_bytes() == b"one"
    assert store.weights(ID).read_bytes() == b"two"
    assert store.read_all([ID, "f" * 16]) == {ID: record()}


def test_the_first_writer_wins(store: Store) -> None:
    assert commit(store, record(), **{"predictions.npz": b"one"})
    before = (store.folder(ID) / "record.json").read_bytes()
    assert not commit(store, record(attempt=2), **{"predictions.npz": b"one"})
    assert (store.folder(ID) / "record.json").read_bytes() == before, "equal results: the times of the first stay"


@pytest.mark.parametrize("other", [record(top1=51.0, attempt=2), record(status="diverged", attempt=2)])
def test_another_result_is_a_conflict_and_the_loser_keeps_its_record(store: Store, other: Record) -> None:
    commit(store, record(), **{"predictions.npz": b"one"})
    with pytest.raises(ResultsError, match="conflict") as error:
        commit(store, other, **{"predictions.npz": b"two"})
    assert error.value.exit_code == 5
    assert store.read(ID) == record()
    assert (store.folder(ID) / "predictions.npz").read_bytes() == b"one"
    (loser,) = store.attempts(ID).glob("*/record.json")
    assert json.loads(loser.read_text())["run"]["attempt"] == 2


def test_what_an_attempt_left_without_a_record_is_replaced(store: Store) -> None:
    """Killed between its predictions and its record, perhaps on another device: they must not outlive it."""
    store.folder(ID).mkdir(parents=True)
    (store.folder(ID) / "predictions.npz").write_bytes(b"of a dead attempt")
    commit(store, record(), **{"predictions.npz": b"whole"})
    assert (store.folder(ID) / "predictions.npz").read_bytes() == b"whole"


def test_a_committed_trial_is_five_files_and_folders(store: Store) -> None:
    with store.lock(ID) as held:
        assert held
        commit(store, record(), **{"predictions.npz": b"one", "checkpoints/final.safetensors": b"two"})
        assert store.locked([ID]) == {ID}, "the lock is held to the end"
    names = sorted(str(path.relative_to(store.trials)) for path in store.trials.rglob("*"))
    inside = ("checkpoints", "checkpoints/final.safetensors", "predictions.npz", "record.json")
    assert names == [ID, *(f"{ID}/{name}" for name in inside)]
    assert (store.folder(ID) / "record.json").stat().st_nlink == 1


def test_a_trial_without_a_record_and_a_failed_one_keep_their_attempts(store: Store) -> None:
    with store.lock(ID):
        store.begin_attempt(ID)
    assert (store.folder(ID) / "lock").exists()
    assert commit(store, record(attempt=2, status="failed"))
    assert sorted(path.name for path in store.attempts(ID).iterdir()) == ["1", "2"]
    assert store.set_aside(ID)
    assert (store.attempts(ID) / "2" / "failed.json").exists()


def test_an_attempt_that_runs_elsewhere_outlives_the_winner(store: Store) -> None:
    """Another host may work on the trial, where locks reach one host only: it must be able to commit, and then tidy."""
    elsewhere = store.begin_attempt(ID)
    assert commit(store, record(attempt=2))
    assert [path.name for path in store.attempts(ID).iterdir()] == ["1"]
    assert not store.commit(record(attempt=1), elsewhere, {})
    assert not store.attempts(ID).exists()
    assert store.read(ID) == record(attempt=2)


@pytest.mark.parametrize("point", ["record.before_tidy", "record.mid_tidy"])
def test_a_kill_before_the_tidying_costs_nothing(store: Store, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITBENCH_TESTING", "1")
    monkeypatch.setenv("VITBENCH_FAULT", point)
    child = multiprocessing.get_context("fork").Process(target=commit, args=(store, record()))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    monkeypatch.delenv("VITBENCH_FAULT")
    assert store.read(ID) == record()
    assert (store.attempts(ID) / "1").exists()
    assert not commit(store, record(attempt=2)), "the first stays, and the second tidies its own"
    assert [path.name for path in store.attempts(ID).iterdir()] == ["1"]


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and locking a holder committed and tidied: its old file would exclude nobody."""
    real, path = trials._try_lock, store.folder(ID) / "lock"

    def too_late(handle: Any) -> bool:
        monkeypatch.setattr(trials, "_try_lock", real)
        path.unlink()
        return real(handle)

    monkeypatch.setattr(trials, "_try_lock", too_late)
    with store.lock(ID) as held, store.lock(ID) as second:
        assert held
        assert not second


def test_torn_and_partial_files_never_count(store: Store) -> None:
    attempt = store.begin_attempt(ID)
    (attempt / "record.json").write_text(record().model_dump_json())
    assert store.read(ID) is None, "an attempt is no record"
    (store.folder(ID) / "record.json").write_text(record().model_dump_json()[:-20])
    with pytest.raises(ResultsError, match=r"record\.json: damaged, or from an incompatible version") as error:
        store.read(ID)
    assert "\n" not in str(error.value)


def test_a_record_of_another_schema_is_refused(store: Store) -> None:
    store.folder(ID).mkdir(parents=True)
    (store.folder(ID) / "record.json").write_text(json.dumps({**json.loads(record().model_dump_json()), "new_key": 1}))
    with pytest.raises(ResultsError, match="new_key"):
        store.read(ID)


def test_no_space_leaves_nothing_partial(store: Store, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the kernel cuts the write short."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    attempt = store.begin_attempt(ID)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(ResultsError, match="cannot write"):
            store.commit(record(), attempt, {"predictions.npz": b"x" * 5000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(store.folder(ID).rglob("predictions.npz"))
    assert store.read(ID) is None
    assert commit(store, record(attempt=2), **{"predictions.npz": b"x" * 5000}), "with space again it goes on"


def test_a_full_disk_is_exit_code_6(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(NoSpaceError, match="no space left") as error:
        write_durably(tmp_path / "x", b"x")
    assert error.value.exit_code == 6
    assert not list(tmp_path.iterdir())


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("what", ["os.link", "os.replace", "os.fsync", "pathlib.Path.mkdir", "os.open"])
def test_every_way_to_meet_a_full_disk_is_said(what: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        with store.lock(ID):
            store.commit(record(), store.begin_attempt(ID), {"predictions.npz": b"x"})
        replace_durably(store.root / "table.csv", b"x")

    monkeypatch.setattr(what, full)
    with pytest.raises(NoSpaceError, match="no space left"):
        work()
    monkeypatch.undo()
    work()


def test_a_folder_that_cannot_be_written_is_said(store: Store) -> None:
    store.root.parent.mkdir(exist_ok=True)
    store.root.write_text("a file where the folder should be")
    with pytest.raises(ResultsError, match="cannot write"):
        store.begin_attempt(ID)
    with pytest.raises(ResultsError, match="cannot write"):
        make_folder(store.root)
    assert store.read(ID) is None


def test_attempts_are_counted(store: Store) -> None:
    assert [store.begin_attempt(ID).name for _ in range(3)] == ["1", "2", "3"]
    shutil.rmtree(store.folder(ID) / "attempts" / "1")
    assert store.begin_attempt(ID).name == "4"


def test_a_failed_record_is_set_aside_and_no_other(store: Store) -> None:
    commit(store, record(status="failed", reason="RuntimeError: x", result=Result()))
    assert store.set_aside(ID)
    assert store.read(ID) is None
    assert (store.folder(ID) / "attempts" / "1" / "failed.json").is_file()
    assert not store.set_aside(ID)
    commit(store, record(attempt=2))
    assert not store.set_aside(ID)
    assert store.read(ID) is not None


def hold(root: Path, pipe: Any) -> None:
    with Store(root).lock(ID) as held:
        pipe.send(held)
        pipe.recv()


@pytest.fixture
def holder(store: Store) -> Iterator[Any]:
    """Another process that holds the trial's lock."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(store.root, theirs))
    process.start()
    assert ours.recv()
    yield process
    process.kill()
    process.join()


def test_a_lock_dies_with_its_holder(store: Store, holder: Any) -> None:
    with store.lock(ID) as held:
        assert not held
    assert store.locked([ID, "f" * 16]) == {ID}
    holder.kill()
    holder.join()
    with store.lock(ID) as held:
        assert held
    assert store.locked([ID]) == set()


def test_without_working_locks_the_first_writer_wins_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with store.lock(ID) as held:
        assert held
        assert commit(store, record())
    assert not commit(store, record(attempt=2))


def test_without_hard_links_the_first_writer_wins_all_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert commit(store, record(), **{"predictions.npz": b"one"})
    assert not commit(store, record(attempt=2), **{"predictions.npz": b"one"})
    with pytest.raises(ResultsError, match="conflict"):
        commit(store, record(top1=1.0, attempt=3))
    assert store.read(ID) == record()


def counted(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> int:
    """How many files `work` reads."""
    count, read = 0, record_module.read

    def reading(path: Path, max_bytes: int) -> bytes:
        nonlocal count
        count += 1
        return read(path, max_bytes)

    with monkeypatch.context() as patch:
        patch.setattr(record_module, "read", reading)
        work()
    return count


@pytest.mark.slow
def test_ten_thousand_records_are_read_once_each(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    text = record().model_dump_json()
    ids = [f"{number:016x}" for number in range(10_000)]
    for trial_id in ids:
        folder = store.folder(trial_id)
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(text.replace(ID, trial_id))
    assert counted(monkeypatch, lambda: store.read_all(ids)) == len(ids)
    assert set(store.read_all(ids[:50])) == set(ids[:50])
