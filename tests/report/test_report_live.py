"""The live view: plain lines, quiet, a terminal, time left; and the summary that a run ends with."""

from __future__ import annotations

import heapq
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from sample_rows import class_token_experiment, class_token_rows, position_experiment, position_rows

from vitbench.report.live import pace
from vitbench.report.live.progress import RunState, duration
from vitbench.report.live.view import LiveView, summary
from vitbench.store.events import (
    ArmStanding,
    Began,
    Event,
    Finished,
    Planned,
    Progress,
    Started,
    Warned,
    Work,
    from_line,
    to_line,
)

FLOPS = 8.8e10


def resumed(rows: list[dict[str, Any]]) -> RunState:
    """The state of a run that finds records."""
    state = RunState(class_token_experiment())
    state.recall(rows)
    return state


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def started(seed: int, flops: float = FLOPS, arm: str = "token") -> Started:
    return Started(f"{arm}{seed}", arm, {"train.lr": 0.004}, seed, "reporting", 400, flops)


def finished(seed: int, flops: float = FLOPS, status: str = "ok", arm: str = "token") -> Finished:
    ok = status == "ok"
    reason = None if ok else "loss is not finite"
    score = 90.0 + seed if ok else None
    return Finished(
        f"{arm}{seed}", arm, {"train.lr": 0.004}, seed, "reporting", status, reason, score, score, flops, 400, 4.5
    )


def work(num_trials: int, flops: float = FLOPS, arm: str = "token") -> Work:
    return Work(arm, flops, 400, num_trials)


def lines_of(events: list[tuple[float, Event]], quiet: bool = False) -> list[str]:
    out, clock = io.StringIO(), Clock()
    with LiveView(Console(file=out, width=40), RunState(class_token_experiment()), quiet, clock=clock) as view:
        for at, event in events:
            clock.now = at
            view(event)
    return out.getvalue().splitlines()


EVENTS: list[tuple[float, Event]] = [
    (0.0, Planned("class_token_vs_gap", 4, 0, 6, (), (work(6),))),
    (0.0, started(0)),
    (2.0, Progress("token0", 200, 400, 5400.0, 0.81)),
    (5.0, finished(0)),
    (5.0, Warned("at the edge")),
    (5.0, Warned("at the edge")),
    (5.0, started(1)),
    (40.0, Progress("token1", 200, 400, 50.0, 0.7)),
    (41.0, finished(1, status="diverged")),
]


def test_plain_lines_without_a_terminal() -> None:
    assert lines_of(EVENTS) == [
        "class_token_vs_gap: 4 trials, at most 6 in all, 0 done",
        "[1/6] token, lr 0.004, seed 0: 90.00, 4.5 s; about 25 s left",
        "warning: at the edge",
        "token, lr 0.004, seed 1: step 200/400, 50 images/s, loss 0.700; about 2 min 00 s left",
        "[2/6] token, lr 0.004, seed 1: diverged: loss is not finite; about 1 min 22 s left",
    ]


def test_quiet_says_only_what_went_wrong() -> None:
    assert lines_of(EVENTS, quiet=True) == [
        "warning: at the edge",
        "[2/6] token, lr 0.004, seed 1: diverged: loss is not finite; about 1 min 22 s left",
    ]


def test_a_terminal_shows_progress_arms_and_folded_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    console = Console(file=out, width=100, height=30, force_terminal=True)
    clock = Clock()
    with LiveView(console, resumed(class_token_rows()), clock=clock) as view:
        for at, event in EVENTS[:-1]:
            clock.now = at
            view(event)
        view(Warned("another"))
        console.print(view.render())
    text = out.getvalue()
    assert "1/6 trials" in text
    assert "40 s so far, about 2 min 00 s left" in text
    assert "200/400" in text
    assert "15 done, best 92.17 at lr 0.004" in text
    assert "warning (and 1 more): another" in text
    assert not re.search(r"\x1b\[(3[0-8]|9\d|38;)", text)


RATES = [{"train.lr": rate} for rate in (0.002, 0.004, 0.016)]


def raced(rate: float, seed: int, score: float) -> Finished:
    return Finished(
        f"{rate}{seed}", "token", {"train.lr": rate}, seed, "trial", "ok", None, score, score, FLOPS, 400, 4.5
    )


