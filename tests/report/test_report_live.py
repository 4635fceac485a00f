"""The live view: plain lines, quiet, a terminal, time left; and the summary that a run ends with."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import pytest
from rich.console import Console
from sample_rows import class_token_experiment, class_token_rows, position_experiment, position_rows

from vitbench.events import Event, Finished, Planned, Progress, Started, Warned
from vitbench.report.live import LiveView, summary
from vitbench.report.progress import RunState, duration

FLOPS = 8.8e10


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
        f"{arm}{seed}", arm, {"train.lr": 0.004}, seed, "reporting", status, reason, score, score, flops, 4.5
    )


def lines_of(events: list[tuple[float, Event]], quiet: bool = False) -> list[str]:
    out, clock = io.StringIO(), Clock()
    with LiveView(Console(file=out, width=40), class_token_experiment(), quiet=quiet, clock=clock) as view:
        for at, event in events:
            clock.now = at
            view(event)
    return out.getvalue().splitlines()


EVENTS: list[tuple[float, Event]] = [
    (0.0, Planned("class_token_vs_gap", 4, 0, 4 * FLOPS, 0.0, 6)),
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
        "class_token_vs_gap: 4 trials, about 6 in all, 0 done",
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
    with LiveView(console, class_token_experiment(), class_token_rows(), clock=clock) as view:
        for at, event in EVENTS[:-1]:
            clock.now = at
            view(event)
        view(Warned("another"))
        console.print(view.render())
    text = out.getvalue()
    assert "1/6 trials, 40 s, about" in text
    assert "200/400" in text
    assert "15 done, best 92.17 at lr 0.004" in text
    assert "warning (and 1 more): another" in text
    assert not re.search(r"\x1b\[(3[0-8]|9\d|38;)", text)


def simulated(order: list[float], speed: float, overhead: float) -> Iterator[tuple[float, float]]:
    """(true seconds left, told seconds left) after each finished trial of the given FLOPs."""
    state, now = RunState(class_token_experiment()), 0.0
    state.apply(Planned("e", len(order), 0, sum(order), 0.0, len(order)), now)
    ends = []
    for flops in order:
        now += flops / speed + overhead
        ends.append(now)
    now = 0.0
    for seed, flops in enumerate(order):
        state.apply(started(seed, flops), now)
        now = ends[seed]
        state.apply(finished(seed, flops), now)
        left = state.seconds_left(now)
        if state.share_done >= 0.1 and seed < len(order) - 1:
            assert left is not None
            yield ends[-1] - now, left


def test_time_left_is_right_within_a_fifth_after_the_first_tenth() -> None:
    longest_first = [4e11] * 10 + [2e11] * 10 + [1e11] * 20
    for true, told in list(simulated(longest_first, 2e10, 0.5))[:-4]:
        assert told == pytest.approx(true, rel=0.2)


def test_earlier_trials_are_not_counted_as_this_sessions_speed() -> None:
    state = RunState(class_token_experiment())
    state.apply(Planned("e", 10, 5, 10 * FLOPS, 5 * FLOPS, 10), 0.0)
    state.apply(started(5), 0.0)
    assert state.seconds_left(1.0) is None
    state.apply(finished(5), 10.0)
    assert state.seconds_left(10.0) == pytest.approx(40.0)
    assert state.num_done == 6


def test_a_resumed_run_starts_from_its_records() -> None:
    state = RunState(class_token_experiment(), class_token_rows())
    tally = state.reporting["avg", (("train.lr", 0.002),)]
    assert len(tally.scores) == 5
    assert sum(len(t.scores) for t in state.tuning["token"].values()) == 15


def test_a_rerun_of_a_seed_counts_once() -> None:
    state = RunState(class_token_experiment())
    for _ in range(2):
        state.apply(finished(0), 1.0)
    assert state.reporting["token", (("train.lr", 0.004),)].scores == {0: 90.0}


def test_the_summary_fits_a_screen_and_says_what_comes_next() -> None:
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(summary(position_experiment(), position_rows(), 100))
    text = console.export_text()
    assert len(text.splitlines()) <= 24
    assert "failed: relative_1d, seed 4: RuntimeError: out of luck" in text
    assert "Next: vitbench report position_encoding" in text
    console.print(summary(class_token_experiment(), class_token_rows(3), 100))
    assert "Next: vitbench run class_token_vs_gap    (4 reporting trials are missing)" in console.export_text()


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (59.7, "1 min 00 s")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
