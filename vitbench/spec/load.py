"""Experiment files: their folders, their headers, and their text as a validated Experiment or Suite."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vitbench.base.errors import InputError, nearest
from vitbench.spec.checks import setting_problems, tuned_paths
from vitbench.spec.experiment import Experiment, Suite
from vitbench.spec.files import available, folders
from vitbench.spec.mechanism import load_code, located_code, unknown_names_allowed
from vitbench.spec.messages import Loc, hint, key_path, show, translate
from vitbench.spec.overrides import apply_suite, override
from vitbench.spec.paths import get_path, merge, set_path, validate_trial
from vitbench.spec.trial import DURATIONS
from vitbench.spec.yaml import KeyPath, read, read_text

__all__ = [
    "apply_suite", "available", "find", "get_path", "header", "load", "loads", "merge", "override", "set_path",
    "translate", "validate_trial",
]  # fmt: skip

SUFFIXES = (".yaml", ".yml")
_LABELS = {"Run": "run", "Cost": "cost", "Came out": "came_out"}


def find(name: str, beside: Path | None = None) -> Path:
    """The file that `name` means: a path, else a name beside a suite, in ./experiments or in the package.

    The suffix `.yaml` is optional. Raises InputError with the nearest names.
    """
    file = name if name.endswith(SUFFIXES) else f"{name}.yaml"
    for folder in [Path(), *([beside] if beside else []), *folders()]:
        if _is_file(folder / file):
            return folder / file
    names = available()
    near = nearest(name, names) or nearest(Path(name).stem, names)
    raise InputError(f"no experiment {name!r}: there is no such file or name.{near} `vitbench list` shows all")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for the disk, or with a NUL
        return False


def header(path: Path) -> dict[str, str]:
    """The comment at a file's head: `claim`, `run`, `cost`, `came_out`; empty text for a missing part."""
    words: list[str] = []
    for line in read_text(path).splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# yaml-language-server:"):
            words += line.lstrip("#").split()
    claim, *rest = re.split(rf"(?:^|(?<= ))({'|'.join(_LABELS)}):", " ".join(words))
    labelled = {_LABELS[label]: text.strip() for label, text in zip(rest[::2], rest[1::2], strict=True)}
    return {"claim": claim.strip(), **dict.fromkeys(_LABELS.values(), ""), **labelled}


def load(path: Path, *, run_code: bool = False) -> Experiment | Suite:
    """The experiment or suite of a file. Raises InputError with one line per mistake.

    `run_code` imports the user's code that the file declares (`uses_code`). Without it, names of mechanisms that are
    not built in stay unchecked, so that reading a results folder runs no code.
    """
    return loads(read_text(path), str(path), run_code=run_code)


def loads(text: str, source: str, *, run_code: bool = False) -> Experiment | Suite:
    """As `load`, for a text. `source` is its name in errors; `extends` and a suite's members are files beside it."""
    written = _read(text, source, ())
    code = _located_code(written, Path(source).parent)
    if run_code:
        load_code(code)
    with unknown_names_allowed() if code and not run_code else nullcontext():
        return _validated(written, source)


def _located_code(written: _Written, folder: Path) -> tuple[str, ...]:
    """The declarations of `uses_code` with absolute paths, which also replace them in `written`."""
    declared = written.value.get("uses_code")
    if not isinstance(declared, list) or not all(isinstance(item, str) for item in declared):
        return ()  # The types of Experiment report the mistake.
    code = located_code(declared, folder)
    written.value["uses_code"] = list(code)
    return code


def _validated(written: _Written, source: str) -> Experiment | Suite:
    """The experiment or suite that a file states. Raises InputError with one line per problem."""
    kind = Suite if "suite" in written.value else Experiment
    problems: list[str] = []
    loaded = None
    try:
        loaded = kind.model_validate(written.value)
    except ValidationError as error:
        problems = translate(error, written.where)
    problems += setting_problems(written.value, written.where)
    if isinstance(loaded, Suite):
        problems += _member_problems(loaded, written, source)
    if problems or loaded is None:
        raise InputError("\n".join(sorted(dict.fromkeys(problems), key=_place)))
    return loaded


