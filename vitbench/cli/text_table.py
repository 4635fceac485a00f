"""Tables as plain lines for a terminal. Cells are never cut: the last column wraps, or moves below its row."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich.text import Text

from vitbench.base.errors import printable

GUTTER = 2
INDENT = 4
MIN_LAST = 30
"""Narrowest last column beside the others; below that its text goes under the row."""


def column_widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """The widest cell of every column but the last."""
    return [max(map(len, cells)) for cells in list(zip(*rows, strict=True))[:-1]]


def table_lines(row: Sequence[str], widths: Sequence[int], terminal_width: int) -> list[str]:
    """One row as lines of at most `terminal_width` characters, unless a cell of the first columns is wider."""
    *first, last = map(printable, row)
    line = (" " * GUTTER).join(f"{cell:<{width}}" for cell, width in zip(first, widths, strict=True))
    start = len(line) + GUTTER
    if not last:
        return [line.rstrip()]
    if terminal_width - start >= min(MIN_LAST, len(last)):
        head, *rest = textwrap.wrap(last, terminal_width - start, break_long_words=False) or [""]
        return [f"{line}{' ' * GUTTER}{head}", *(" " * start + part for part in rest)]
    return [line.rstrip(), *indented(last, terminal_width)]


def indented(text: str, terminal_width: int, indent: int = INDENT) -> list[str]:
    """`text` wrapped below a row."""
    margin = " " * indent
    width = max(terminal_width, indent + MIN_LAST)
    return textwrap.wrap(text, width, initial_indent=margin, subsequent_indent=margin, break_long_words=False)


def render(rows: Sequence[Sequence[str]], terminal_width: int) -> Iterator[Text]:
    """The lines of a table whose first row is its header (bold)."""
    widths = column_widths(rows)
    for number, row in enumerate(rows):
        for line in table_lines(row, widths, terminal_width):
            yield Text(line, "" if number else "bold")
