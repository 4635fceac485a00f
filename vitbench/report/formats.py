"""One table as Markdown, LaTeX (booktabs), CSV, and for the terminal; names are escaped in each."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group, JustifyMethod
from rich.table import Table as RichTable
from rich.text import Text
from tabulate import tabulate

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "[": "{[}", "±": r"$\pm$", "≈": r"$\approx$",
}  # fmt: skip
_MARKDOWN = {"&": "&amp;", "<": "&lt;", ">": "&gt;", **{mark: "\\" + mark for mark in "\\`*_[]|"}}
_GUTTER = 3
"""Characters between two columns in a terminal."""
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

    def is_number(self, column: int) -> bool:
        """Does the column hold numbers (set flush right)?"""
        return all(_NUMBER.fullmatch(row[column]) for row in self.rows)

    def width(self, column: int) -> int:
        """Characters of the widest cell, or of the header's longest word: a header may wrap."""
        words = self.header[column].split() or [""]
        return max(len(text) for text in (*(row[column] for row in self.rows), *words))

    def head(self, num_rows: int) -> Table:
        """The first rows; a note says how many more there are."""
        left = len(self.rows) - num_rows
        return self if left <= 0 else replace(self, rows=self.rows[:num_rows], notes=(f"and {left} more arms",))


def printable(text: str) -> str:
    """`text` on one line, without control characters: a name cannot move the cursor or start a new row."""
    return "".join(char if char.isprintable() else "?" for char in text)


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
    """The table as a LaTeX float with booktabs rules; needs `\\usepackage{booktabs}` only."""
    rows = [
        [
            rf"\textbf{{{escape_latex(cell)}}}" if (i, k) in table.bold else escape_latex(cell)
            for k, cell in enumerate(row)
        ]
        for i, row in enumerate(table.rows)
    ]
    # Columns are named by number first: two may have one header, and pandas wants unique ones.
    header = [escape_latex(name) for name in table.header]
    style = pd.DataFrame(rows).style.hide(axis="index")
    style = style.format_index(lambda column: header[int(str(column))], axis="columns")
    return style.to_latex(
        column_format="".join("r" if table.is_number(k) else "l" for k in range(len(table.header))),
        hrules=True,
        position="htbp",
        position_float="centering",
        caption=" ".join(escape_latex(note) for note in (table.title + ".", *table.notes)),
        label=label,
    )


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
    while sum(_whole(table, k) + _GUTTER for k in kept) > width and table.header[kept[-1]] in table.optional:
        kept.pop()
    blocks = [_block(table, block) for block in _blocks(table, kept, width)]
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


def _blocks(table: Table, kept: list[int], width: int) -> list[list[int]]:
    """The kept columns in groups that fit, the first column at the head of each."""
    first, *others = kept
    blocks: list[list[int]] = [[first]]
    for k in others:
        if sum(_whole(table, j) + _GUTTER for j in [*blocks[-1], k]) > width and len(blocks[-1]) > 1:
            blocks.append([first])
        blocks[-1].append(k)
    return blocks


def _whole(table: Table, column: int) -> int:
    """Characters that a column takes: its widest cell, or its head over two or three lines."""
    return max(table.width(column), min(len(table.header[column]), _HEAD))
