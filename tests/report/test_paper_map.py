"""docs/PAPER.md: every table and figure of the paper, drawn from the claims and the scoreboards."""

from __future__ import annotations

import re
from pathlib import Path

from vitbench.report.scoreboard.ledger import ledger
from vitbench.report.scoreboard.paper_map import EXHIBITS, paper_map, read_scores

ROOT = Path(__file__).parents[2]


def row_of(page: str, claim: str) -> list[str]:
    """The cells of the first row that has the claim."""
    line = next(line for line in page.splitlines() if f"| {claim}:" in line)
    return [cell.strip() for cell in line.strip("|").split("|")]


def line_of(claim: str, **values: str) -> dict[str, str]:
    """A line of a scoreboard."""
    return {
        "claim": claim,
        "verdict": "untested",
        "effect": "",
        "low": "",
        "high": "",
        "n": "0",
        "page": "r/x.html",
        **values,
    }


def test_committed_page_is_what_the_data_give() -> None:
    assert (ROOT / "docs/PAPER.md").read_text() == paper_map(read_scores(ROOT / "results"))


def test_every_table_and_figure_stands_once_with_claims_or_a_reason() -> None:
    places = [exhibit.place for exhibit in EXHIBITS]
    wanted = [f"Table {n}" for n in range(1, 10)] + [f"Fig. {n}" for n in range(1, 15)]
    assert sorted(wanted) == sorted(place for place in places if re.match("Table|Fig", place))
    assert all(bool(exhibit.claims) != bool(exhibit.instead) for exhibit in EXHIBITS)
    assert {claim for exhibit in EXHIBITS for claim in exhibit.claims} <= ledger().keys()


def test_every_claim_whose_only_source_is_the_paper_is_on_the_map() -> None:
    shown = {claim for exhibit in EXHIBITS for claim in exhibit.claims}
    papers = {claim for claim, entry in ledger().items() if re.match(r"ViT .*(Table|Fig)", entry.source)}
    assert papers <= shown


def test_a_verdict_stands_beside_the_papers_number_with_interval_and_seeds() -> None:
    measured = line_of("POS-01", verdict="supported", effect="1.765", low="1.08", high="2.449", n="12", page="p/x.html")
    page = paper_map({"one": [measured], "two": []})
    assert row_of(page, "POS-01")[4:] == [
        "+2.82", "+1.76 [+1.08, +2.45], n = 12: [supported](../results/one/p/x.html)", "not run",
    ]  # fmt: skip


def test_a_claim_links_to_its_page_or_to_the_scoreboard(tmp_path: Path) -> None:
    for name in ("old", "whole"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scoreboard.csv").write_text("claim,run\nPOS-01,p\n")
    (tmp_path / "whole" / "p").mkdir()
    (tmp_path / "whole" / "p" / "index.html").touch()
    pages = {name: lines[0]["page"] for name, lines in read_scores(tmp_path).items()}
    assert pages == {"old": "scoreboard.md", "whole": "p/index.html#claim-POS-01"}


def test_parts_have_their_letters_and_the_untested_no_number() -> None:
    page = paper_map({"one": [line_of("DATA-01a", effect="0.8", low="-3", high="5", n="5"), line_of("DATA-01b")]})
    cell = row_of(page, "DATA-01")[5]
    assert cell.startswith("a: +0.80 [-3.00, +5.00], n = 5: ")
    assert cell.endswith("b: [untested](../results/one/r/x.html)")


def test_a_claim_that_nothing_declares_says_what_it_needs() -> None:
    row = row_of(paper_map({"one": []}), "CLS-03")
    assert row[3].startswith("analysis:")
    assert row[5] == ""
