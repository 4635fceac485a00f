"""docs/FINDINGS.md: what it says of each claim is what the committed scoreboards say.

`python tests/test_findings.py` writes the measured lines under every claim's heading; the words below them are by hand.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent.parent
PAGE = HERE / "docs" / "FINDINGS.md"
PLACES = {
    "tier1-digits": "digits",
    "tier1-fashion": "Fashion-MNIST",
    "fashion-2": "Fashion-MNIST, second edition",
    "tier2-cifar10": "CIFAR-10",
}
CLAIM = re.compile(r"^#### ([A-Z]+(?:-\w+)+):.*\n\n((?:- .*\n)*)", re.MULTILINE)


def scoreboards() -> Iterator[tuple[str, dict[str, str]]]:
    """(place, line) of every verdict in the committed results."""
    for name, place in PLACES.items():
        path = HERE / "results" / name / "scoreboard.csv"
        with path.open(encoding="utf-8", newline="") as lines:
            yield from ((place, line) for line in csv.DictReader(lines))


def number(text: str) -> str:
    """`+1.06` of `1.0585`."""
    return f"{float(text):+.2f}"


def measured(place: str, line: dict[str, str]) -> str:
    """What one run says of a claim."""
    if line["verdict"] == "untested":
        return f"- {place}: untested ({line['reason']})\n"
    interval = f"[{number(line['low'])}, {number(line['high'])}] ({float(line['level']):.0%})"
    marks = [line["reason"], "under-trained" if "under-trained" in line["qualified"] else ""]
    said = "".join(f"; {mark}" for mark in marks if mark)
    return f"- {place}: **{line['verdict']}**, {number(line['effect'])} {interval}, n = {line['n']}{said}\n"


def expected() -> dict[str, str]:
    """Claim -> its measured lines, and the source's number."""
    out: dict[str, str] = {}
    sources: dict[str, str] = {}
    for place, line in scoreboards():
        out[line["claim"]] = out.get(line["claim"], "") + measured(place, line)
        if line["paper_source"]:
            effect = number(line["paper_effect"]) if line["paper_effect"] else "no number"
            sources.setdefault(line["claim"], f"- source: {effect} ({line['paper_source']})\n")
    return {claim: lines + sources.get(claim, "") for claim, lines in out.items()}


def test_every_claim_has_its_paragraph_and_the_numbers_of_the_records() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert dict(CLAIM.findall(page)) == expected()
    for claim in expected():
        words = page.split(f"#### {claim}:")[1].split("\n#")[0].rpartition("\n- ")[2].partition("\n\n")[2]
        assert len(words.split()) > 15, f"{claim}: why, and what would settle it"


def test_a_wrong_number_is_seen() -> None:
    page = PAGE.read_text(encoding="utf-8")
    changed = re.sub(r"(#### POS-01:.*\n\n- digits: \*\*)supported", r"\1contradicted", page)
    assert changed != page
    assert dict(CLAIM.findall(changed)) != expected()


if __name__ == "__main__":
    known = expected()
    text = PAGE.read_text(encoding="utf-8")
    blank = {"": "\n"}
    text = CLAIM.sub(lambda at: at[0][: -len(at[2]) or None] + known.get(at[1], at[2]) + blank.get(at[2], ""), text)
    PAGE.write_text(text, encoding="utf-8")
    print("without a paragraph:", ", ".join(sorted(known.keys() - dict(CLAIM.findall(text)).keys())) or "none")
