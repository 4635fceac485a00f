"""The rows of an experiment by arm, setting and seed, and each arm's choice; the only reader of a row's layout.

A row is one trial as `records.jsonl` holds it: arm, levels, setting, role, seed, trial_id, status, num_classes, result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import fsum
from typing import Any

import numpy as np

from vitbench.spec.metrics import DEFAULT_TUNING, metric_named
from vitbench.stats.distributions import Floats
from vitbench.stats.race import Race
from vitbench.stats.tuning import Choice, choose, size
from vitbench.store.record import REPORTS, metric_of, parents_of

Row = Mapping[str, Any]


def canonical(value: Any) -> str:
    """One text for values that are equal in YAML and JSON: 16 and 16.0, a tuple and a list, keys in any order."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def metric_value(row: Row, metric: str) -> float | None:
    """The metric of an `ok` trial, from `result` or `result["metrics"]`; None if it is absent or not finite."""
    return metric_of(row.get("result") or {}, metric)


def test_images(row: Row) -> tuple[object, ...]:
    """What identifies the test images of a trial: equal for two trials that were tested on the same images."""
    classes = ((row.get("spec") or {}).get("data") or {}).get("classes")
    return row.get("data_fingerprint"), tuple(classes) if classes else None


def metric_names(rows: Iterable[Row]) -> list[str]:
    """The metrics that at least one row has, sorted."""
    names: set[str] = set()
    for row in rows:
        result = row.get("result") or {}
        numbers = [*result, *(result.get("metrics") or {})]
        names.update(name for name in numbers if metric_value(row, name) is not None)
    return sorted(names)


def with_pretraining(rows: Iterable[Row]) -> list[Row]:
    """Every row; one whose trial starts from earlier stages, or reads their networks, gets the training FLOPs and
    seconds of these as `pretrain_flops` and `pretrain_seconds`. It stays without if the row of a stage is missing."""
    rows = list(rows)
    by_id = {row["trial_id"]: row for row in rows if row.get("trial_id")}
    return [{**row, **_pretraining([by_id.get(stage) for stage in _earlier_stages(row, by_id)])} for row in rows]


def _pretraining(stages: Sequence[Row | None]) -> dict[str, float]:
    """The cost of earlier stages; nothing if there are none, or one of them has no result."""
    known = [row for row in stages if row is not None and row.get("result")]
    if not stages or len(known) < len(stages):
        return {}
    seconds = fsum(row.get("run", {}).get("train_seconds") or 0.0 for row in known)
    return {"pretrain_flops": fsum(row["result"]["train_flops"] for row in known), "pretrain_seconds": seconds}


def total_train_flops(row: Row) -> float:
    """Training FLOPs of a trial and of the stages before it; `row` is from `with_pretraining`."""
    return float(row["result"].get("train_flops") or 0.0) + float(row.get("pretrain_flops", 0.0))


def total_train_seconds(row: Row) -> float:
    """Training seconds of a trial and of the stages before it; `row` is from `with_pretraining`."""
    return float(row["run"].get("train_seconds") or 0.0) + float(row.get("pretrain_seconds", 0.0))


def _earlier_stages(row: Row, by_id: Mapping[str, Row]) -> list[str]:
    """The trials of the stages on which a trial builds, each once."""
    stages: dict[str, None] = {}
    waiting = list(parents_of(row).values())
    while waiting:
        stage = waiting.pop()
        if stage not in stages:
            stages[stage] = None
            waiting += list(parents_of(by_id.get(stage, {})).values())
    return list(stages)


@dataclass(frozen=True)
class Tuning:
    """One arm's search: validation scores [K, T] of K settings by T tuning seeds; `eligible` where the trial is ok."""

    settings: tuple[Mapping[str, Any], ...]
    seeds: tuple[int, ...]
    scores: Floats
    eligible: np.typing.NDArray[np.bool_]

    @cached_property
    def choice(self) -> Choice | None:
        """The chosen setting, None if every setting lost a seed."""
        return choose(self.settings, self.scores, self.eligible)

    def eligible_scores(self) -> Floats:
        """The rows of `scores` that took part in the choice."""
        return self.scores[self.eligible.all(axis=1)]


