"""The committed results: every table is what its records give, and no page shows images that may not be shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import Cli

ROOTS = sorted(path for path in (Path(__file__).parent.parent / "results").glob("tier*-*") if path.is_dir())


@pytest.mark.parametrize("root", ROOTS, ids=lambda path: path.name)
def test_committed_tables_are_what_their_records_give(root: Path, cli: Cli) -> None:
    answer = cli("report", "--check", "--results", str(root))
    assert answer.code == 0, answer.out
    assert sum(path.stat().st_size for path in root.rglob("*") if "trials" not in path.parts) < 10 * 2**20


def test_the_readme_shows_the_committed_table_and_picture() -> None:
    here = Path(__file__).parent.parent
    readme = (here / "README.md").read_text(encoding="utf-8")
    table = (here / "results/tier1-digits/position_encoding/table.md").read_text(encoding="utf-8").splitlines()
    shown = [line for line in readme.splitlines() if line.startswith("| learned_1d")]
    assert shown
    assert set(shown) <= set(table)
    for path in re.findall(r"\]\((results/[^)]+)\)", readme):
        assert (here / path).is_file(), path
