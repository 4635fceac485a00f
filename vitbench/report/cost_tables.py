"""What a run cost and what it ran on, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum
from typing import Any

from vitbench.report.formats import Table
from vitbench.report.live.progress import duration
from vitbench.report.row_values import quantity
from vitbench.stats.table import Row

ROLES = {"trial": "tuning and reporting", "tuning": "tuning", "reporting": "reporting", "stage": "earlier stages"}


def cost_table(rows: Sequence[Row]) -> Table:
    """Trials, training FLOPs and time by role; a trial that serves several arms counts once."""
    unique = _unique(rows)
    return _costs("Spent on", {name: [row for row in unique if row["role"] == role] for role, name in ROLES.items()})


def root_cost_table(runs: Mapping[str, Sequence[Row]]) -> Table:
    """Costs of a results root by run; a trial that several runs use counts in the first."""
    paid: set[str] = set()
    parts: dict[str, list[Row]] = {}
    for name, rows in runs.items():
        parts[name] = [row for row in _unique(rows) if row["trial_id"] not in paid]
        paid.update(row["trial_id"] for row in parts[name])
    return _costs("Run", parts)


def _unique(rows: Sequence[Row]) -> list[Row]:
    unique: dict[str, Row] = {}
    for row in rows:
        unique.setdefault(row["trial_id"], row)
    return list(unique.values())


def _costs(what: str, parts: Mapping[str, Sequence[Row]]) -> Table:
    lines = [_cost(name, rows) for name, rows in parts.items() if rows]
    whole = [_cost("total", [row for rows in parts.values() for row in rows])] if len(lines) > 1 else []
    header = (what, "Trials", "Train FLOPs", "Training time", "Images/s", "Evaluation time")
    notes = ("Times are sums over trials, also where trials ran in parallel. Images/s is the rate of one process.",)
    return Table("Cost", header, (*lines, *whole), notes=notes)


def _cost(name: str, rows: Sequence[Row]) -> tuple[str, ...]:
    flops, images = (fsum(row["result"].get(key) or 0.0 for row in rows) for key in ("train_flops", "num_images"))
    train, evaluate = (fsum(row["run"].get(key) or 0.0 for row in rows) for key in ("train_seconds", "eval_seconds"))
    speed = f"{images / train:.0f}" if images and train else "-"
    return name, str(len(rows)), quantity(flops), duration(train), speed, duration(evaluate)


def environment_table(rows: Sequence[Row]) -> Table:
    """Devices, threads and versions with the number of trials under each."""
    counted: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        for name, value in _facts(row["run"]).items():
            counted.setdefault((name, value), set()).add(row["trial_id"])
    lines = [(name, value, str(len(trials))) for (name, value), trials in sorted(counted.items())]
    return Table("Environment", ("What", "Value", "Trials"), tuple(lines))


def _facts(run: dict[str, Any]) -> dict[str, str]:
    commit = f"{run['commit']}{' with changes' if run.get('dirty') else ''}" if run.get("commit") else None
    facts = {"device": run.get("device"), "engine": run.get("engine"), "threads": run.get("threads"), "commit": commit}
    return {name: str(value) for name, value in (facts | run.get("versions", {})).items() if value}


def commits(rows: Sequence[Row]) -> list[str]:
    """The commits under which the trials ran."""
    return sorted({str(row["run"]["commit"]) for row in rows if row["run"].get("commit")})
