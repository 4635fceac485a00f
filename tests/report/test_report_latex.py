"""LaTeX tables compile in a minimal document where there is a pdflatex; everywhere their brackets and cells match."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from golden_report import GOLDEN

from vitbench.report.formats import Table, to_latex

EVIL = "<script>|`x`*b*[a](javascript:x)$\\input{x}&%#_^~\x1b[31m\n\\end\"'–é{}"
LONG = "At the learning rate of the class token average pooling is clearly worse."
DOCUMENT = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\nTEXT\n\\end{document}\n"


def evil_table() -> Table:
    wide = tuple(f"+{k}.00 ± 1.00 ≈" for k in range(9))
    header = ("Arm", "Says", *(f"At a setting with a long name, {k}" for k in range(9)))
    rows = ((EVIL, LONG, *wide), ("=cmd()", "-", *wide))
    return Table(EVIL, header, rows, frozenset({(0, 0)}), (EVIL,))


TEXTS = {
    "golden": (GOLDEN / "class_token_vs_gap/table.tex").read_text(encoding="utf-8"),
    "evil": to_latex(evil_table(), "tab:evil"),
}


def problems(text: str) -> list[str]:
    """What keeps a table from compiling: brackets, environments or cells that do not match, a bare special sign."""
    found = []
    plain = re.sub(r"\\[\\{}$&#%_]", "", text)
    if plain.count("{") != plain.count("}"):
        found.append("brackets")
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            opened.append(name)
        elif not opened or opened.pop() != name:
            found.append(f"end of {name}")
    found += [f"no end of {name}" for name in opened]
    for columns, body in re.findall(
        r"\\begin\{tabular\}\{((?:l|r|p\{[^}]*\})+)\}\n(.*?)\n\\end\{tabular\}", text, re.DOTALL
    ):
        num = len(re.findall(r"[lr]|p\{[^}]*\}", columns))
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        found += [line for line in rows if len(re.findall(r"(?<!\\)&", line)) != num - 1]
    found += re.findall(r"(?<!\\)[#^~]|(?<![\\$])\$(?!-\$|\\|\s|[|;,.)}]|$)", re.sub(r"\$[^$]+\$", "", plain))
    return found


@pytest.mark.parametrize("name", TEXTS)
def test_brackets_environments_and_cells_match(name: str) -> None:
    assert problems(TEXTS[name]) == []


@pytest.mark.parametrize(
    "broken", [("}\n\\label", "\n\\label"), ("\\end{tabular}", ""), (" & ", " ", 1), ("\\#", "#"), ("\\toprule\n", "{")]
)
def test_a_broken_table_is_found_out(broken: tuple[str, str]) -> None:
    assert problems(TEXTS["evil"].replace(*broken))


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex on the path")
@pytest.mark.parametrize("name", TEXTS)
def test_tables_compile_and_stay_on_the_page(name: str, tmp_path: Path) -> None:
    (tmp_path / "t.tex").write_text(DOCUMENT.replace("TEXT", TEXTS[name]), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert name == "evil" or "Overfull" not in done.stdout
