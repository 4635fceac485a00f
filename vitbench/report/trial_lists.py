"""The trials behind every number: grouped by arm, role and setting, with an anchor each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitbench.base.errors import InputError
from vitbench.report.row_values import Behind, arm_order, score, setting_key, setting_label, setting_of
from vitbench.spec.claims import Claim, single_claims
from vitbench.spec.experiment import Experiment
from vitbench.spec.metrics import DEFAULT_TUNING
from vitbench.stats.contrasts import Resolver, Untested, question
from vitbench.stats.table import Row, TrialTable, tabulate
from vitbench.store.record import REPORTS

ROLES = ("trial", "reporting", "tuning", "stage")


@dataclass(frozen=True)
class TrialGroup:
    """The trials of one arm in one role at one setting: what one cell of a table speaks of."""

    anchor: str
    title: str
    lines: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class ArmTrials:
    """All trials of one arm; `has_lost` where one gave no score."""

    arm: str
    anchor: str
    groups: tuple[TrialGroup, ...]
    num_trials: int
    has_lost: bool


@dataclass(frozen=True)
class Trials:
    """The trials arm by arm, and the anchor of each arm and of the trials behind each number."""

    arms: tuple[ArmTrials, ...]
    anchors: Mapping[str, str]
    behind: Mapping[Behind, str]
    lost: tuple[Mapping[str, Any], ...]
    counts: str


def trials_of(experiment: Experiment, rows: Sequence[Row]) -> Trials:
    """The trials of a run; a trial of several arms has its anchor once."""
    cells: dict[Behind, list[Row]] = {}
    for row in sorted(rows, key=lambda row: ROLES.index(row["role"])):
        role = "reporting" if row["role"] in REPORTS else row["role"]
        cells.setdefault((row["arm"], role, setting_of(row)), []).append(row)
    anchored, behind, arms = set[str](), dict[Behind, str](), []
    for i, arm in enumerate(arm_order(experiment, rows)):
        groups: list[TrialGroup] = []
        for key, members in ((key, cells[key]) for key in cells if key[0] == arm):
            behind[key] = f"arm-{i}-{len(groups)}"
            if members[0]["role"] == "trial":  # it tunes and reports
                behind[key[0], "tuning", key[2]] = behind[key]
            groups.append(TrialGroup(behind[key], _title(members), _lines(experiment, members, anchored)))
        lines = [line for group in groups for line in group.lines]
        has_lost = any(line["status"] != "ok" for line in lines)
        arms.append(ArmTrials(arm, f"arm-{i}", tuple(groups), len(lines), has_lost))
    lost = [line for arm in arms for group in arm.groups for line in group.lines if line["status"] != "ok"]
    return Trials(tuple(arms), {arm.arm: arm.anchor for arm in arms}, behind, tuple(lost), _counts(rows))


def _title(members: Sequence[Row]) -> str:
    """`reporting, lr 0.008, the arm's own choice`."""
    first, setting = members[0], setting_label(setting_of(members[0]))
    role = str(first.get("stage") or "stage") if first["role"] == "stage" else str(first["role"])
    chosen = ["the arm's own choice"] if setting != "-" and first["role"] in REPORTS and first.get("chosen") else []
    return ", ".join([role, *([] if setting == "-" else [setting]), *chosen])


def _lines(experiment: Experiment, members: Sequence[Row], anchored: set[str]) -> tuple[Mapping[str, Any], ...]:
    lines = []
    for row in sorted(members, key=lambda row: int(row["seed"])):
        lines.append(_line(row, experiment) | {"has_anchor": row["trial_id"] not in anchored})
        anchored.add(row["trial_id"])
    return tuple(lines)


def _line(row: Row, experiment: Experiment) -> dict[str, Any]:
    metric, validation = score(row, experiment.report.metric), score(row, row.get("tuned_by", DEFAULT_TUNING))
    memory = row["run"].get("peak_memory_mib")
    return {
        "arm": row["arm"],
        "title": _title([row]),
        "seed": row["seed"],
        "status": row["status"],
        "reason": row["reason"] or "",
        "score": "-" if metric is None or row["role"] == "tuning" else f"{metric:.2f}",
        "validation": "-" if validation is None else f"{validation:.2f}",
        "steps": row["result"].get("num_steps") or "-",
        "seconds": f"{row['run'].get('train_seconds', 0.0):.1f}",
        "memory": "-" if memory is None else f"{memory:.0f}",
        "trial_id": row["trial_id"],
    }


def _counts(rows: Sequence[Row]) -> str:
    """`40 trials: 38 ok, 2 diverged`."""
    unique = {row["trial_id"]: row["status"] for row in rows}
    counted = Counter(unique.values())
    return f"{len(unique)} trials: " + ", ".join(f"{n} {status}" for status, n in counted.most_common())


def claim_cells(experiment: Experiment, rows: Sequence[Row]) -> dict[str, tuple[Behind, ...]]:
    """{claim: the cells that its verdict reads}; none where the claim cannot be resolved yet."""
    table = tabulate(rows)
    return {claim.id: _cells(claim, experiment, table) for claim in single_claims(experiment.claims)}


def _cells(claim: Claim, experiment: Experiment, table: TrialTable) -> tuple[Behind, ...]:
    if claim.untested or claim.form == "descriptive":
        return ()
    try:
        cells = question(claim, Resolver(experiment, table)).cells()
    except (Untested, InputError):
        return ()
    return tuple(dict.fromkeys((cell.arm, "reporting", setting_key(json.loads(cell.setting))) for cell in cells))
