"""The scoreboard knows all claims, whether or not a run asked them."""

from __future__ import annotations

import re
from pathlib import Path

from sample_rows import class_token_experiment, class_token_rows, store_run

from vitbench.report.scoreboard.board import scoreboard
from vitbench.report.scoreboard.ledger import LedgerEntry, entry_of, ledger

CLAIMS = (Path(__file__).parents[2] / "docs/CLAIMS.md").read_text(encoding="utf-8")


def test_the_ledger_is_the_page_of_claims() -> None:
    assert list(ledger()) == re.findall(r"^\| ([A-Z][A-Z0-9-]+-\d+) \|", CLAIMS, re.MULTILINE)
    assert all(entry.section and entry.says and entry.source and entry.needs for entry in ledger().values())


def test_a_part_stands_in_its_claims_entry() -> None:
    entry = entry_of("DATA-01b")
    assert entry is not None
    assert entry.claim == "DATA-01"
    assert entry_of("X-9") is None


def test_what_a_claim_takes_is_said_in_words() -> None:
    def needs(place: str) -> str:
        return LedgerEntry("X-1", "s", "says", "source", place).needs

    assert needs("[shape], [patch_size]") == "a run: vitbench run shape"
    assert needs("mechanism: distillation") == "mechanism: distillation"
    assert needs("[shape] (untested there, analysis: R2)") == "analysis: R2"
    assert needs("[shape] (X-1b untested there, scale: more)") == "scale: more"


def test_every_claim_stands_on_the_scoreboard_once(tmp_path: Path) -> None:
    scoreboard(tmp_path, [store_run(tmp_path, class_token_experiment(), class_token_rows(3))])
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    for claim in ledger():
        asked = {"CLS-01": "CLS-01", "CLS-02": "CLS-02a"}.get(claim, claim)
        assert text.count(f'id="{asked}"') == 1, claim
    assert f"2 verdicts on 2 of the {len(ledger())} claims that vitbench can test" in text
    assert f"{len(ledger()) - 2} of {len(ledger())} claims" in text
