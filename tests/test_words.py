"""Plain English: patterns that a reader has to decode stay out of messages, help, docs, docstrings and comments."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PER = (
    "step|image|second|seed|trial|arm|row|line|claim|verdict|class|cell|file|repeat|training|side|run|shape|epoch|"
    "channel|member|process|core"
)
THINGS = "row|line|dot|training|record|column|panel|process|thread|step|picture|trial|file|value|number"
OF = "second|step|side|class|image|arm|repeat|epoch|row|cell|doubling|channel|seed"
AMOUNTS = (
    "images|seconds|bytes|pixels|FLOPs|cells|minutes|trials|threads|pictures|steps|epochs|seeds|MiB|"
    "points|shots|levels|micro-batches|fewer"
)
PATTERNS = {
    r"\b(?<!there )(?:is|are|was|were) (?-i:none)\b": "write 'there is no', or name what is missing",
    r"\bis no (haste|news)\b": "write 'ignore'",
    r"\bwhat \w+( \w+)? (comes?|came) to\b|\bcame to (nothing|others)\b": "name the result",
    r"\bbut for\b": "write 'except for'",
    r"\b(not|cannot) (to )?be had\b": "write 'missing' or 'impossible'",
    rf"\b(a|an|one) ({THINGS}) an? ({PER})\b|\b({AMOUNTS}) an? ({OF})\b": "write 'per': one row per trial",
}
PLACES = ("vitbench", "tests", "experiments", "docs", "README.md", "CONTRIBUTING.md", "SECURITY.md")
SKIPPED = {"tests/test_words.py"}
TEXTS = {".md", ".yaml", ".j2"}
HELD = re.compile(r"golden|results/")


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, text) of everything in a file that a person reads."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(source.splitlines(), 1)
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, " ".join(node.value.split())
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def worn(path: Path) -> list[str]:
    """The patterns in a file, one line each."""
    return [
        f"{path}:{number}: {match[0]!r}: {advice}"
        for number, text in prose(path)
        for pattern, advice in PATTERNS.items()
        if (match := re.search(pattern, text, re.IGNORECASE))
    ]


def files(place: str) -> list[Path]:
    """The files of a room, or the file itself."""
    top = ROOT / place
    found = [top] if top.is_file() else sorted(path for path in top.rglob("*") if path.suffix in {".py", *TEXTS})
    return [path for path in found if str(path.relative_to(ROOT)) not in SKIPPED and not HELD.search(str(path))]


@pytest.mark.parametrize("place", PLACES)
def test_the_words_are_plain(place: str) -> None:
    lines = [line for path in files(place) for line in worn(path)]
    assert files(place)
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.py", '"""What a try came to."""\n'),
        ("x.py", 'raise ValueError(f"{name}: the file is none of ours")\n'),
        ("x.py", "def f():\n    # One line a trial, that is.\n    pass\n"),
        ("x.md", "But for the suite's table, all is measured; but for that.\n"),
        ("x.yaml", "# Two seconds a step\n"),
        ("x.j2", "<p>This is not to be had.</p>\n"),
    ],
)
def test_a_planted_pattern_is_caught(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert len(worn(tmp_path / name)) == 1


def class_names() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "vitbench").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                yield node.name, str(path.relative_to(ROOT))


def file_stems() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "vitbench").rglob("*.py")):
        if not path.stem.startswith("__"):
            yield path.stem, str(path.relative_to(ROOT))


def doubles(names: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    """{name: its places} of names that stand for two things."""
    places: dict[str, list[str]] = defaultdict(list)
    for name, place in names:
        places[name].append(place)
    return {name: where for name, where in places.items() if len(where) > 1}


FILES_TWICE = {"init", "checks", "trials"}
"""`cli/commands/` names files after what a user types; plan and store each have the trials they are about."""


def test_a_name_stands_for_one_thing() -> None:
    assert doubles(class_names()) == {}
    assert doubles(file_stems()).keys() == FILES_TWICE


def test_a_double_name_is_caught() -> None:
    assert doubles(iter([("Table", "a.py"), ("Row", "a.py"), ("Table", "b.py")])) == {"Table": ["a.py", "b.py"]}