def race_plan(num_trials: int, num_done: int, num_seeds: int, dropped: int) -> Planned:
    standing = ArmStanding("token", num_seeds, tuple(RATES[: 3 - dropped]), tuple(RATES[3 - dropped :]))
    return Planned("race", num_trials, num_done, 12, (), (work(12 - num_done),), (standing,))


RACE: list[Event] = [
    race_plan(3, 0, 0, 0),
    *(raced(rate, 0, score) for rate, score in ((0.002, 91.0), (0.004, 92.0), (0.016, 80.0))),
    race_plan(5, 3, 3, 1),
    race_plan(5, 3, 3, 1),
    race_plan(6, 5, 6, 2),
]


def test_dropped_rates_are_named_once_each() -> None:
    lines = [line for line in lines_of([(0.0, event) for event in RACE]) if "dropped" in line]
    assert lines == [
        "token, 3 seeds: dropped lr 0.016; still racing lr 0.002 and lr 0.004",
        "token, 6 seeds: dropped lr 0.004 and lr 0.016; still racing lr 0.002",
    ]
    assert not [line for line in lines_of([(0.0, event) for event in RACE], quiet=True) if "dropped" in line]


def test_the_table_says_which_rates_lead_race_and_were_dropped() -> None:
    out = io.StringIO()
    console = Console(file=out, width=120, height=30, force_terminal=True, no_color=True)
    with LiveView(console, RunState(class_token_experiment()), clock=Clock()) as view:
        for event in RACE[:-1]:
            view(event)
        console.print(view.render())
    rows = {cells[1]: line for line in out.getvalue().splitlines() if (cells := line.split("lr ")) and len(cells) == 2}
    text = "\n".join(rows.values())
    assert re.search(r"0\.002 .*91\.00 on validation, racing", text)
    assert re.search(r"0\.004 .*92\.00 on validation, leads", text)
    assert re.search(r"0\.016 .*80\.00 on validation, dropped", text)


def test_a_plan_of_a_race_goes_through_the_event_log_and_older_lines_are_read() -> None:
    line = to_line(RACE[4], 1.0)
    assert from_line(line) == (1.0, RACE[4])
    older = re.sub(r', "standings": \[.*\]', "", line)
    assert older != line
    assert from_line(older)[1] == Planned("race", 5, 3, 12, (), (work(9),))


SPEEDS = {"huge": 4e10, "large": 2e10, "plain": 1.2e10, "tiny": 0.5e10}
"""FLOPs per second of four arms: small models take more seconds per FLOP."""
SIZES = {"huge": 2e11, "large": 1e11, "plain": 6e10, "tiny": 4e10}


def told(order: Sequence[tuple[str, int]], num_slots: int) -> list[tuple[float, float, float]]:
    """(share of the time that is over, true seconds left, told seconds left) after each trial of a made-up run."""
    noise = np.random.default_rng(0).lognormal(0, 0.1, len(order))
    lengths = [SIZES[arm] / SPEEDS[arm] * x + 0.5 for (arm, _), x in zip(order, noise, strict=True)]
    free, events = [0.0] * num_slots, []
    for (arm, seed), seconds in zip(order, lengths, strict=True):
        begin = heapq.heappop(free)
        heapq.heappush(free, begin + seconds)
        events += [(begin, started(seed, SIZES[arm], arm)), (begin + seconds, finished(seed, SIZES[arm], arm=arm))]
        readings = ((k / 10, Progress(f"{arm}{seed}", 40 * k, 400, 1.0, None)) for k in range(1, 10))
        events += [(begin + share * seconds, reading) for share, reading in readings]
    state, end, out = RunState(class_token_experiment()), max(free), []
    seeds = len(order) // len(SIZES)
    state.apply(Planned("e", len(order), 0, len(order), (), tuple(work(seeds, SIZES[a], a) for a in SIZES)), 0.0)
    for now, event in sorted(events, key=lambda pair: pair[0]):
        state.apply(event, now)
        left = state.seconds_left(now)
        if isinstance(event, Finished) and left is not None:
            out.append((now / end, end - now, left))
    return out


def worst(readings: list[tuple[float, float, float]]) -> float:
    """The largest relative error between the first and the last tenth of the time."""
    return max(abs(left / true - 1) for share, true, left in readings if 0.1 <= share <= 0.9)


INTERLEAVED = [(arm, seed) for seed in range(20) for arm in SIZES]
LONGEST_FIRST = [(arm, seed) for arm in SIZES for seed in range(20)]
SCOUTS_FIRST = sorted(LONGEST_FIRST, key=lambda trial: trial[1] > 0)
"""As the runner orders them: one of each arm, then the longest."""


