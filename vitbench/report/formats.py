"""One table as Markdown, LaTeX (booktabs), CSV, and for the terminal; names are escaped in each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Group, JustifyMethod
from rich.table import Table as RichTable
from rich.text import Text
from tabulate import tabulate

from vitbench.base.durable import replace_durably
from vitbench.base.errors import printable
from vitbench.report.row_values import Behind

if TYPE_CHECKING:
    import pandas as pd

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "[": "{[}", "±": r"$\pm$", "≈": r"$\approx$",
}  # fmt: skip
_MARKDOWN = {"&": "&amp;", "<": "&lt;", ">": "&gt;", **{mark: "\\" + mark for mark in "\\`*_[]|"}}
Format = Literal["md", "html", "tex", "csv"]
ALL: tuple[Format, ...] = ("md", "html", "tex", "csv")
_GUTTER = 3
"""Characters between two columns in a terminal."""
_SENTENCE = 45
"""Characters above which a LaTeX cell is broken into lines."""
_LATEX_WIDTH = 88
"""Characters of a line in a LaTeX table: 345 points, the text of an `article`, in \\footnotesize."""
_HEAD = 16
"""Characters to which a longer head is wrapped."""
_NUMBER = re.compile(
    r"[\[+<-]?\d[\d.e+]*[kMGTPE]?\]?!?( ± [\d.]+)?( \(.*\))?( ≈)?|-|no score|out \(.*\)|\d+ (s|min \d+ s|h \d+ min)"
)
_FORMULA_STARTS = ("=", "+", "-", "@")


@dataclass(frozen=True)
class Table:
    """Text cells under a header. `bold` holds (row, column) pairs; `optional` columns give way on narrow terminals."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bold: frozenset[tuple[int, int]] = frozenset()
    notes: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    behind: Mapping[tuple[int, int], Behind] = field(default_factory=dict)
    """The trials that a cell (row, column) speaks of."""

    def is_number(self, column: int) -> bool:
        """Does the column hold numbers (set flush right)?"""
        return all(_NUMBER.fullmatch(row[column]) for row in self.rows)

    def width(self, column: int) -> int:
        """Characters of the widest cell, or of the header's longest word: a header may wrap."""
        words = self.header[column].split() or [""]
        return max(len(text) for text in (*(row[column] for row in self.rows), *words))

    def head(self, num_rows: int, what: str = "arms") -> Table:
        """The first rows; a note says how many more there are."""
        left = len(self.rows) - num_rows
        return self if left <= 0 else replace(self, rows=self.rows[:num_rows], notes=(f"and {left} more {what}",))


def write(path: Path, text: str) -> None:
    """Replace a text file in one step, with the same line ends on every system. Raises NoSpaceError, ResultsError."""
    replace_durably(path, text.encode())


def escape_markdown(text: str) -> str:
    """`text` so that Markdown shows it as it is; an underscore inside a word needs no escape."""
    escaped = "".join(_MARKDOWN.get(char, char) for char in printable(text))
    return re.sub(r"(?<=\w)\\_(?=\w)", "_", escaped)


