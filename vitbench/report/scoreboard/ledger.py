"""All claims that vitbench can test, read from docs/CLAIMS.md, the only list of them."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

_ROW = re.compile(r"\| (?P<claim>[A-Z][A-Z0-9-]+-\d+) \| [a-z ]+ \| (?P<says>.+) \| (?P<source>.+) \| (?P<place>.+) \|")
_FILE = re.compile(r"\[([\w/]+)\]")


@dataclass(frozen=True)
class LedgerEntry:
    """One claim: statement, source, and the experiment that tests it or what a test needs."""

    claim: str
    section: str
    says: str
    source: str
    place: str

    @property
    def files(self) -> list[str]:
        """The experiments that declare it."""
        return _FILE.findall(self.place)

    @property
    def needs(self) -> str:
        """What a verdict on the claim still needs, in words."""
        note = re.search(r"\((?:.* )?untested there, (.+)\)", self.place)
        if note:
            return note[1]
        return f"a run: vitbench run {self.files[0]}" if self.files else self.place


@functools.cache
def ledger() -> dict[str, LedgerEntry]:
    """{claim: entry} in the order of the page; the wheel carries the page, a checkout has it beside the package."""
    package = Path(__file__).parents[2]
    pages = [folder / "docs/CLAIMS.md" for folder in (package, package.parent)]
    text = next((page.read_text(encoding="utf-8") for page in pages if page.is_file()), "")
    section, entries = "", {}
    for line in text.splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        if row := _ROW.fullmatch(line):
            entries[row["claim"]] = LedgerEntry(row["claim"], section, row["says"], row["source"], row["place"])
    return entries


def entry_of(claim: str) -> LedgerEntry | None:
    """The entry of a claim or of its part (`DATA-01a` is a part of `DATA-01`)."""
    return ledger().get(claim) or ledger().get(re.sub(r"[a-z]$", "", claim))
