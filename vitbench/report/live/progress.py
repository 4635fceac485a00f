"""The state of an active run, built from its events: counts, scores, running trials, time left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from vitbench.report.live.pace import Kind, Pace, counted
from vitbench.report.row_values import Setting, arm_order, score, setting_key, setting_of
from vitbench.spec.experiment import Experiment
from vitbench.spec.metrics import DEFAULT_TUNING
from vitbench.stats.table import Row
from vitbench.store.events import ArmStanding, Began, Event, Finished, Planned, Progress, Started, Warned
from vitbench.store.record import REPORTS, TUNES

Cell = tuple[str, Setting]
"""An arm at a setting."""


@dataclass
class Tally:
    """Reporting scores of one arm at one setting, by seed, and the seeds of trials without a score."""

    scores: dict[int, float] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)

    def add(self, seed: int, value: float | None) -> None:
        """Count one finished trial."""
        if value is None:
            self.lost.add(seed)
        else:
            self.scores[seed] = value


@dataclass(frozen=True)
class Running:
    """A trial at work: when it began (on the view's clock), and its last reading."""

    started: Started
    since: float
    progress: Progress | None = None

    @property
    def kind(self) -> Kind:
        """The kind of trial, which determines its cost."""
        return self.started.arm, self.started.train_flops, self.started.num_steps

    @property
    def share(self) -> float:
        """The share of its steps that is done."""
        return self.progress.step / max(1, self.progress.num_steps) if self.progress else 0.0


class RunState:
    """A run's events folded into what a view shows. Times come in as arguments (seconds of one clock)."""

    def __init__(self, experiment: Experiment, pace: Pace | None = None) -> None:
        """`pace`: durations from the suite's earlier experiments."""
        self.experiment = experiment
        self.place: Began | None = None
        self.planned = Planned(experiment.name, 0, 0, 0, (), ())
        self.running: dict[str, Running] = {}
        self.reporting: dict[Cell, Tally] = {}
        self.tuning: dict[str, dict[Setting, Tally]] = {arm: {} for arm in arm_order(experiment)}
        self.standings: dict[str, ArmStanding] = {}
        self.warnings: dict[str, int] = {}
        self.pace = pace or Pace()
        self._known: set[str] = set()
        self._done: Counter[Kind] = Counter()
        self._left: Counter[Kind] = Counter()
        self._num_since_plan = 0

    def recall(self, rows: Sequence[Row]) -> None:
        """Use records of earlier runs: their scores for the table, their durations for the time left."""
        for row in rows:
            values = score(row, self.experiment.report.metric), score(row, self.tuned_by)
            self._count((row["arm"], setting_of(row)), row["role"], int(row["seed"]), *values)
            if row["trial_id"] not in self._known:
                self._known.add(row["trial_id"])
                self._learn(row)

    @property
    def tuned_by(self) -> str:
        """The validation metric that chooses a setting."""
        tune = self.experiment.tune
        return tune.metric if tune else DEFAULT_TUNING

    def _learn(self, row: Row) -> None:
        result, run = row.get("result") or {}, row.get("run") or {}
        seconds = run.get("train_seconds", 0.0) + run.get("eval_seconds", 0.0)
        if seconds and result.get("train_flops"):
            self.pace.recall((row["arm"], result["train_flops"], result.get("num_steps", 0)), seconds)

    def apply(self, event: Event, now: float) -> None:
        """Update the state by one event."""
        match event:
            case Began():
                self.place = event
            case Planned():
                self.planned, self._num_since_plan = event, 0
                self.standings = {standing.arm: standing for standing in event.standings}
                self._done, self._left = counted(event.done), counted(event.left)
            case Started():
                self.running[event.trial_id] = Running(event, now)
                self.pace.start(now, len(self.running))
            case Progress() if event.trial_id in self.running:
                began = self.running[event.trial_id]
                self.running[event.trial_id] = Running(began.started, began.since, event)
            case Finished():
                self._finish(event, now)
            case Warned():
                self.warnings[event.message] = self.warnings.get(event.message, 0) + 1

    def _finish(self, event: Finished, now: float) -> None:
        kind = event.arm, event.train_flops, event.num_steps
        self._known.add(event.trial_id)
        began = self.running.pop(event.trial_id, None)
        self.pace.finish(kind, now - began.since if began is not None and event.status != "failed" else None)
        self._num_since_plan += 1
        self._done[kind] += 1
        self._left[kind] -= 1
        cell = event.arm, setting_key(event.setting)
        self._count(cell, event.role, event.seed, event.metric, event.validation)

    def _count(self, cell: Cell, role: str, seed: int, metric: float | None, validation: float | None) -> None:
        if role in REPORTS:
            self.reporting.setdefault(cell, Tally()).add(seed, metric)
        if role in TUNES:
            self.tuning.setdefault(cell[0], {}).setdefault(cell[1], Tally()).add(seed, validation)

    def newly_dropped(self, event: Planned) -> list[ArmStanding]:
        """The standings of a plan in which a setting is dropped that still raced before; call it before `apply`."""
        before = {arm: len(standing.dropped) for arm, standing in self.standings.items()}
        return [standing for standing in event.standings if len(standing.dropped) > before.get(standing.arm, 0)]

    @property
    def num_done(self) -> int:
        """Trials with a record."""
        return self.planned.num_done + self._num_since_plan

    @property
    def num_expected(self) -> int:
        """Number of trials, including those of later rounds."""
        return max(self.planned.num_expected, self.num_done)

    @property
    def share_done(self) -> float:
        """Share of the experiment's work that is done, running trials included; 1.0 if there is no work."""
        under_way = sum(self.pace.total({trial.kind: trial.share}) for trial in self.running.values())
        done = self.pace.total(self._done)
        total = done + self.pace.total(self._left)
        return min(1.0, (done + under_way) / total) if total else 1.0

    def _under_way(self) -> list[tuple[Kind, float]]:
        return [(trial.kind, trial.share) for trial in self.running.values()]

    def seconds_left(self, now: float) -> float | None:
        """Time left for this experiment; None while the speed is not known."""
        return self.pace.left(self._left, self._under_way(), now)

    def suite_seconds_left(self, now: float) -> float | None:
        """Time left for this experiment and those after it; None while the speed is not known."""
        ahead = counted(self.place.ahead) if self.place else Counter[Kind]()
        return self.pace.left(self._left + ahead, self._under_way(), now)


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 05 min`; long ones as `20 days`, `700 years`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 3 * 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    days = whole / 86400
    return f"{days:.0f} days" if days < 1000 else f"{days / 365:,.0f} years"
