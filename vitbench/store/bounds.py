"""What a value in a record or a row may be: one place for every bound, and reading JSON within them.

The bounds are far above what a training can give, and low enough that no reader hangs, no table breaks and no number
loses its digits. Names hold no control characters and no characters that change the direction of text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, Field

from vitbench.base.errors import is_plain

MAX_DEPTH, MAX_VALUES, MAX_NAME, MAX_TEXT = 32, 2_000_000, 200, 4_200
MAX_LINE_BYTES = 16 << 20
"""A record, or a line of records.jsonl, in bytes; the longest committed line has 7,000."""


def _plain(text: str) -> str:
    if not is_plain(text):
        raise ValueError("holds a control or direction character")
    return text


Name = Annotated[str, Field(max_length=MAX_NAME), AfterValidator(_plain)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
"""Free text, such as a reason: it may hold any character and is escaped wherever it is shown."""
Place = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_plain)]
"""The name of a data set, which may be a path."""
Identifier = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""A trial_id."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A sha256."""
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Count = Annotated[int, Field(ge=0, le=10**18)]
Positive = Annotated[int, Field(ge=1, le=10**9)]
Version = Annotated[int, Field(ge=1, le=10**6)]
Flops = Annotated[float, Field(ge=0.0, le=1e30)]
Seconds = Annotated[float, Field(ge=0.0, le=1e9)]
Rate = Annotated[float, Field(ge=0.0, le=1e12)]
Mebibytes = Annotated[float, Field(ge=0.0, le=1e12)]
Percent = Annotated[float, Field(ge=0.0, le=100.0)]
Float32 = Annotated[float, Field(ge=-3.5e38, le=3.5e38)]
"""A loss or a measured number: any finite value that a float32 holds."""


def parse(text: str | bytes) -> Any:
    """A JSON value of bounded length. Raises ValueError: no JSON, NaN, a repeated key, too long, or very deep.

    The model that reads the value bounds its parts; parts that no model reads go through `check_size`.
    """
    if len(text) > MAX_LINE_BYTES:
        raise ValueError(f"longer than {MAX_LINE_BYTES:,} bytes")
    try:
        return json.loads(text, parse_constant=_no_number, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from error


def check_size(value: Any) -> None:
    """Raise ValueError for a plain value that is nested too deep, or has too many or too long parts."""
    waiting, count = [(value, 0)], 0
    while waiting:
        part, depth = waiting.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        if count > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES:,} values")
        if isinstance(part, str) and len(part) > MAX_TEXT:
            raise ValueError(f"a text of {len(part):,} characters, at most {MAX_TEXT:,} are allowed")
        if isinstance(part, int) and not -(2**63) <= part < 2**63:
            raise ValueError("a whole number of more than 64 bits")
        if isinstance(part, Mapping):
            for key in part:
                _check_key(key)
            waiting += [(inner, depth + 1) for inner in part.values()]
        elif isinstance(part, list):
            waiting += [(inner, depth + 1) for inner in part]


def _check_key(key: Any) -> None:
    if not isinstance(key, str) or len(key) > MAX_NAME:
        raise ValueError(f"a key of more than {MAX_NAME} characters")
    if not is_plain(key):
        raise ValueError("a key that holds a control or direction character")


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {repeated[:MAX_NAME]!r} stands twice")
    return value


def _bounded(value: Any) -> Any:
    check_size(value)
    return value


Plain = Annotated[Any, AfterValidator(_bounded)]
"""A value of a level or a setting: text, a number, or a list of these."""
Fields = Annotated[dict[str, Any], AfterValidator(_bounded)]
"""A spec as plain data."""
