"""A derived index of committed records, `trials/index.sqlite`: what was read of each, beside the stamp of its file.

It also remembers which lines of `records.jsonl` were checked against the record of their trial.

The index is a cache. An entry counts only while the record's file has the same inode, size and times as when it was
read, and while the entry's own checksum fits. Without an index, or with a damaged one, records are read as ever.

SQLite never sees the file: its bytes are read and replaced whole, and the database lives in memory. So there is no
journal, no lock and no wait, on any file system, and no link is followed.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
import time
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from vitbench.base.contained import read
from vitbench.base.durable import replace_durably
from vitbench.base.errors import VitbenchError
from vitbench.store.record import Status
from vitbench.store.summary import Summary

INDEX_FILE = "index.sqlite"
INDEX_VERSION = 1
"""Raised by hand when an entry's layout or meaning changes."""
SUMMARIES, LINES = TABLES = "summaries", "lines"
SCHEMA = {name: f"CREATE TABLE {name} (key TEXT PRIMARY KEY, entry BLOB) WITHOUT ROWID" for name in TABLES}
SETTLED_NS = 2_000_000_000
"""A file that changed less than this ago is not indexed: it could change again without a new time."""
NEW_SHARE = 0.01
"""The index is written anew once this share of it is new."""
STATUSES: tuple[Status, ...] = ("ok", "diverged", "failed")

Stamp = tuple[int, int, int, int]
"""Inode, time of the last change of the content and of the status, in nanoseconds, and size."""
ABSENT: Stamp = (0, 0, 0, 0)
"""Instead of a stamp, where there is no file."""
STAMP = struct.Struct("<QqqQ")
SUMMARY = struct.Struct("<B3d")
CHECKSUM = struct.Struct("<I")


def stamp_of(status: os.stat_result) -> Stamp:
    """The stamp of a file."""
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


class Index:
    """The index in a file, as it was when it was opened, and what is added since; it never raises."""

    def __init__(self, path: Path) -> None:
        self._path, self._opened_ns = path, time.time_ns()
        self._database = _database(path)
        self._new: dict[str, dict[str, bytes]] = {table: {} for table in TABLES}

    def summaries(self, stamps: Mapping[str, Stamp]) -> dict[str, Summary]:
        """The summaries of records whose files have these stamps, by trial id; ids that it lacks are left out."""
        out, pack, unpack, size = {}, STAMP.pack, SUMMARY.unpack_from, STAMP.size
        for trial_id, entry in self._entries(SUMMARIES, stamps):
            try:
                if entry.startswith(pack(*stamps[trial_id])):
                    code, top1, loss, seconds = unpack(entry, size)
                    numbers = top1 if top1 == top1 else None, loss if loss == loss else None, seconds
                    out[trial_id] = Summary(STATUSES[code], *numbers)
            except (struct.error, IndexError):
                continue
        return out

    def add_summary(self, trial_id: str, stamp: Stamp, summary: Summary) -> None:
        """Remember the summary of a record whose file had this stamp before it was read."""
        nan = float("nan")
        numbers = (nan if number is None else number for number in (summary.val_top1_percent, summary.val_loss))
        self._add(SUMMARIES, trial_id, stamp, SUMMARY.pack(STATUSES.index(summary.status), *numbers, summary.seconds))

    def lines(self, digests: Collection[str]) -> dict[str, tuple[str, Stamp]]:
        """The trials that checked lines name, and the stamps that their records had; other lines are left out."""
        out = {}
        for digest, entry in self._entries(LINES, frozenset(digests)):
            with contextlib.suppress(struct.error, UnicodeDecodeError):
                out[digest] = entry[STAMP.size :].decode(), STAMP.unpack_from(entry)
        return out

    def add_line(self, digest: str, trial_id: str, stamp: Stamp) -> None:
        """Remember that a line agrees with the record of its trial, whose file had this stamp before it was read."""
        self._add(LINES, digest, stamp, trial_id.encode())

    def save(self) -> None:
        """Write the index if enough is new; a folder that is not there or cannot be written stays as it is."""
        num_new = sum(len(new) for new in self._new.values())
        with contextlib.suppress(sqlite3.Error, VitbenchError, OSError):
            if not num_new or num_new < NEW_SHARE * self._num_old() or not self._path.parent.is_dir():
                return
            for table, new in self._new.items():
                self._database.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", new.items())
            self._database.commit()
            replace_durably(self._path, self._database.serialize())

    def _num_old(self) -> int:
        counts = (self._database.execute(f"SELECT COUNT(*) FROM {table}").fetchone() for table in TABLES)
        return sum(int(count) for (count,) in counts)

    def _entries(self, table: str, keys: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """What stands under the keys, where it is whole. Many keys: reading all rows takes a quarter of the time."""
        with contextlib.suppress(sqlite3.Error):
            for key, whole in self._database.execute(f"SELECT key, entry FROM {table}"):
                if key in keys and isinstance(whole, bytes):
                    entry = whole[: -CHECKSUM.size]
                    if whole.endswith(_checksum(key, entry)):
                        yield key, entry

    def _add(self, table: str, key: str, stamp: Stamp, payload: bytes) -> None:
        if stamp[2] <= self._opened_ns - SETTLED_NS:
            entry = STAMP.pack(*stamp) + payload
            self._new[table][key] = entry + _checksum(key, entry)


def _database(path: Path) -> sqlite3.Connection:
    """The database in a file, in memory; an empty one if there is none, or none of this version."""
    with contextlib.suppress(sqlite3.Error, VitbenchError, OSError, OverflowError, ValueError):
        database = sqlite3.connect(":memory:")
        database.deserialize(read(path))
        tables = dict(database.execute("SELECT name, sql FROM sqlite_schema").fetchall())
        version = database.execute("PRAGMA user_version").fetchone()
        if tables == SCHEMA and version == (INDEX_VERSION,):
            return database
    database = sqlite3.connect(":memory:")
    for text in SCHEMA.values():
        database.execute(text)
    database.execute(f"PRAGMA user_version = {INDEX_VERSION}")
    return database


def _checksum(key: str, entry: bytes) -> bytes:
    return CHECKSUM.pack(zlib.crc32(entry, zlib.crc32(key.encode())))
