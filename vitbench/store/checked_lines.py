"""Which lines of a `records.jsonl` were already checked against their records, and need not be checked again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from vitbench.store import trials
from vitbench.store.index import Stamp
from vitbench.store.trials import Store


class CheckedLines:
    """The lines of one file and what the index says of them: `checked`, per line.

    A line counts as checked if the same bytes were checked by the same code (`checks`, a digest) against the record
    that its trial has now. Only many lines are looked up, and only in a root that has trials.
    """

    def __init__(self, lines: Sequence[str], store: Store, checks: str) -> None:
        indexed = len(lines) >= trials.INDEXED_FROM and store.trials.is_dir()
        self._store, self._index = store, store.index() if indexed else None
        self._digests = [_digest(line, checks) for line in lines] if indexed else []
        self._ids: list[str] = []
        self._stamps: list[Stamp | None] = []
        known = {} if self._index is None else self._index.lines(self._digests)
        self.checked = [self._is_checked(known.get(digest)) for digest in self._digests]

    def _is_checked(self, entry: tuple[str, Stamp] | None) -> bool:
        return entry is not None and self._store.stamp(entry[0]) == entry[1]

    def note(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Note the stamps of the rows' records, before the rows are held against them."""
        if self._index is not None:
            self._ids = [row["trial_id"] for row in rows]
            self._stamps = [
                None if checked else self._store.stamp(trial_id)
                for trial_id, checked in zip(self._ids, self.checked, strict=True)
            ]

    def save(self) -> None:
        """Remember all lines: every row agrees with its record."""
        if self._index is not None:
            for digest, trial_id, stamp in zip(self._digests, self._ids, self._stamps, strict=True):
                if stamp is not None:
                    self._index.add_line(digest, trial_id, stamp)
            self._index.save()


def _digest(line: str, checks: str) -> str:
    return hashlib.blake2b(line.encode(), digest_size=16, key=checks.encode()[:64]).hexdigest()