@dataclass(frozen=True)
class TrialTable:
    """Rows by arm: levels, tuning or race, and reporting trials by (arm, setting) and seed."""

    levels: Mapping[str, Mapping[str, Any]]
    tuning: Mapping[str, Tuning | Race]
    reporting: Mapping[tuple[str, str], Mapping[int, Row]]
    settings: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)

    def upto(self, num_seeds: int) -> TrialTable:
        """The table in which each race stands as after its first seeds; the table itself where nothing races."""
        if not any(isinstance(search, Race) for search in self.tuning.values()):
            return self
        searches = {
            arm: search.upto(num_seeds) if isinstance(search, Race) else search for arm, search in self.tuning.items()
        }
        return replace(self, tuning=searches)

    def own_setting(self, arm: str) -> Mapping[str, Any] | None:
        """The setting at which the arm is reported: its choice, or the only one where nothing was tuned."""
        if arm in self.tuning:
            choice = self.tuning[arm].choice
            return choice.setting if choice else None
        settings = self.settings.get(arm, ())
        return settings[0] if len(settings) == 1 else None

    def trials(self, arm: str, setting: Mapping[str, Any]) -> Mapping[int, Row]:
        """The reporting trials of an arm at a setting, by seed."""
        return self.reporting.get((arm, canonical(setting)), {})

    def rows(self) -> list[Row]:
        """Every reporting row."""
        return [row for trials in self.reporting.values() for row in trials.values()]


def tabulate(rows: Iterable[Row]) -> TrialTable:
    """The rows as a TrialTable; stage trials carry no score and are left out."""
    levels: dict[str, Mapping[str, Any]] = {}
    tuning: dict[str, list[Row]] = {}
    reporting: dict[tuple[str, str], dict[int, Row]] = {}
    settings: dict[str, dict[str, Mapping[str, Any]]] = {}
    races: dict[str, list[Row]] = {}
    for row in with_pretraining(rows):
        arm, key = row["arm"], canonical(row["setting"])
        levels.setdefault(arm, row["levels"])
        if row["role"] == "tuning":
            tuning.setdefault(arm, []).append(row)
        elif row["role"] == "trial":
            races.setdefault(arm, []).append(row)
        if row["role"] in REPORTS:
            reporting.setdefault((arm, key), {})[row["seed"]] = row
            settings.setdefault(arm, {})[key] = row["setting"]
    return TrialTable(
        levels,
        {arm: _tuning(rows) for arm, rows in tuning.items()} | {arm: _race(rows) for arm, rows in races.items()},
        {key: dict(sorted(trials.items())) for key, trials in reporting.items()},
        {arm: tuple(by_key.values()) for arm, by_key in settings.items()},
    )


def _tuning(rows: list[Row]) -> Tuning:
    """One arm's tuning rows as scores [K, T]."""
    settings = {canonical(row["setting"]): row["setting"] for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    keys = list(settings)
    scores = np.zeros((len(keys), len(seeds)))
    eligible = np.zeros(scores.shape, dtype=bool)
    for row in rows:
        value = metric_value(row, DEFAULT_TUNING)
        if row["status"] == "ok" and value is not None:
            cell = keys.index(canonical(row["setting"])), seeds.index(row["seed"])
            scores[cell], eligible[cell] = value, True
    return Tuning(tuple(settings.values()), tuple(seeds), scores, eligible)


def _race(rows: list[Row]) -> Race:
    """One arm's race, settings in ascending order, whatever the order of the rows."""
    by_key = {canonical(row["setting"]): row["setting"] for row in rows}
    keys = sorted(by_key, key=lambda key: (*size(by_key[key]), key))
    seeds = sorted({row["seed"] for row in rows})
    scores = np.zeros((len(keys), len(seeds)))
    ok, present = (np.zeros(scores.shape, dtype=bool) for _ in range(2))
    metric = metric_named(rows[0].get("tuned_by", DEFAULT_TUNING))
    for row in rows:
        cell = keys.index(canonical(row["setting"])), seeds.index(row["seed"])
        value = metric_value(row, metric.name)
        present[cell] = True
        if row["status"] == "ok" and value is not None:
            scores[cell], ok[cell] = metric.sign * value, True
    chosen = {keys.index(canonical(row["setting"])) for row in rows if row.get("chosen")}
    return Race(
        tuple(by_key[key] for key in keys),
        tuple(seeds),
        scores,
        ok,
        present,
        min(chosen) if len(chosen) == 1 else None,
        metric.name,
    )
