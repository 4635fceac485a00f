"""The one error family; each error carries the exit code that the command line returns."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

MAX_WORD = 200
"""Similar words are looked up for this many characters: the comparison takes quadratic time."""


class VitbenchError(Exception):
    """A one-line message for the user, and the exit code that goes with it."""

    exit_code = 1


class InputError(VitbenchError):
    """Bad input or usage: an experiment file, an option, an image folder. Exit code 2."""

    exit_code = 2


class IncompleteError(VitbenchError):
    """A limit was reached and trials are missing. Exit code 3."""

    exit_code = 3


class CheckError(VitbenchError):
    """A `--check` failed. Exit code 4."""

    exit_code = 4


class ResultsError(VitbenchError):
    """The results folder was made by other code or from other data. Exit code 5."""

    exit_code = 5


class NoSpaceError(VitbenchError):
    """The disk or the quota is full. Exit code 6."""

    exit_code = 6


HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories that a reader does not see: control, format and direction characters, line separators."""


def is_plain(text: str) -> bool:
    """True for text without hidden characters: none that moves a cursor or changes the direction of the text."""
    return text.isprintable() or not any(unicodedata.category(char) in HIDDEN for char in text)


def printable(text: str) -> str:
    """`text` on one line with hidden characters escaped (`\\x1b`): a name cannot move the cursor or start a new row."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def nearest(word: str, allowed: Iterable[str], limit: int = 3) -> str:
    """`" Did you mean 'x' or 'y'?"`, or an empty string if no allowed word is similar."""
    matches = difflib.get_close_matches(word[:MAX_WORD], list(allowed), n=limit, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(name) for name in matches)}?" if matches else ""