@pytest.mark.parametrize("num_slots", [1, 2, 5])
@pytest.mark.parametrize("order", [SCOUTS_FIRST, INTERLEAVED])
def test_time_left_is_right_within_a_fifth_after_the_first_tenth(order: list[tuple[str, int]], num_slots: int) -> None:
    readings = told(order, num_slots)
    assert len(readings) > 60
    assert worst(readings) < 0.2


def test_arms_that_were_not_seen_yet_count_at_the_seconds_per_flop_of_the_others() -> None:
    before, after = told(LONGEST_FIRST, 2)[15], told(LONGEST_FIRST, 2)[70]
    assert before[2] < 0.5 * before[1], "nothing yet says that small models are slower"
    assert after[2] == pytest.approx(after[1], rel=0.2)


def test_flops_alone_mislead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "PRIOR_TRIALS", 1e9)
    assert worst(told(INTERLEAVED, 2)) > 0.3


def test_records_of_earlier_sessions_teach_what_arms_cost() -> None:
    """The session's own trials are of one arm; the other arm took four times as long a FLOP in an earlier one."""
    rows = [
        {**row, "run": {"train_seconds": 4.0 if row["arm"] == "token" else 16.0}, "result": {**row["result"],
         "train_flops": FLOPS, "num_steps": 400}} for row in class_token_rows()
    ]  # fmt: skip
    state = resumed(rows)
    state.apply(Planned("e", 20, 0, 20, (), (work(10), work(10, arm="avg"))), 0.0)
    for seed in range(10):
        state.apply(started(seed), 10.0 * seed)
        state.apply(finished(seed), 10.0 * seed + 10.0)
    assert state.seconds_left(100.0) == pytest.approx(400.0, rel=0.3)


def test_a_suite_says_what_its_other_experiments_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    out, clock = io.StringIO(), Clock()
    with LiveView(Console(file=out), RunState(class_token_experiment()), clock=clock) as view:
        view(Began("class_token_vs_gap", 2, 3, (work(6),)))
        for at, event in EVENTS[:4]:
            clock.now = at
            view(event)
    assert out.getvalue().splitlines() == [
        "class_token_vs_gap (2 of 3): 4 trials, at most 6 in all, 0 done",
        "[1/6] token, lr 0.004, seed 0: 90.00, 4.5 s; about 25 s left (suite: 55 s)",
    ]


def test_a_gauge_has_its_line() -> None:
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(LiveView(console, RunState(class_token_experiment()), gauge=lambda: "H200: 1.0 of 9.0 GiB").render())
    assert "H200: 1.0 of 9.0 GiB" in console.export_text()


def test_earlier_trials_are_not_counted_as_this_sessions_speed() -> None:
    state = RunState(class_token_experiment())
    state.apply(Planned("e", 10, 5, 10, (work(5),), (work(5),)), 0.0)
    state.apply(started(5), 0.0)
    assert state.seconds_left(1.0) is None
    state.apply(finished(5), 10.0)
    assert state.seconds_left(10.0) == pytest.approx(40.0)
    assert state.num_done == 6


def test_a_resumed_run_starts_from_its_records() -> None:
    state = resumed(class_token_rows())
    tally = state.reporting["avg", (("train.lr", 0.002),)]
    assert len(tally.scores) == 5
    assert sum(len(t.scores) for t in state.tuning["token"].values()) == 15


def test_a_rerun_of_a_seed_counts_once() -> None:
    state = RunState(class_token_experiment())
    for _ in range(2):
        state.apply(finished(0), 1.0)
    assert state.reporting["token", (("train.lr", 0.004),)].scores == {0: 90.0}


def test_the_summary_fits_a_screen_and_says_what_was_lost() -> None:
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(summary(position_experiment(), position_rows(), 100, 30))
    text = console.export_text()
    assert len(text.splitlines()) <= 24
    assert "failed: relative_1d, seed 4: RuntimeError: out of luck" in text
    console.print(summary(position_experiment(), position_rows(), 100, 9))
    assert re.search(r"and \d more arms", console.export_text())
    console.print(summary(position_experiment(), [], 100, None))
    assert console.export_text() == "position_encoding: no finished trials\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (45, "45 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (59.7, "1 min 00 s"),
        (9e5, "10 days"),
        (1e11, "3,171 years"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
