"""Every mistake in the settings of an experiment file: base, stages, factors, arms, grids and seeds.

The checks read the data as written, so they report a misspelt level beside a misspelt key. They ignore wrong shapes
(a list in place of a mapping), which the types of Experiment report.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from vitbench.spec.arms import level_name
from vitbench.spec.limits import WAY_OUT, last_seed
from vitbench.spec.messages import Loc, Locate, show
from vitbench.spec.paths import SECTIONS, SPEC_PATHS, path_problem, same_knob, spec_problems, value_problems

"""The last reporting seed; tuning seeds begin at 1000."""

LEAST_LOOK = 3
"""Fewer seeds give no interval."""

_WORD_LEVELS = re.compile(r"best_of\(.+\)|grid")


def setting_problems(raw: Mapping[str, Any], where: Locate) -> list[str]:
    """One line for every setting of a file (an experiment or a suite) that no trial could have."""
    names = _members_stages(raw) if "suite" in raw else [name for _, name in _stage_names(raw)]
    problems = _stage_problems(raw, where)
    for loc, spec in _specs(raw):
        problems += spec_problems(
            spec,
            lambda inner, loc=loc: where((*loc, *inner)),  # type: ignore[misc]
            of_suite="suite" in raw,
        )
    for loc, path, values in _settings(raw):
        if problem := path_problem(path, names):
            problems.append(f"{where(loc)}: {problem}")
        else:
            problems += [line for place, value in values for line in value_problems(path, value, names, where(place))]
    return problems + _level_problems(raw, where) + _shared_paths(raw, where) + seed_problems(raw.get("seeds"), where)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _stage_names(raw: Mapping[str, Any]) -> list[tuple[int, str]]:
    named = [(number, _mapping(stage).get("name")) for number, stage in enumerate(_list(raw.get("stages")))]
    return [(number, name) for number, name in named if isinstance(name, str)]


def tuned_paths(raw: Mapping[str, Any]) -> set[str]:
    """The paths that a file tunes."""
    return {path for _, path, _ in _axes(raw, "tune")}


def _members_stages(raw: Mapping[str, Any]) -> list[str]:
    """The names before the sections in a suite's grid; each member checks whether it has a stage of that name."""
    split = [path.partition(".") for path in tuned_paths(raw)]
    return sorted({head for head, _, rest in split if rest in SPEC_PATHS} - set(SECTIONS))


def _stage_problems(raw: Mapping[str, Any], where: Locate) -> list[str]:
    """One line for every stage whose name another stage has too, and for every use of a stage that is not earlier."""
    names = _stage_names(raw)
    count = Counter(name for _, name in names)
    problems = [
        f"{where(('stages', n, 'name'))}: two stages are called {name!r}" for n, name in names if count[name] > 1
    ]
    for number, stage in enumerate(_list(raw.get("stages"))):
        earlier = [name for n, name in names if n < number]
        for role, name in _mapping(_mapping(stage).get("uses")).items():
            if name not in earlier:
                place = where(("stages", number, "uses", role))
                allowed = ", ".join(earlier) or "none, this is the first"
                problems.append(f"{place}: {show(name)} is no earlier stage; earlier stages: {allowed}")
    return problems


def _specs(raw: Mapping[str, Any]) -> Iterator[tuple[Loc, dict[str, Any]]]:
    """Every partial TrialSpec of a file, with its place."""
    yield ("base",), _mapping(raw.get("base"))
    for number, stage in enumerate(_list(raw.get("stages"))):
        sections = {key: value for key, value in _mapping(stage).items() if key in SECTIONS and isinstance(value, dict)}
        yield ("stages", number), sections


def _axes(raw: Mapping[str, Any], section: str) -> Iterator[tuple[Loc, str, list[Any]]]:
    """The factors, or the tuned grid: paths beside `seeds`, or under `grid` in a run's copy of the file."""
    written = _mapping(raw.get(section))
    loc: Loc = (section,)
    if section == "tune" and "grid" in written:
        loc, written = (section, "grid"), _mapping(written["grid"])
    for path, levels in written.items():
        if "." in path or section == "factors":
            yield (*loc, path), path, _list(levels)


