"""`vitbench list`: the experiments that can be run, by question and data set."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from vitbench.base.errors import InputError, printable
from vitbench.spec import load
from vitbench.spec.experiment import Experiment, Suite
from vitbench.spec.trial import DataSpec

SUITES = "Suites: several questions with one command"
UNREADABLE = "Files that cannot be read"
_TIME = re.compile(r"\b(second|minute|hour|day)s?\b| s on ")


def list_experiments(console: Console, as_json: bool) -> int:
    """Print every experiment on one line, grouped by question."""
    entries = [_entry(name, path) for name, path in sorted(load.available().items())]
    if as_json:
        print(json.dumps(entries))
        return 0
    width = console.width if console.is_terminal else None
    for line in listing_lines(entries, width):
        console.print(line, highlight=False, soft_wrap=True)
    console.print("\nvitbench run NAME runs one; vitbench plan NAME shows its trials and its time.", style="dim")
    return 0


def _entry(name: str, path: Path) -> dict[str, Any]:
    try:
        loaded, header = load.load(path), load.header(path)
        data = _data_name(loaded, path)
    except InputError as error:
        return {"name": name, "kind": "unreadable", "question": str(error).splitlines()[0], "data": ""}
    kind = "suite" if isinstance(loaded, Suite) else "experiment"
    return {"name": name, "kind": kind, "question": loaded.question, "data": data, **header}


def _data_name(loaded: Experiment | Suite, path: Path) -> str:
    """The data set of an experiment, or of a suite's first experiment."""
    name = loaded.base.get("data", {}).get("name")
    if name is None and isinstance(loaded, Suite):
        return _data_name(load.load(load.find(loaded.suite[0], beside=path.parent)), path)
    return str(name or DataSpec.model_fields["name"].default)


def listing_lines(entries: list[dict[str, Any]], width: int | None) -> Iterator[Text]:
    """A heading per question and a line per experiment. `width` only ever cuts the last column, the cost."""
    groups: dict[str, list[dict[str, Any]]] = {SUITES: []}
    for entry in sorted(entries, key=lambda entry: (str(entry["name"]).count("/"), entry["name"])):
        groups.setdefault(_heading(entry), []).append(entry)
    columns = [max(len(str(entry[key])) for entry in entries) for key in ("name", "data")]
    for heading, members in groups.items():
        if members:
            yield Text()
            text = printable(heading)
            yield from (Text(line, "bold") for line in ([text] if width is None else textwrap.wrap(text, width)))
        for entry in members:
            name, data = (str(entry[key]).ljust(size) for key, size in zip(("name", "data"), columns, strict=True))
            line = Text(printable(f"  {name}  {data}  {brief_cost(entry)}").rstrip())
            if width is not None:
                line.truncate(width, overflow="ellipsis")
            yield line


def _heading(entry: Mapping[str, Any]) -> str:
    return {"suite": SUITES, "unreadable": UNREADABLE}.get(entry["kind"], str(entry["question"]))


def brief_cost(entry: Mapping[str, Any]) -> str:
    """The part of a cost that gives a time, else its first part."""
    cost = str(entry.get("cost", entry["question"] if entry["kind"] == "unreadable" else ""))
    parts = [part.strip() for part in re.split(r"[;:]|,\s", re.sub(r"\s*\([^)]*\)", "", cost))]
    return next((part for part in parts if _TIME.search(part)), parts[0])
