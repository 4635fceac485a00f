"""The exit code of `vitbench run`: what is lost and what is missing."""

from __future__ import annotations

from vitbench.engines import runner
from vitbench.plan.trials import Trial


def exit_code(outcome: runner.RunOutcome) -> int:
    """1 where a reporting trial failed or diverged or an arm has no eligible setting, 3 where trials are missing."""
    if outcome.plan.unfit or any(_is_lost(trial, outcome) for trial in outcome.plan.trials):
        return 1
    return 3 if outcome.missing or outcome.stopped_by_limit or not outcome.plan.complete else 0


def _is_lost(trial: Trial, outcome: runner.RunOutcome) -> bool:
    """Whether a trial that a result needs gave none. A setting that diverged and left its race is no such trial."""
    record = outcome.records.get(trial.trial_id)
    if record is None or record.status == "ok" or trial.role == "tuning":
        return False
    is_leader = dict(outcome.plan.choices.get(trial.arm, {})) == dict(trial.setting)
    return trial.role != "trial" or record.status == "failed" or is_leader


def worse(a: int, b: int) -> int:
    """The more severe of two exit codes."""
    order = (1, 3, 4, 0)
    return min(a, b, key=order.index)
