"""Completions for the shell, read from files. Imports are few and late, because the user waits for them."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

from vitbench.base.contained import read_text
from vitbench.base.errors import VitbenchError
from vitbench.spec.files import available

Offers = list[tuple[str, str]]
"""(completion, help)"""

SCORES = ("test_top1_percent", "test_top1_best_val_percent", "val_top1_percent", "test_loss")


def experiments(incomplete: str) -> Offers:
    """Experiments with the first line of their header; YAML files if no experiment matches."""
    named = [(name, path) for name, path in available().items() if name.startswith(incomplete)]
    return [(name, _first_words(path)) for name, path in named] or [(path, "") for path in _files(incomplete)]


def _first_words(path: Path) -> str:
    lines = (line for line in path.read_text().splitlines() if not line.startswith("# yaml-language-server"))
    return next(lines, "").lstrip("# ")


def _files(incomplete: str) -> Iterator[str]:
    for path in Path(incomplete).parent.glob(f"{Path(incomplete).name}*" if incomplete[-1:] != "/" else "*"):
        if path.is_dir() or path.suffix in (".yaml", ".yml"):
            yield f"{path}/" if path.is_dir() else str(path)


def data(incomplete: str) -> Offers:
    """Data sets by name; kinds that take a path end in a colon."""
    from vitbench.data.catalog import DATASETS

    names = (name.partition(":")[0] + (":" if ":" in name else "") for name in DATASETS)
    return _matching(names, incomplete)


def arms(context: typer.Context, incomplete: str) -> Offers:
    """Arms of the experiment on the command line."""
    from vitbench.spec import load
    from vitbench.spec.arms import arms as arms_of
    from vitbench.spec.experiment import Suite

    with contextlib.suppress(VitbenchError, OSError):
        loaded = load.load(load.find(context.params.get("name") or _planned()))
        if not isinstance(loaded, Suite):
            return _matching((arm.name for arm in arms_of(loaded)), incomplete)
    return []


def _planned() -> str:
    """The word after `plan`. The parser does not reach it while --diff has only one of its two arms."""
    words = os.environ.get("_TYPER_COMPLETE_ARGS", os.environ.get("COMP_WORDS", "")).split()
    return next(iter(words[words.index("plan") + 1 :]), "") if "plan" in words else ""


def runs(context: typer.Context, incomplete: str) -> Offers:
    """Runs in the results folder on the command line."""
    return _matching((path.parent.name for path in _runs(context)), incomplete)


def sides(context: typer.Context, incomplete: str) -> Offers:
    """RUN:ARM for `compare`: runs, and after the colon the arms with records."""
    run, colon, _ = incomplete.partition(":")
    if not colon:
        return [(f"{name}:", "") for name, _ in runs(context, incomplete)]
    rows = _rows(_root(context) / run / "records.jsonl")
    return _matching(dict.fromkeys(f"{run}:{row['arm']}" for row in rows), incomplete)


def metrics(context: typer.Context, incomplete: str) -> Offers:
    """Metrics in the records of the runs."""
    names = set(SCORES)
    for path in _runs(context):
        row = next(_rows(path.parent / "records.jsonl"), {})
        names |= (row.get("result") or {}).get("metrics", {}).keys()
    return _matching(sorted(names), incomplete)


def claims(context: typer.Context, incomplete: str) -> Offers:
    """Claims that the runs declare."""
    ids = {claim for path in _runs(context) for claim in re.findall(r"\bid: ([\w-]+)", _text(path))}
    return _matching(sorted(ids), incomplete)


def _root(context: typer.Context) -> Path:
    return Path(context.params.get("results") or "results")


def _runs(context: typer.Context) -> list[Path]:
    return sorted(_root(context).glob("*/experiment.yaml"))


def _text(path: Path) -> str:
    """A file of a results folder; empty where it cannot be read. A pipe would keep the shell waiting."""
    with contextlib.suppress(OSError, VitbenchError):
        return read_text(path)
    return ""


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a records file, up to the first that cannot be read."""
    with contextlib.suppress(ValueError):
        for line in _text(path).splitlines():
            yield json.loads(line)


def _matching(names: Iterable[str], incomplete: str) -> Offers:
    return [(name, "") for name in names if name.startswith(incomplete)]