def escape_latex(text: str) -> str:
    """`text` so that LaTeX sets it as it is, with a true minus before a number."""
    escaped = "".join(_LATEX.get(char, char) for char in printable(text))
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", escaped)


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown with its title and notes; a table without rows is its notes."""
    rows = [
        [
            f"**{escape_markdown(cell)}**" if (i, k) in table.bold else escape_markdown(cell)
            for k, cell in enumerate(row)
        ]
        for i, row in enumerate(table.rows)
    ]
    align = ["right" if table.is_number(k) else "left" for k in range(len(table.header))]
    header = [escape_markdown(name) for name in table.header]
    body = tabulate(rows, header, tablefmt="pipe", disable_numparse=True, colalign=align) + "\n" if rows else ""
    notes = "".join(f"\n- {escape_markdown(note)}" for note in table.notes)
    return f"## {escape_markdown(table.title)}\n" + (f"\n{body}" if body else "") + (f"{notes}\n" if notes else "")


def to_latex(table: Table, label: str) -> str:
    """The table as a LaTeX float with booktabs rules; needs `\\usepackage{booktabs}` only.

    Optional columns other than sentences are left to the CSV. Where the others are wider than a page, they stand in
    several blocks, each with the first column.
    """
    kept = [k for k, name in enumerate(table.header) if name not in table.optional or _is_sentence(table, k)]
    widths = {k: 2 + (_SENTENCE // 2 if _is_sentence(table, k) else _whole(table, k)) for k in kept}
    blocks = [_tabular(table, block) for block in _blocks(widths, _LATEX_WIDTH)]
    caption = " ".join(escape_latex(note) for note in (table.title + ".", *table.notes))
    lines = [
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{{label}}}",
        r"\footnotesize\setlength{\tabcolsep}{4pt}",
        "\n\n\\medskip\n".join(blocks),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _tabular(table: Table, kept: Sequence[int]) -> str:
    """Some columns of the table."""
    rows = [[_latex_head(table.header[k], table.is_number(k)) for k in kept]]
    rows += [[_latex_cell(table, i, k) for k in kept] for i in range(len(table.rows))]
    head, *body = (" & ".join(cells) + r" \\" for cells in rows)
    opening = rf"\begin{{tabular}}{{{''.join(_latex_column(table, k) for k in kept)}}}"
    return "\n".join([opening, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"])


def _latex_cell(table: Table, i: int, k: int) -> str:
    cell = escape_latex(table.rows[i][k])
    return rf"\textbf{{{cell}}}" if (i, k) in table.bold else cell


def _latex_head(name: str, number: bool) -> str:
    """A head over as many lines as it takes, bottom-aligned with its column."""
    lines = [escape_latex(line.strip()) for line in folded(name, _HEAD).split("\n")]
    if len(lines) == 1:
        return lines[0]
    return rf"\begin{{tabular}}[b]{{@{{}}{'r' if number else 'l'}@{{}}}}" + r" \\ ".join(lines) + r"\end{tabular}"


def _is_sentence(table: Table, k: int) -> bool:
    return max((len(row[k]) for row in table.rows), default=0) > _SENTENCE


def _latex_column(table: Table, k: int) -> str:
    """Numbers flush right, sentences broken into lines, else as wide as the widest cell."""
    return "r" if table.is_number(k) else r"p{0.2\textwidth}" if _is_sentence(table, k) else "l"


def folded(name: str, width: int) -> str:
    """`name` in lines of at most `width` characters, broken after `+` or a space, else `_` or `-`, else anywhere."""
    lines = [""]
    for piece in _pieces(name, width, (r"[^+ ]*[+ ]?", r"[^_-]*[_-]?", f".{{1,{width}}}")):
        if len(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def _pieces(text: str, width: int, patterns: Sequence[str]) -> Iterator[str]:
    """`text` cut by the first pattern; what is still too long, by the next."""
    for piece in re.findall(patterns[0], text):
        if len(piece.rstrip()) > width:
            yield from _pieces(piece, width, patterns[1:])
        else:
            yield piece


def to_csv(frame: pd.DataFrame) -> str:
    """The frame as CSV; a cell of text that a spreadsheet would run as a formula is quoted."""
    return frame.map(_harmless).to_csv(index=False, lineterminator="\n")


def _harmless(cell: object) -> object:
    if not isinstance(cell, str) or re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", cell):
        return cell
    return ("'" if cell.startswith(_FORMULA_STARTS) else "") + printable(cell)


def to_rich(table: Table, width: int) -> Group:
    """The table for a terminal of `width` columns, its title above.

    Where it is too wide, optional columns go first; the others stand in several blocks, each with the first column.
    """
    kept = list(range(len(table.header)))
    optional = [k for k in kept if table.header[k] in table.optional]
    while optional and sum(_whole(table, k) + _GUTTER for k in kept) > width:
        kept.remove(optional.pop())
    blocks = [_block(table, block) for block in _blocks({k: _whole(table, k) + _GUTTER for k in kept}, width)]
    notes = [Text(printable(note), style="dim") for note in table.notes]
    return Group(Text(printable(table.title), style="bold"), *blocks, *notes)


def _block(table: Table, kept: list[int]) -> RichTable:
    """Some columns of the table; heads wrap at words, cells fold only in a terminal narrower than they are."""
    out = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for k in kept:
        justify: JustifyMethod = "right" if table.is_number(k) else "left"
        out.add_column(Text(printable(table.header[k])), justify=justify, max_width=_whole(table, k), overflow="fold")
    for i, row in enumerate(table.rows):
        out.add_row(*(Text(printable(row[k]), style="bold" if (i, k) in table.bold else "") for k in kept))
    return out


def _blocks(widths: Mapping[int, int], width: int) -> list[list[int]]:
    """Columns {column: its width with a gutter} in groups that fit, the first column at the head of each."""
    first, *others = widths
    blocks: list[list[int]] = [[first]]
    for k in others:
        if sum(widths[j] for j in [*blocks[-1], k]) > width and len(blocks[-1]) > 1:
            blocks.append([first])
        blocks[-1].append(k)
    return blocks


def _whole(table: Table, column: int) -> int:
    """Characters that a column takes: its widest cell, or its head over two or three lines."""
    return max(table.width(column), min(len(table.header[column]), _HEAD))
