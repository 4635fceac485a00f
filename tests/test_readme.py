"""README.md shows what the committed results give.

`python tests/test_readme.py` writes the table of verdicts anew.
"""

from __future__ import annotations

import re
from pathlib import Path

from vitbench.cli.commands.prepare import read_run, runs
from vitbench.cli.commands.verdicts import Judged, verdict_lines, verdicts_of
from vitbench.store.rows import read_rows

HERE = Path(__file__).parent.parent
PAGE = HERE / "README.md"
ROOT = HERE / "results" / "tier1-digits"
SHOWN = ("CLS-01", "CLS-02", "DATA-01b", "DATA-02", "POS-01")
WIDTH = 120
BLOCK = re.compile(r"(?<=```text\n)claim .*?(?=```)", re.DOTALL)


def judged() -> list[Judged]:
    return [
        Judged(folder.name, verdict)
        for folder in runs(ROOT)
        for verdict in verdicts_of(read_run(folder), read_rows(folder), folder)
    ]


def table(verdicts: list[Judged]) -> str:
    """The chosen rows of the table, as a terminal shows them."""
    lines = verdict_lines([item for item in verdicts if item.verdict.claim in SHOWN], WIDTH)
    return "\n".join(line.plain for line in lines).rpartition("\n\n")[0] + "\n"


def test_the_readme_shows_the_verdicts_of_the_committed_results() -> None:
    page, verdicts = PAGE.read_text(encoding="utf-8"), judged()
    assert BLOCK.findall(page) == [table(verdicts)]
    assert f"five of the {len(verdicts)} verdicts" in page
    assert {item.verdict.state for item in verdicts if item.verdict.claim in SHOWN} == {
        "supported", "contradicted", "inconclusive", "untested",
    }  # fmt: skip


def test_every_link_of_a_page_leads_somewhere() -> None:
    pages = [*HERE.glob("*.md"), *(HERE / "docs").glob("*.md"), HERE / "results" / "README.md"]
    links = [
        (page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    ]
    assert len(links) > 20
    assert not [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()]


def missing_files(page: Path) -> list[str]:
    """Files that a page names (`room/file.py`, or a file in its room's row of a table) and that do not exist."""
    text = page.read_text(encoding="utf-8")
    named = {Path(name) for name in re.findall(r"`([\w./]+/[\w.]+\.py)`", text)}
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", text, re.MULTILINE)
    in_rooms = {Path(room, name) for room, cell in rows for name in re.findall(r"`([\w/]+\.py)`", cell)}
    folders = (HERE, HERE / "vitbench", HERE / "tests", *(HERE / "vitbench").iterdir())
    return sorted(
        str(path)
        for path in named | (in_rooms if page.stem == "ARCHITECTURE" else set())
        if not any((folder / path).is_file() for folder in folders)
    )


def test_every_named_file_exists(tmp_path: Path) -> None:
    pages = [*HERE.glob("*.md"), *(HERE / "docs").glob("*.md")]
    assert not {page.name: files for page in pages if (files := missing_files(page))}
    wrong = tmp_path / "ARCHITECTURE.md"
    wrong.write_text("`spec/gone.py` is read first.\n\n| `store` | what is on disk | `record.py`, `shelf.py` |\n")
    assert missing_files(wrong) == ["spec/gone.py", "store/shelf.py"]


def test_the_map_names_every_room() -> None:
    rooms = {path.parent.name for path in (HERE / "vitbench").glob("*/__init__.py")}
    for name in ("README.md", "docs/ARCHITECTURE.md"):
        text = (HERE / name).read_text(encoding="utf-8")
        assert not [room for room in rooms if not re.search(rf"\b{room}`?/?\b", text)], name


if __name__ == "__main__":
    PAGE.write_text(BLOCK.sub(lambda _: table(judged()), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
