"""The live view of a run: a display on a terminal, plain lines elsewhere, and a summary at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as RichTable
from rich.text import Text

from vitbench.base.errors import printable
from vitbench.report.formats import to_rich
from vitbench.report.live.progress import RunState, Tally, duration
from vitbench.report.row_values import Setting, metric_label, setting_key, setting_label
from vitbench.report.tables import interval_cell, result_table, shared_table
from vitbench.spec.experiment import Experiment
from vitbench.spec.metrics import metric_named
from vitbench.stats.intervals import mean_interval
from vitbench.stats.table import Row
from vitbench.store.events import ArmStanding, Began, Event, Finished, Planned, Progress, Started, Warned

HEARTBEAT_SECONDS = 30.0
"""Without a terminal: longest time without a line while trials run."""
MOST_RUNNING = 6
CHROME_LINES = 15
"""Screen lines that the display needs beside the rows of the arms' table."""


class LiveView:
    """A listener of events and a context manager: `with LiveView(console, state) as view: run(..., listen=view)`.

    On a terminal it redraws itself four times per second and is erased at the end; elsewhere it prints one line per
    finished trial. `quiet` prints only warnings and lost trials. Events may come from any thread. `gauge` returns one
    line about the load of the device.
    """

    def __init__(
        self,
        console: Console,
        state: RunState,
        quiet: bool = False,
        gauge: Callable[[], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = state
        self._console, self._quiet, self._gauge, self._clock = console, quiet, gauge, clock
        self._lock = threading.RLock()
        self._last_line = clock()
        drawn = console.is_terminal and not console.is_dumb_terminal and not quiet
        self._live = Live(console=console, get_renderable=self.render, transient=True) if drawn else None

    def __enter__(self) -> LiveView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: Event, at: float | None = None) -> None:
        """Show an event of now, or of the given time on the view's clock; print its line if nothing is drawn."""
        with self._lock:
            now, num_planned = self._clock() if at is None else at, self.state.planned.num_trials
            dropped = self.state.newly_dropped(event) if isinstance(event, Planned) else []
            self.state.apply(event, now)
            if self._live is not None:
                return
            line = self._line(event, now, num_planned)
            race_lines = [] if self._quiet else [_race_line(standing) for standing in dropped]
            for text in (*race_lines, *([] if line is None else [line])):
                self._console.print(Text(printable(text)), soft_wrap=True)
                self._last_line = now

    def recall(self, rows: Sequence[Row]) -> None:
        """Use the records of earlier runs."""
        with self._lock:
            self.state.recall(rows)

    def _line(self, event: Event, now: float, num_planned: int) -> str | None:
        """The plain line of an event that `state` already contains; None for events without a line."""
        state = self.state
        match event:
            case Warned() if state.warnings[event.message] == 1:
                return f"warning: {event.message}"
            case Finished() if not self._quiet or event.status != "ok":
                return f"[{state.num_done}/{state.num_expected}] {_outcome(event)}{self._left(now)}"
            case Planned() if not self._quiet and event.num_trials != num_planned:
                return _plan_line(event, state.place)
            case Progress() if not self._quiet and now - self._last_line >= HEARTBEAT_SECONDS:
                running = state.running.get(event.trial_id)
                return f"{_trial(running.started)}: {_reading(event)}{self._left(now)}" if running else None
        return None

    def _left(self, now: float) -> str:
        left = _left_text(self.state, now)
        return f"; {left}" if left else ""

    def render(self) -> RenderableType:
        """The display as it is now."""
        with self._lock:
            now = self._clock()
            parts = [_overall(self.state, now), _running_table(self.state), _arms_table(self.state, self._room())]
            if self._gauge is not None:
                parts.append(Text(self._gauge(), style="dim"))
            if self.state.warnings:
                parts.append(_folded(self.state.warnings))
            return Group(*parts)

    def _room(self) -> int:
        return max(3, self._console.height - CHROME_LINES)


def _plan_line(event: Planned, place: Began | None) -> str:
    more = f", at most {event.num_expected} in all" if event.num_expected > event.num_trials else ""
    return f"{event.experiment}{_place_text(place)}: {event.num_trials} trials{more}, {event.num_done} done"


def _race_line(standing: ArmStanding) -> str:
    """`token, 3 seeds: dropped lr 0.016; still racing lr 0.002 and lr 0.004`."""
    dropped, racing = (
        " and ".join(setting_label(setting_key(setting)) for setting in settings)
        for settings in (standing.dropped, standing.racing)
    )
    return f"{standing.arm}, {standing.num_seeds} seeds: dropped {dropped}; still racing {racing}"


def _place_text(place: Began | None) -> str:
    return f" ({place.number} of {place.num_runs})" if place and place.num_runs > 1 else ""


def _left_text(state: RunState, now: float) -> str:
    """`about 4 min 10 s left`, with the suite's where more experiments follow; empty while it is unknown."""
    left, suite = state.seconds_left(now), state.suite_seconds_left(now)
    if left is None or suite is None:
        return ""
    follows = state.place is not None and bool(state.place.ahead)
    return f"about {duration(left)} left" + (f" (suite: {duration(suite)})" if follows else "")


def _trial(event: Started | Finished) -> str:
    return _trial_name(event.arm, event.setting, event.seed, event.role)


def _trial_name(arm: str, setting: Mapping[str, Any], seed: int, role: str) -> str:
    parts = [arm, *([setting_label(setting_key(setting))] if setting else []), f"seed {seed}"]
    return ", ".join(parts) + (f" ({role})" if role != "reporting" else "")


def _outcome(event: Finished) -> str:
    if event.status != "ok":
        return f"{_trial(event)}: {event.status}: {event.reason or 'no reason given'}"
    value = event.validation if event.role == "tuning" else event.metric
    reading = "done" if value is None else f"{value:.2f}" + (" on validation" if event.role == "tuning" else "")
    return f"{_trial(event)}: {reading}, {event.train_seconds:.1f} s"


def _reading(event: Progress) -> str:
    loss = "" if event.loss is None else f", loss {event.loss:.3f}"
    return f"step {event.step}/{event.num_steps}, {event.images_per_second:.0f} images/s{loss}"


def _overall(state: RunState, now: float) -> RenderableType:
    """Name, bar and count; the times on a line of their own, since a suite's do not fit beside them."""
    line = RichTable.grid(padding=(0, 1))
    line.add_row(
        Text(printable(state.experiment.name + _place_text(state.place)), style="bold"),
        ProgressBar(total=1.0, completed=state.share_done, width=24),
        Text(f"{state.num_done}/{state.num_expected} trials"),
    )
    left = _left_text(state, now) or "estimating the time left"
    times = left if state.num_done < state.num_expected else "done"
    return Group(line, Text(f"{duration(state.pace.elapsed(now))} so far, {times}"))


def _running_table(state: RunState) -> RenderableType:
    table = _plain_table(("Running", "left"), ("Step", "right"), ("Images/s", "right"), ("Loss", "right"))
    drawn = list(state.running.values())[:MOST_RUNNING]
    for running in drawn:
        started, progress = running.started, running.progress
        step = f"{progress.step if progress else 0}/{started.num_steps}"
        speed = f"{progress.images_per_second:.0f}" if progress else "-"
        loss = progress.loss if progress else None
        table.add_row(Text(printable(_trial(started))), step, speed, "-" if loss is None else f"{loss:.3f}")
    if len(state.running) > len(drawn):
        table.add_row(f"and {len(state.running) - len(drawn)} more", "", "", "")
    if drawn:
        return table
    idle = "waiting for a trial to start" if state.num_done < state.num_expected else "every trial is done"
    return Text(idle, style="dim")


def _arms_table(state: RunState, room: int) -> RenderableType:
    metric = metric_label(state.experiment.report.metric)
    columns = [("Arm", "left"), ("Setting", "left"), ("n", "right"), (metric, "right"), ("Tuning", "left")]
    if state.experiment.tune is None:
        columns = [column for column in columns if column[0] not in ("Setting", "Tuning")]
    table = _plain_table(*columns)
    lines = [line for arm in state.tuning for line in _arm_lines(state, arm)]
    for line in lines[:room]:
        cells = line if state.experiment.tune else (line[0], *line[2:4])
        table.add_row(*(Text(printable(cell)) for cell in cells))
    if len(lines) > room:
        table.add_row(f"and {len(lines) - room} more")
    return table


def _arm_lines(state: RunState, arm: str) -> list[tuple[str, str, str, str, str]]:
    """One line per reported setting of the arm; one in all before its first reporting trial."""
    standing = state.standings.get(arm)
    tuned = _tuning_text(state.tuning[arm], state.tuned_by)
    reported = [(setting, tally) for (name, setting), tally in state.reporting.items() if name == arm]
    if not reported:
        return [(arm, "-", "0", "-", tuned)]
    return [
        (
            arm,
            setting_label(setting),
            str(len(tally.scores)),
            _score_text(tally),
            tuned if standing is None else _race_text(standing, setting, state.tuning[arm], state.tuned_by),
        )
        for setting, tally in reported
    ]


def _race_text(standing: ArmStanding, setting: Setting, tallies: dict[Setting, Tally], metric: str) -> str:
    """`84.43 on validation, leads`: a setting of a race, and whether it leads, races or was dropped."""
    dropped = {setting_key(other) for other in standing.dropped}
    means = {s: sum(t.scores.values()) / len(t.scores) for s, t in tallies.items() if t.scores and not t.lost}
    named = metric_named(metric)
    leader = max((s for s in means if s not in dropped), key=lambda s: named.sign * means[s], default=None)
    place = "dropped" if setting in dropped else "leads" if setting == leader else "racing"
    return f"{means[setting]:.{named.decimals}f} on validation, {place}" if setting in means else place


def _score_text(tally: Tally) -> str:
    text = interval_cell(mean_interval(list(tally.scores.values())))
    return text + (f", {len(tally.lost)} lost" if tally.lost else "")


def _tuning_text(settings: dict[tuple[tuple[str, object], ...], Tally], metric: str) -> str:
    """`8 done, best 92.17 at lr 0.004`: on validation, over the settings tried so far."""
    num_done = sum(len(tally.scores) + len(tally.lost) for tally in settings.values())
    means = {s: sum(t.scores.values()) / len(t.scores) for s, t in settings.items() if t.scores and not t.lost}
    if not means:
        return f"{num_done} done" if num_done else "-"
    named = metric_named(metric)
    best = max(means, key=lambda setting: named.sign * means[setting])
    return f"{num_done} done, best {means[best]:.{named.decimals}f} at {setting_label(best)}"


def _plain_table(*columns: tuple[str, str]) -> RichTable:
    table = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for name, justify in columns:
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    return table


def _folded(warnings: dict[str, int]) -> Text:
    last = list(warnings)[-1]
    more = f" (and {len(warnings) - 1} more)" if len(warnings) > 1 else ""
    return Text(printable(f"warning{more}: {last}"), style="yellow", overflow="ellipsis", no_wrap=True)


def summary(experiment: Experiment, rows: Sequence[Row], width: int, height: int | None) -> RenderableType:
    """The end of a run: result tables, cut to a screen of `height` lines, and lost trials with their reasons."""
    parts: list[RenderableType] = [] if rows else [Text(printable(f"{experiment.name}: no finished trials"))]
    for table in (result_table(experiment, rows), shared_table(experiment, rows)) if rows else ():
        if table is not None and table.rows:
            cut = table if height is None else table.head(max(3, height // 3))
            parts += [to_rich(cut, width), Text()]
    lost = [row for row in rows if row["status"] != "ok"]
    for row in lost[:3]:
        name = _trial_name(row["arm"], row.get("setting", {}), row["seed"], row["role"])
        parts.append(Text(printable(f"{row['status']}: {name}: {row['reason']}"), style="yellow"))
    if len(lost) > 3:
        parts.append(Text(f"and {len(lost) - 3} more lost trials; `vitbench status` counts them"))
    return Group(*parts)