def _place(problem: str) -> tuple[str, int]:
    """(file, line) of a problem, by which problems are sorted into the order of the file."""
    match = re.match(r"(.*?):(\d+):", problem)
    return (match[1], int(match[2])) if match else ("", 0)


@dataclass(frozen=True)
class _Written:
    """The content of a file over the files that it extends, and the line of the file that states each key."""

    value: dict[str, Any]
    lines: dict[KeyPath, str]

    def where(self, loc: Loc) -> str:
        """`a.yaml:7: base.model.depth`; parts of `loc` that no file writes, such as a union's member, are skipped."""
        path: KeyPath = ()
        for part in loc:
            if (*path, part) in self.lines:
                path = (*path, part)
        return f"{self.lines[path]}: {key_path(path)}".removesuffix(": ")


def _read(text: str, source: str, chain: tuple[Path, ...]) -> _Written:
    """The file's mapping over that of the file it extends; `chain` holds the files that extend this one."""
    document = read(text, source)
    if not isinstance(document.value, dict):
        raise InputError(f"{source}:1: an experiment is a mapping (name: ..., base: ...), not {show(document.value)}")
    lines = {path: f"{source}:{line}" for path, line in document.lines.items()}
    written = _with_budget(_Written(document.value, lines))
    if "extends" not in written.value:
        return written
    where, target = written.where(("extends",)), written.value.pop("extends")
    if not isinstance(target, str) or not target.endswith(SUFFIXES):
        raise InputError(f"{where}: needs a .yaml file, relative to this one, not {show(target)}")
    chain = (*chain, Path(source).resolve())
    parent = Path(source).parent / target
    if not _is_file(parent):
        raise InputError(f"{where}: no such file: {parent}")
    if parent.resolve() in chain:
        circle = " -> ".join([*(path.name for path in chain), parent.name])
        raise InputError(f"{where}: files extend each other in a circle: {circle}")
    extended = _read(read_text(parent), str(parent), chain)
    if "seeds" in written.value:  # One design replaces another; {num: 5} and {looks: [...]} must not be merged.
        extended.value.pop("seeds", None)
    return _Written(merge(extended.value, written.value), {**extended.lines, **written.lines})


def _with_budget(written: _Written) -> _Written:
    """Replace the shorthand `budget: {train_flops: 1e14}` by `base.train.train_flops`."""
    if "budget" not in written.value:
        return written
    value = {key: item for key, item in written.value.items() if key != "budget"}
    where, budget = written.where(("budget",)), written.value["budget"]
    if not isinstance(budget, dict) or len(budget) != 1 or not budget.keys() <= set(DURATIONS):
        raise InputError(f"{where}: needs one of {', '.join(DURATIONS)} and its value, not {show(budget)}")
    (unit,) = budget
    base = value.get("base", {})
    train = base.get("train", {}) if isinstance(base, dict) else base
    if not isinstance(train, dict):  # The types of Experiment report the mistake.
        return _Written(value, written.lines)
    if any(duration in train for duration in DURATIONS):
        raise InputError(f"{where}: base.train states a duration too; keep one")
    path = f"base.train.{unit}"
    return _Written(
        set_path(value, path, budget[unit]),
        {**written.lines, tuple(path.split(".")): written.lines["budget", unit]},
    )


def _member_problems(suite: Suite, written: _Written, source: str) -> list[str]:
    """One line for every member that does not exist or is a suite, and for every path that no member tunes."""
    problems: list[str] = []
    tuned: set[str] = set()
    for number, name in enumerate(suite.suite):
        where = written.where(("suite", number))
        try:
            path = find(name, beside=Path(source).parent)
            member = _read(read_text(path), str(path), ()).value
        except InputError as error:
            problems += [f"{where}: {line}" for line in str(error).splitlines()]
            continue
        if "suite" in member:
            problems.append(f"{where}: {name} is itself a suite; name its experiments")
        tuned |= tuned_paths(member)
    grid = suite.tune.grid if suite.tune and not problems else {}
    return problems + [
        f"{written.where(('tune', path))}: no member tunes {path}{hint(path, tuned)}"
        for path in grid
        if not any(member_path == path or member_path.endswith(f".{path}") for member_path in tuned)
    ]
