"""Scores of arms by seeds, [A, S], with a status per cell; a value is read only where it is ok."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vitbench.base.errors import InputError, nearest
from vitbench.stats.distributions import Floats
from vitbench.stats.table import Row, TrialTable, metric_names, metric_value, tabulate

CellStatus = Literal["ok", "diverged", "failed", "missing"]


@dataclass(frozen=True)
class ScoreMatrix:
    """`values` [A, S] of one metric (NaN where a cell is not ok: read them with `scores`), one status and id a cell."""

    metric: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    values: Floats
    status: tuple[tuple[CellStatus, ...], ...]
    trial_ids: tuple[tuple[str | None, ...], ...]

    def scores(self, arm: str, seeds: Sequence[int] | None = None) -> Floats:
        """The arm's scores at `seeds` (default: all); an InputError names the first cell that is not ok."""
        chosen = self.seeds if seeds is None else tuple(seeds)
        return np.array([self.score(arm, seed) for seed in chosen], dtype=np.float64)

    def score(self, arm: str, seed: int) -> float:
        """One score; an InputError if the cell is not ok."""
        row, column = self.arms.index(arm), self.seeds.index(seed)
        status = self.status[row][column]
        if status != "ok":
            trial = self.trial_ids[row][column]
            raise InputError(f"{arm}, seed {seed}: no {self.metric}, the trial {trial or ''} is {status}")
        return float(self.values[row, column])

    def ok_seeds(self, *arms: str) -> tuple[int, ...]:
        """The seeds at which all of `arms` (default: every arm) are ok."""
        rows = [self.status[self.arms.index(arm)] for arm in (arms or self.arms)]
        return tuple(seed for column, seed in enumerate(self.seeds) if all(row[column] == "ok" for row in rows))

    def count(self, arm: str, status: CellStatus) -> int:
        """How many of the arm's seeds have this status."""
        return self.status[self.arms.index(arm)].count(status)


def score_matrix(
    rows: Iterable[Row] | TrialTable,
    metric: str = "test_top1_percent",
    arms: Sequence[str] | None = None,
    at: Mapping[str, Any] | None = None,
) -> ScoreMatrix:
    """The reporting scores of `arms` (default: all), each at its own setting, or with `at`'s values put in its place.

    An InputError if no trial has the metric.
    """
    table = rows if isinstance(rows, TrialTable) else tabulate(rows)
    check_metric(table, metric)
    names = tuple(table.levels if arms is None else arms)
    cells = {name: trials_at(table, name, at) for name in names}
    seeds = tuple(sorted({seed for trials in cells.values() for seed in trials}))
    status = tuple(tuple(cell_status(cells[name].get(seed), metric) for seed in seeds) for name in names)
    values = np.full((len(names), len(seeds)), np.nan)
    for row, name in enumerate(names):
        for column, seed in enumerate(seeds):
            if status[row][column] == "ok":
                values[row, column] = metric_value(cells[name][seed], metric)
    ids = tuple(tuple(cells[name].get(seed, {}).get("trial_id") for seed in seeds) for name in names)
    return ScoreMatrix(metric, names, seeds, values, status, ids)


def trials_at(table: TrialTable, arm: str, at: Mapping[str, Any] | None = None) -> Mapping[int, Row]:
    """The arm's trials by seed at its own setting with `at` put over it; none where it has no setting."""
    tuned = table.own_setting(arm)
    if tuned is None and not at:
        return {}
    return table.trials(arm, {**(tuned or {}), **(at or {})})


def cell_status(row: Row | None, metric: str) -> CellStatus:
    """The status of one cell; an ok trial without a finite value of the metric counts as failed."""
    if row is None:
        return "missing"
    if row["status"] == "ok":
        return "ok" if metric_value(row, metric) is not None else "failed"
    return "diverged" if row["status"] == "diverged" else "failed"


def check_metric(table: TrialTable, metric: str) -> None:
    """Raise an InputError if trials exist and none has the metric."""
    rows = [row for row in table.rows() if row["status"] == "ok"]
    if rows and all(metric_value(row, metric) is None for row in rows):
        names = metric_names(rows)
        raise InputError(
            f"no trial has the metric {metric!r}; there are {', '.join(names)}.{nearest(metric, names)} "
            "`vitbench inspect RUN` adds what it measures of kept weights"
        )
