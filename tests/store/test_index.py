"""The derived index never changes an answer: whatever happens to records or to the index, they equal direct reading."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vitbench.base.collector import collector_paused
from vitbench.base.errors import ResultsError
from vitbench.store import index, trials
from vitbench.store.index import INDEX_FILE
from vitbench.store.record import CurvePoint, Record, Result, Run, read_record
from vitbench.store.summary import Summary, summary_of
from vitbench.store.trials import Store

IDS = [f"{number:016x}" for number in range(40)]
TICK_SECONDS = 0.02
"""Longer than the steps of a file system's clock."""


pytestmark = pytest.mark.usefixtures("everything_is_indexed")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def record_of(trial_id: str, draw: random.Random) -> Record:
    """A record with random values in every field that a summary has."""
    curve = (CurvePoint(step=1, train_loss=1.0, val_loss=draw.choice([None, round(draw.random(), 3)])),)
    result = Result(val_top1_percent=draw.choice([None, 0.0, round(draw.uniform(0, 100), 3)]), curve=curve)
    status = draw.choice(["ok", "diverged", "failed"])
    run = Run(train_seconds=round(draw.uniform(0, 9), 3), eval_seconds=round(draw.random(), 3))
    return Record(trial_id=trial_id, status=status, seed=0, data_fingerprint="f" * 64, spec={}, result=result, run=run)  # type: ignore[arg-type]


def write(store: Store, trial_id: str, draw: random.Random) -> None:
    """Put a random record in place, in a new file or in the same one."""
    path = store.trials / trial_id / "record.json"
    if path.is_symlink():
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(record_of(trial_id, draw).model_dump_json(exclude_none=True))


def directly(store: Store, trial_ids: list[str]) -> dict[str, Summary] | str:
    """The summaries read from the files alone, or the words of the error."""
    out = {}
    for trial_id in trial_ids:
        try:
            record = read_record(store.folder(trial_id) / "record.json")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except ResultsError as error:
            return str(error)
        if record.trial_id != trial_id:
            return f"{store.folder(trial_id) / 'record.json'}: the record of another trial, {record.trial_id}"
        out[trial_id] = summary_of(record)
    return out


