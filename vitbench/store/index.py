"""A derived index of committed records, `trials/index.sqlite`: what was read of each, beside the stamp of its file.

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
from pathlib import Path

from vitbench.base.contained import read
from vitbench.base.durable import replace_durably
from vitbench.base.errors import VitbenchError
from vitbench.store.record import Status
from vitbench.store.summary import Summary

INDEX_FILE = "index.sqlite"
INDEX_VERSION = 1
"""Raised by hand when an entry's layout or meaning changes."""
SCHEMA = ("CREATE TABLE summaries (trial_id TEXT PRIMARY KEY, entry BLOB) WITHOUT ROWID",)
SETTLED_NS = 2_000_000_000
"""A file that changed less than this ago is not indexed: it could change again without a new time."""
NEW_SHARE = 0.01
"""The index is written anew once this share of it is new."""
STATUSES: tuple[Status, ...] = ("ok", "diverged", "failed")

Stamp = tuple[int, int, int, int]
"""Inode, time of the last change of the content and of the status, in nanoseconds, and size."""
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
        self._new: dict[str, bytes] = {}

    def summary(self, trial_id: str, stamp: Stamp) -> Summary | None:
        """The summary of a record whose file has this stamp; None if the index does not have it."""
        with contextlib.suppress(sqlite3.Error, struct.error, TypeError, IndexError):
            row = self._database.execute("SELECT entry FROM summaries WHERE trial_id = ?", (trial_id,)).fetchone()
            if row is not None and _is_whole(trial_id, row[0]) and row[0].startswith(STAMP.pack(*stamp)):
                code, *numbers, seconds = SUMMARY.unpack_from(row[0], STAMP.size)
                top1, loss = (None if number != number else number for number in numbers)
                return Summary(STATUSES[code], top1, loss, seconds)
        return None

    def add_summary(self, trial_id: str, stamp: Stamp, summary: Summary) -> None:
        """Remember the summary of a record whose file had this stamp before it was read."""
        if stamp[2] > self._opened_ns - SETTLED_NS:
            return
        numbers = (
            float("nan") if number is None else number for number in (summary.val_top1_percent, summary.val_loss)
        )
        entry = STAMP.pack(*stamp) + SUMMARY.pack(STATUSES.index(summary.status), *numbers, summary.seconds)
        self._new[trial_id] = entry + _checksum(trial_id, entry)

    def save(self) -> None:
        """Write the index if enough is new; a folder that cannot be written stays as it is."""
        with contextlib.suppress(sqlite3.Error, VitbenchError, OSError):
            (num_old,) = self._database.execute("SELECT COUNT(*) FROM summaries").fetchone()
            if self._new and len(self._new) >= NEW_SHARE * num_old:
                self._database.executemany("INSERT OR REPLACE INTO summaries VALUES (?, ?)", self._new.items())
                self._database.commit()
                replace_durably(self._path, self._database.serialize())


def _database(path: Path) -> sqlite3.Connection:
    """The database in a file, in memory; an empty one if there is none, or none of this version."""
    with contextlib.suppress(sqlite3.Error, VitbenchError, OSError, OverflowError, ValueError):
        database = sqlite3.connect(":memory:")
        database.deserialize(read(path))
        tables = database.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall()
        version = database.execute("PRAGMA user_version").fetchone()
        if tables == [(text,) for text in SCHEMA] and version == (INDEX_VERSION,):
            return database
    database = sqlite3.connect(":memory:")
    for text in SCHEMA:
        database.execute(text)
    database.execute(f"PRAGMA user_version = {INDEX_VERSION}")
    return database


def _checksum(key: str, entry: bytes) -> bytes:
    return CHECKSUM.pack(zlib.crc32(entry, zlib.crc32(key.encode())))


def _is_whole(key: str, entry: bytes) -> bool:
    return _checksum(key, entry[: -CHECKSUM.size]) == entry[-CHECKSUM.size :]
