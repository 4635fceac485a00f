"""The page on statistics does what it says: its code runs as it stands and prints what is printed below it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = re.compile(r"```python\n(?P<code>.*?)```\n\n```text\n(?P<printed>.*?)```", re.DOTALL)


def examples(page: str) -> list[tuple[str, str]]:
    """Each block of code with the block of output that follows it."""
    return [(found["code"], found["printed"]) for found in EXAMPLE.finditer(page)]


def test_code_prints_what_the_page_shows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs/STATISTICS.md").read_text()
    found = examples(page)
    assert len(found) == page.count("```python") == 3
    monkeypatch.chdir(ROOT)
    notebook: dict[str, object] = {}
    for code, printed in found:
        exec(code, notebook)
        assert capsys.readouterr().out == printed


def test_names_of_files_in_the_page_exist() -> None:
    page = (ROOT / "docs/STATISTICS.md").read_text()
    named = re.findall(r"tests/[\w/]+(?:\.py)?", page)
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]