def _settings(raw: Mapping[str, Any]) -> Iterator[tuple[Loc, str, list[tuple[Loc, Any]]]]:
    """Every spec path of a file: (place of the path, path, [(place of a value, value)])."""
    for loc, path, levels in (*_axes(raw, "factors"), *_axes(raw, "tune")):
        yield loc, path, [((*loc, i), level) for i, level in enumerate(levels)]
    for path, levels in _mapping(_mapping(raw.get("report")).get("also_at")).items():
        at: Loc = ("report", "also_at", path)
        yield at, path, [((*at, i), level) for i, level in enumerate(_list(levels)) if not _is_word(level)]
    for name, fields in _mapping(raw.get("arms")).items():
        for path, value in _mapping(fields).items():
            yield ("arms", name, path), path, [(("arms", name, path), value)]
    for number, rule in enumerate(_list(raw.get("exclude"))):
        for path, value in _mapping(rule).items():
            if path != "arm":  # `arm` names one of `arms`.
                yield ("exclude", number, path), path, [(("exclude", number, path), value)]


def _is_word(level: Any) -> bool:
    return isinstance(level, str) and _WORD_LEVELS.fullmatch(level) is not None


def _level_problems(raw: Mapping[str, Any], where: Locate) -> list[str]:
    """One line for every repeated level of a factor or grid (two arms would be one), and for every empty grid."""
    problems = []
    for loc, _, levels in (*_axes(raw, "factors"), *_axes(raw, "tune")):
        by_name: dict[str, Any] = {}
        for i, level in enumerate(levels):
            name = level_name(level)
            if name in by_name:
                same = show(level) == show(by_name[name])
                problem = "stands twice" if same else f"and {show(by_name[name])} would both be called {name}"
                problems.append(f"{where((*loc, i))}: the level {show(level)} {problem}")
            by_name.setdefault(name, level)
    problems += [f"{where(loc)}: no levels" for loc, _, levels in _axes(raw, "tune") if not levels]
    if raw.get("tune") is not None and not list(_axes(raw, "tune")):
        problems.append(f"{where(('tune',))}: has no path to tune; write for example train.lr: [1e-3, 3e-3, 1e-2]")
    return problems


def _shared_paths(raw: Mapping[str, Any], where: Locate) -> list[str]:
    """One line for every path that an arm sets although it is a factor or tuned: only one of them can hold."""
    problems = []
    for name, fields in _mapping(raw.get("arms")).items():
        for path in _mapping(fields):
            for section, what in (("factors", "a factor"), ("tune", "tuned")):
                if same_knob(path) & {other for _, other, _ in _axes(raw, section)}:
                    problems.append(f"{where(('arms', name, path))}: is {what} as well; it can be one or the other")
    return problems


def seed_problems(seeds: Any, where: Locate) -> list[str]:
    """One line for every mistake in the reporting seeds: `n`, `[s, ...]`, or one of {num, chosen, looks}."""
    if isinstance(seeds, dict) and len(seeds) != 1:
        return [f"{where(('seeds',))}: needs one of num, chosen, looks"]
    form, value = next(iter(seeds.items())) if isinstance(seeds, dict) else ("chosen", seeds)
    numbers = [n for n in (value if isinstance(value, list) else [value]) if type(n) is int]
    at = where(("seeds", form))
    last = last_seed() if form == "chosen" and isinstance(value, list) else last_seed() + 1
    problems = [
        f"{at}: reporting seeds are 0 to {last_seed()}, not {n}" + (f"; {WAY_OUT}" if n > last else "")
        for n in numbers
        if not 0 <= n <= last
    ]
    if isinstance(value, list) and not value:
        problems.append(f"{at}: no seeds")
    if len(set(numbers)) < len(numbers):
        problems.append(f"{at}: a seed stands twice")
    if form == "looks" and numbers != sorted(numbers):
        problems.append(f"{at}: looks must ascend, not {show(numbers)}")
    elif form == "looks" and numbers and 0 <= numbers[0] < LEAST_LOOK:
        problems.append(f"{at}: the first look needs at least {LEAST_LOOK} seeds, not {numbers[0]}")
    return problems
