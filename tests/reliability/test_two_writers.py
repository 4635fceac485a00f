"""Two runs in one folder share the work; two attempts at one trial leave one record, and a difference is said."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path
from typing import Any

import pytest
from faulted import TINY, facts_of, here, left, options, planned, started

from vitbench.engines import runner
from vitbench.plan.trials import Builder, Trial
from vitbench.spec.experiment import Suite
from vitbench.spec.load import loads
from vitbench.stats.race import CHOOSER
from vitbench.store.record import Record, Result, Run
from vitbench.store.trials import Store

FOUR = TINY.replace("steps: 12", "steps: 40") + "seeds: 4\n"
ID = "0123456789abcdef"
PATIENCE_SECONDS = 60.0


def everything(root: Path) -> runner.RunOutcome:
    made = loads(FOUR, "tiny.yaml")
    assert not isinstance(made, Suite)
    return runner.run(
        Builder(made, facts_of), runner.RunRequest(options(root, every=60.0)), CHOOSER, lambda event: None
    )


def share(root: Path, gate: Any) -> None:
    gate.recv()
    sys.exit(len(everything(root).missing))


@pytest.mark.slow
def test_two_runs_share_the_work(tmp_path: Path) -> None:
    pipes = [multiprocessing.Pipe() for _ in range(2)]
    children = [started(share, tmp_path / "shared", theirs) for _, theirs in pipes]
    for ours, _ in pipes:
        ours.send("go")
    for child in children:
        child.join(timeout=120)
    assert [child.exitcode for child in children] == [0, 0]
    trials = planned(FOUR, seeds=range(4))
    store = Store(tmp_path / "shared")
    records = store.read_all(trial.trial_id for trial in trials)
    assert [record.run.attempt for record in records.values()] == [1] * 4
    assert not [*store.trials.glob("*/attempts"), *store.trials.glob("*/lock")], "a committed trial is tidy"
    here(trials, options(tmp_path / "alone", every=60.0))
    assert left(tmp_path / "shared", trials) == left(tmp_path / "alone", trials)


@pytest.mark.slow
def test_a_trial_that_is_finished_elsewhere_at_the_last_moment_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between an engine that passed it over and the look whether anybody is at work on it still."""
    trials = planned(FOUR, seeds=range(4))
    here(trials[:3], options(tmp_path, every=60.0))
    lock = Store(tmp_path).lock(trials[3].trial_id)
    lock.__enter__()
    is_busy = runner._is_busy

    def finished_now(store: Store, trial: Trial) -> bool:
        lock.__exit__(None, None, None)
        here([trial], options(tmp_path, every=60.0))
        return is_busy(store, trial)

    monkeypatch.setattr(runner, "_is_busy", finished_now)
    assert not everything(tmp_path).missing


def made(attempt: int, top1: float) -> Record:
    run = Run(attempt=attempt, train_seconds=float(attempt))
    result = Result(test_top1_percent=top1)
    return Record(trial_id=ID, status="ok", seed=0, data_fingerprint="f" * 64, spec={}, result=result, run=run)


def commit(root: Path, top1: float, gate: Any, answer: Any) -> None:
    """Commit one record when told to, and send back the answer or the error, whatever it is."""
    try:
        store = Store(root)
        attempt = store.begin_attempt(ID)
        answer.send("ready")
        gate.recv()
        answer.send(store.commit(made(int(attempt.name), top1), attempt, {"predictions.npz": b"x"}))
    except Exception as error:
        answer.send(f"{type(error).__name__}: {error}")


def heard(pipe: Any) -> Any:
    """The next message; raises AssertionError where none comes, as the parent holds both ends of the pipe."""
    assert pipe.poll(PATIENCE_SECONDS), "a child says nothing"
    return pipe.recv()


def race(root: Path, values: tuple[float, float]) -> list[Any]:
    """Answers of two processes that commit at the same moment."""
    context = multiprocessing.get_context("fork")
    gates, answers = ([context.Pipe() for _ in range(2)] for _ in range(2))
    children = [
        context.Process(target=commit, args=(root, value, gate[1], answer[1]))
        for value, gate, answer in zip(values, gates, answers, strict=True)
    ]
    for child in children:
        child.start()
    assert [heard(ours) for ours, _ in answers] == ["ready"] * 2
    for ours, _ in gates:
        ours.send("go")
    out = [heard(ours) for ours, _ in answers]
    for child in children:
        child.join(timeout=PATIENCE_SECONDS)
    return out


@pytest.mark.parametrize("number", range(5))
def test_two_equal_attempts_at_once_leave_one_record(number: int, tmp_path: Path) -> None:
    assert sorted(race(tmp_path, (50.0, 50.0))) == [False, True]
    found = Store(tmp_path).read(ID)
    assert found is not None
    assert found.result.test_top1_percent == 50.0


@pytest.mark.parametrize("number", range(5))
def test_two_different_attempts_at_once_are_a_conflict(number: int, tmp_path: Path) -> None:
    answers = race(tmp_path, (50.0, 51.0))
    (said,) = [answer for answer in answers if answer is not True]
    assert "conflict" in said
    found = Store(tmp_path).read(ID)
    assert found is not None
    assert found.result.test_top1_percent == (50.0 if answers[0] is True else 51.0), "the first stays"
