"""What a run cost and what it ran on, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vitbench.report.formats import Table
from vitbench.report.progress import duration
from vitbench.report.rows import quantity
from vitbench.stats.table import Row

ROLES = {"tuning": "tuning", "reporting": "reporting", "stage": "earlier stages"}


def cost_table(rows: Sequence[Row]) -> Table:
    """Trials, training FLOPs and time by role; a trial that serves several arms is paid once."""
    unique = list({row["trial_id"]: row for row in rows}.values())
    lines = [_cost(name, [row for row in unique if row["role"] == role]) for role, name in ROLES.items()]
    lines = [line for line in lines if line[1] != "0"]
    whole = [_cost("in all", unique)] if len(lines) > 1 else []
    header = ("Spent on", "Trials", "Train FLOPs", "Training time", "Evaluation time")
    return Table(
        "Cost", header, (*lines, *whole), notes=("Times are summed over trials, whether or not they ran side by side.",)
    )


def _cost(name: str, rows: Sequence[Row]) -> tuple[str, ...]:
    flops = sum(row["result"].get("train_flops") or 0.0 for row in rows)
    train, evaluate = (sum(row["run"].get(key) or 0.0 for row in rows) for key in ("train_seconds", "eval_seconds"))
    return name, str(len(rows)), quantity(flops), duration(train), duration(evaluate)


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