def indexed(store: Store, trial_ids: list[str]) -> dict[str, Summary] | str:
    """The summaries by way of the index, or the words of the error."""
    try:
        return store.summaries(trial_ids)
    except ResultsError as error:
        return str(error)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flip(path: Path, draw: random.Random) -> None:
    """Change some bytes of a file in place."""
    content = bytearray(path.read_bytes())
    for _ in range(draw.randint(1, 40)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    path.write_bytes(bytes(content))


def change_records(store: Store, draw: random.Random) -> None:
    """Add, change, remove and damage some records."""
    for trial_id in draw.sample(IDS, draw.randint(1, 6)):
        path = store.trials / trial_id / "record.json"
        action = draw.choice(["write", "write", "write", "remove", "remove folder", "flip", "foreign", "link"])
        if action == "write" or not path.is_file():
            write(store, trial_id, draw)
        elif action == "remove":
            path.unlink()
        elif action == "remove folder":
            shutil.rmtree(path.parent)
        elif action == "flip" and draw.random() < 0.3:
            flip(path, draw)
        elif action == "foreign" and draw.random() < 0.3:
            path.write_text(record_of(draw.choice(IDS), draw).model_dump_json(exclude_none=True))
        elif action == "link" and draw.random() < 0.3:
            path.unlink()
            path.symlink_to(store.trials / IDS[0] / "record.json")


def change_index(store: Store, draw: random.Random) -> None:
    """Leave the index, damage it, or put something else in its place."""
    path = store.trials / INDEX_FILE
    action = draw.choice(
        ["leave", "leave", "leave", "flip", "cut", "text", "version", "schema", "link", "folder", "no"]
    )
    if action == "leave" or not path.is_file() or path.is_symlink():
        return
    content = path.read_bytes()
    if action == "flip":
        flip(path, draw)
        return
    remove(path)
    if action == "cut":
        path.write_bytes(content[: draw.randrange(len(content))])
    elif action == "text":
        path.write_text("no database")
    elif action in ("version", "schema"):
        path.write_bytes(content)
        database = sqlite3.connect(path)
        with contextlib.suppress(sqlite3.DatabaseError):  # An earlier round may have damaged it.
            database.execute("PRAGMA user_version = 99" if action == "version" else "CREATE TABLE more (x)")
            database.commit()
        database.close()
    elif action == "link":
        path.symlink_to(store.root / "elsewhere")
    elif action == "folder":
        path.mkdir()


@pytest.mark.parametrize("seed", range(3))
def test_random_damage_never_changes_an_answer(store: Store, seed: int) -> None:
    draw, kinds = random.Random(seed), set()
    for trial_id in IDS[:30]:
        write(store, trial_id, draw)
    for _ in range(20):
        asked = draw.sample(IDS, draw.randint(1, len(IDS)))
        answer = indexed(store, asked)
        assert answer == directly(store, asked)
        assert indexed(store, asked) == answer, "from the index that the first call wrote"
        kinds.add(type(answer))
        time.sleep(TICK_SECONDS)
        change_index(store, draw)
        change_records(store, draw)
        if isinstance(answer, str):  # Repair what was damaged, as its one error hides the rest.
            for trial_id in IDS:
                remove(store.trials / trial_id)
                write(store, trial_id, draw)
        if (store.trials / INDEX_FILE).is_dir():
            remove(store.trials / INDEX_FILE)
    assert kinds == {dict, str}
    assert not (store.root / "elsewhere").exists(), "a link in the index's place is not followed"


def test_a_second_look_reads_no_record(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for trial_id in IDS:
        write(store, trial_id, random.Random(0))
    first = store.summaries(IDS)

    def refuse(*_: object) -> Record:
        raise AssertionError("read from its file")

    monkeypatch.setattr(trials, "read_record", refuse)
    assert store.summaries(IDS) == first


def test_an_entry_whose_numbers_were_changed_does_not_count(store: Store) -> None:
    write(store, IDS[0], random.Random(0))
    first, path = store.summaries(IDS[:1]), store.trials / INDEX_FILE
    database = sqlite3.connect(path)
    ((entry,),) = database.execute("SELECT entry FROM summaries")
    changed = bytearray(entry)
    changed[index.STAMP.size + 9] ^= 1
    database.execute("UPDATE summaries SET entry = ?", (bytes(changed),))
    database.commit()
    database.close()
    assert store.summaries(IDS[:1]) == first == directly(store, IDS[:1])


def test_a_record_that_changes_in_place_with_its_old_size_and_time_is_read_again(store: Store) -> None:
    """The time of the content can be set back; the time of the status cannot."""
    write(store, IDS[0], random.Random(0))
    path = store.trials / IDS[0] / "record.json"
    before, status = store.summaries(IDS[:1])[IDS[0]], path.stat()
    time.sleep(TICK_SECONDS)
    text = path.read_text()
    seconds = str(read_record(path).run.train_seconds)
    path.write_text(text.replace(f'"train_seconds":{seconds}', f'"train_seconds":{seconds[:-1]}{9 - int(seconds[-1])}'))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert store.summaries(IDS[:1])[IDS[0]] != before


def test_a_record_that_has_just_changed_is_not_indexed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could change again within one step of the file system's clock."""
    monkeypatch.setattr(index, "SETTLED_NS", 60_000_000_000)
    write(store, IDS[0], random.Random(0))
    assert store.summaries(IDS[:1])
    assert not (store.trials / INDEX_FILE).exists()


@pytest.mark.parametrize("seal", ["read only", "no space"])
def test_a_root_that_cannot_be_written_is_read_all_the_same(
    store: Store, seal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for trial_id in IDS[:5]:
        write(store, trial_id, random.Random(0))
    number = 30 if seal == "read only" else 28

    def refuse(*_: object) -> Callable[..., None]:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", refuse)
    assert store.summaries(IDS) == directly(store, IDS)
    assert sorted(path.name for path in store.trials.iterdir()) == IDS[:5], "nothing is left behind"


def test_the_collector_is_paused_and_restored() -> None:
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            with collector_paused():
                assert not gc.isenabled()
            assert gc.isenabled() is enabled
            with pytest.raises(ZeroDivisionError), collector_paused():
                _ = 1 / 0
            assert gc.isenabled() is enabled
        finally:
            gc.enable()
