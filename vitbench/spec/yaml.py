"""Read a safe subset of YAML: plain data with a line number for every key, or one clear error.

Values follow YAML 1.2, not 1.1, because the older rules change what a reader sees: `no` is text, `1e-3` is a float,
`010` and `1:30` are text and not 8 and 90. Keys are always text. Anchors, aliases, tags, merge keys and a second
document are refused. Deep and large files are refused before anything is built from them.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml import events

from vitbench.base.errors import InputError

KeyPath = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_INT = 2**63 - 1

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")


@dataclass(frozen=True)
class Document:
    """Plain data, and {path of a key or item: its line, from 1}."""

    value: Any
    lines: dict[KeyPath, int]


def read_text(path: Path) -> str:
    """The text of a file of at most `MAX_BYTES`. Raises InputError if it cannot be read as UTF-8."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise InputError(f"{path}: larger than {MAX_BYTES} bytes")
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error


def read(text: str, source: str) -> Document:
    """The data of one YAML document. Raises InputError with `source` and line; repeated keys are listed together."""
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise InputError(f"{source}: larger than {MAX_BYTES} bytes")
    builder = _Builder(text, source)
    value = builder.document()
    if builder.repeated:
        raise InputError("\n".join(builder.repeated))
    return Document(value, builder.lines)


class _TooDeep(Exception):
    def __init__(self, line: int) -> None:
        self.line = line


class _Loader(yaml.SafeLoader):
    """Stops at a bracket that is too deep, because the scanner reads far ahead of the events, in quadratic time."""

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        if self.flow_level > MAX_DEPTH:
            raise _TooDeep(self.line + 1)
        super().fetch_flow_collection_start(TokenClass)


class _Builder:
    """Builds plain data directly from the parser's events, so that everything is checked before it is built."""

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self.lines: dict[KeyPath, int] = {(): 1}
        self.repeated: list[str] = []
        self._events = self._parse(text)

    def _parse(self, text: str) -> Iterator[events.Event]:
        try:
            yield from yaml.parse(text, Loader=_Loader)
        except _TooDeep as error:
            raise self._error(error.line, f"nested more than {MAX_DEPTH} deep") from error
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            what = " ".join(part for part in (error.context, error.problem) if part)
            raise self._error(mark.line + 1 if mark else 1, f"not YAML: {what}") from error
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise self._error(line, f"a control character ({hex(int(error.character))})") from error
        except (
            ValueError,
            OverflowError,
        ) as error:  # "\UFFFFFFFF", or %YAML with 5000 digits
            raise self._error(1, f"not YAML: {error}") from error

    def _error(self, line: int, what: str) -> InputError:
        return InputError(f"{self.source}:{line}: {' '.join(what.split())}")

    def document(self) -> Any:
        """The data of the only document; None for an empty text."""
        value, has_value = None, False
        for event in self._events:
            if isinstance(event, events.DocumentStartEvent) and has_value:
                raise self._error(_line(event), "a second document ('---'); one file holds one experiment")
            if isinstance(event, events.NodeEvent):
                value, has_value = self._node(event, ()), True
        return value

    def _node(self, event: events.NodeEvent, path: KeyPath) -> Any:
        if isinstance(event, events.AliasEvent) or event.anchor is not None:
            raise self._error(_line(event), f"anchors and aliases ('&', '*') are not allowed: {event.anchor!r}")
        if isinstance(event, events.ScalarEvent):
            return self._scalar(event)
        self._refuse_tag(event)
        if len(path) >= MAX_DEPTH:
            raise self._error(_line(event), f"nested more than {MAX_DEPTH} deep")
        return self._sequence(path) if isinstance(event, events.SequenceStartEvent) else self._mapping(path)

    def _refuse_tag(self, event: Any) -> None:
        if event.tag is not None:
            raise self._error(_line(event), f"tags ('!') are not allowed: {event.tag!r}")

    def _sequence(self, path: KeyPath) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), events.SequenceEndEvent):
            here = (*path, len(items))
            self.lines[here] = _line(event)
            items.append(self._node(event, here))  # type: ignore[arg-type]
        return items

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(self._events), events.MappingEndEvent):
            key = self._key(event)
            here = (*path, key)
            if key in mapping:
                first = self.lines[here]
                self.repeated.append(
                    f"{self.source}:{_line(event)}: the key {key!r} stands twice (first on line {first})"
                )
            self.lines.setdefault(here, _line(event))
            mapping[key] = self._node(next(self._events), here)  # type: ignore[arg-type]
        return mapping

    def _key(self, event: events.Event) -> str:
        if not isinstance(event, events.ScalarEvent) or event.anchor is not None:
            raise self._error(_line(event), "a key must be plain text")
        text = self._text(event)
        if "\n" in text or "\t" in text:
            raise self._error(_line(event), f"a key must be one line of text, not {text[:40]!r}")
        return text

    def _text(self, event: events.ScalarEvent) -> str:
        self._refuse_tag(event)
        for character in event.value:
            if character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
                raise self._error(_line(event), f"a control character ({hex(ord(character))})")
        return str(event.value)

    def _scalar(self, event: events.ScalarEvent) -> Any:
        text = self._text(event)
        if event.style is not None:  # Quoted and block scalars are always text.
            return text
        value = plain(text)
        if value in (math.inf, -math.inf):
            raise self._error(_line(event), f"the number {text[:40]} is too large")
        return value


def _line(event: events.Event) -> int:
    mark = event.start_mark
    assert mark is not None  # PyYAML marks every event that it parses
    return int(mark.line) + 1


def plain(text: str) -> None | bool | int | float | str:
    """The value of an unquoted scalar: null, true, false, a number without leading zeros, else text (`.nan` too)."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        # A float is exact enough beyond 64 bits (FLOPs in full); int() raises an error for thousands of digits.
        return int(text) if len(text) <= 20 and abs(int(text)) <= MAX_INT else float(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def dump(value: Any) -> str:
    """`value` (plain data) as YAML from which `read` restores it; text that looks like a number is quoted."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if not text.isprintable() else None if isinstance(plain(text), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
