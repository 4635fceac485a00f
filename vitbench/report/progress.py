"""What is known of a run while it goes on, gathered from its events: counts, scores, running trials, time left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vitbench.events import Event, Finished, Planned, Progress, Started, Warned
from vitbench.experiment import Experiment
from vitbench.report.rows import Setting, arm_order, score, setting_key, setting_of
from vitbench.stats.table import Row

Cell = tuple[str, Setting]
"""An arm at a setting."""

LEAST_SHARE = 0.005
"""No time left is told before this share of the work is done in this session: one batch says nothing."""


@dataclass
class Tally:
    """Reporting scores of one arm at one setting, by seed, and how many trials gave none."""

    scores: dict[int, float] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)

    def add(self, seed: int, value: float | None) -> None:
        """Counts one finished trial."""
        if value is None:
            self.lost.add(seed)
        else:
            self.scores[seed] = value


class RunState:
    """A run's events folded into what a view shows. Times come in as arguments (seconds of one clock)."""

    def __init__(self, experiment: Experiment, rows: Sequence[Row] = ()) -> None:
        """`rows`: records of earlier runs, so that a resumed run's table starts where the last one ended."""
        self.experiment = experiment
        self.planned = Planned(experiment.name, 0, 0, 0.0, 0.0, 0)
        self.running: dict[str, tuple[Started, Progress | None]] = {}
        self.reporting: dict[Cell, Tally] = {}
        self.tuning: dict[str, dict[Setting, Tally]] = {arm: {} for arm in arm_order(experiment)}
        self.warnings: dict[str, int] = {}
        self._started_at: float | None = None
        self._session_flops = 0.0
        self._since_plan = (0, 0.0)
        for row in rows:
            metric = "val_top1_percent" if row["role"] == "tuning" else experiment.report.metric
            self._count(row["arm"], setting_of(row), row["role"], int(row["seed"]), score(row, metric))

    def apply(self, event: Event, now: float) -> None:
        """Takes one event into account."""
        match event:
            case Planned():
                self.planned, self._since_plan = event, (0, 0.0)
            case Started():
                self._started_at = now if self._started_at is None else self._started_at
                self.running[event.trial_id] = (event, None)
            case Progress() if event.trial_id in self.running:
                self.running[event.trial_id] = (self.running[event.trial_id][0], event)
            case Finished():
                self._finish(event)
            case Warned():
                self.warnings[event.message] = self.warnings.get(event.message, 0) + 1

    def _finish(self, event: Finished) -> None:
        self.running.pop(event.trial_id, None)
        num, flops = self._since_plan
        self._since_plan = (num + 1, flops + event.train_flops)
        self._session_flops += event.train_flops
        value = event.val_top1_percent if event.role == "tuning" else event.metric
        self._count(event.arm, setting_key(event.setting), event.role, event.seed, value)

    def _count(self, arm: str, setting: Setting, role: str, seed: int, value: float | None) -> None:
        if role == "reporting":
            self.reporting.setdefault((arm, setting), Tally()).add(seed, value)
        elif role == "tuning":
            self.tuning.setdefault(arm, {}).setdefault(setting, Tally()).add(seed, value)

    @property
    def num_done(self) -> int:
        """Trials with a record."""
        return self.planned.num_done + self._since_plan[0]

    @property
    def num_expected(self) -> int:
        """Trials in all, those of later rounds included."""
        return max(self.planned.num_expected, self.planned.num_trials, self.num_done)

    @property
    def expected_flops(self) -> float:
        """Training FLOPs in all; trials of later rounds count as the mean of those that are known."""
        return self.planned.train_flops * self.num_expected / max(1, self.planned.num_trials)

    @property
    def share_done(self) -> float:
        """Share of the training FLOPs that is done, running trials included; 1.0 where nothing is to do."""
        total = self.expected_flops
        done = self.planned.train_flops_done + self._since_plan[1] + self._running_flops()
        return min(1.0, done / total) if total else 1.0

    def _running_flops(self) -> float:
        return sum(s.train_flops * p.step / max(1, p.num_steps) for s, p in self.running.values() if p is not None)

    def elapsed(self, now: float) -> float:
        """Seconds since the first trial of this session began."""
        return 0.0 if self._started_at is None else now - self._started_at

    def seconds_left(self, now: float) -> float | None:
        """Time left at this session's speed in training FLOPs per second; None while that is not known."""
        done = self._session_flops + self._running_flops()
        elapsed = self.elapsed(now)
        if elapsed <= 0 or done < LEAST_SHARE * self.expected_flops or not done:
            return None
        return (1.0 - self.share_done) * self.expected_flops * elapsed / done


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
