"""SIGTERM, SIGHUP and Ctrl-C: the step is finished and saved, the code says which it was, no child is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from faulted import checkpoints, here, in_child, left, options, planned, record, saved_steps, started

from vitbench.base.signals import HungUp, Terminated, held, obey_parent, stoppable
from vitbench.data import DataOptions
from vitbench.train.shared_images import SharedImages

NEVER = float("inf")


@pytest.mark.parametrize(("name", "code"), [("TERM", 143), ("INT", 130), ("HUP", 129)])
def test_the_step_is_finished_and_saved(name: str, code: int, tmp_path: Path) -> None:
    (trial,) = planned()
    here([trial], options(tmp_path / "unbroken", every=NEVER))
    assert in_child([trial], options(tmp_path / "stopped", every=NEVER), f"step.mid:5:{name}") == code
    assert saved_steps(tmp_path / "stopped", trial) == [5]
    here([trial], options(tmp_path / "stopped", every=NEVER))
    assert record(tmp_path / "stopped", trial).run.resumed_at_step == 5
    assert left(tmp_path / "stopped", [trial]) == left(tmp_path / "unbroken", [trial])


@pytest.mark.slow
@pytest.mark.parametrize("step", [6, 12])
def test_a_stop_before_a_reading_of_the_curve(step: int, tmp_path: Path) -> None:
    """The reading may take longer than the grace: it is made when the trial goes on, the last one included."""
    (trial,) = planned()
    here([trial], options(tmp_path / "unbroken", every=NEVER))
    assert in_child([trial], options(tmp_path / "stopped", every=NEVER), f"step.mid:{step}:TERM") == 143
    assert saved_steps(tmp_path / "stopped", trial) == [step]
    here([trial], options(tmp_path / "stopped", every=NEVER))
    assert left(tmp_path / "stopped", [trial]) == left(tmp_path / "unbroken", [trial])


def test_a_stop_while_a_checkpoint_is_written_waits_for_it(tmp_path: Path) -> None:
    (trial,) = planned()
    assert in_child([trial], options(tmp_path), "checkpoint.mid_write:8:TERM") == 143
    assert not [name for name in checkpoints(tmp_path, trial) if name.startswith(".")]
    assert saved_steps(tmp_path, trial)


def test_processes_that_read_images_end_with_the_run(tmp_path: Path) -> None:
    (trial,) = planned()
    how = options(tmp_path, every=NEVER, data=DataOptions(stream=True, num_workers=2))
    assert in_child([trial], how, "step.mid:4:TERM") == 143
    assert saved_steps(tmp_path, trial) == [4]


def stopped_twice(first: int, second: int, seconds: float = 60.0) -> None:
    with stoppable(), held():
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), second)
        time.sleep(seconds)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_at_once(number: signal.Signals) -> None:
    process = multiprocessing.get_context("fork").Process(target=stopped_twice, args=(number, number))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -number


def stopped_twice_with_a_child(pipe: Any) -> None:
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    pipe.send(child.pid)
    stopped_twice(signal.SIGTERM, signal.SIGTERM)


def test_the_second_signal_ends_children_too() -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=stopped_twice_with_a_child, args=(theirs,))
    process.start()
    child = ours.recv()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGTERM
    while running(child):
        time.sleep(0.01)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def obedient(pipe: Any) -> None:
    obey_parent()
    try:
        with held() as asked:
            pipe.send("ready")
            while not asked():
                time.sleep(0.01)
            pipe.send("asked")
            pipe.recv()
        pipe.send("went on")
    except Terminated:
        pipe.send("stopped")


def test_a_worker_takes_many_signals_for_one() -> None:
    """Its group is sent SIGTERM, and its parent sends it as well: no haste is meant. Ctrl-C is its parent's."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=obedient, args=(theirs,))
    process.start()
    assert ours.recv() == "ready"
    os.kill(process.pid or 0, signal.SIGINT)
    for _ in range(3):
        process.terminate()
    assert ours.recv() == "asked"
    process.terminate()
    ours.send("go")
    assert ours.recv() == "stopped"
    process.join(timeout=60)
    assert process.exitcode == 0


def test_a_stop_where_nothing_waits_is_raised_at_once() -> None:
    with pytest.raises(Terminated), stoppable():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def serve(connection: Any, how: Any) -> None:
    from vitbench.engines import processes

    processes._serve(connection, how, 0, 0, SharedImages())


@pytest.mark.slow
def test_a_worker_whose_parent_is_gone_saves_its_trial(tmp_path: Path) -> None:
    """The driver was killed: its worker hears so when it speaks, finishes the step, saves and ends."""
    (trial,) = planned()
    ours, theirs = multiprocessing.Pipe()
    process = started(serve, theirs, options(tmp_path, every=NEVER))
    theirs.close()
    ours.send([trial])
    ours.recv()  # It has begun.
    ours.close()
    process.join(timeout=120)
    assert process.exitcode == 143
    assert saved_steps(tmp_path, trial)


def test_a_second_hang_up_does_nothing() -> None:
    """A shell that ends passes SIGHUP on to jobs that the kernel has told already."""
    with pytest.raises(HungUp) as stop:
        stopped_twice(signal.SIGHUP, signal.SIGHUP, seconds=0.1)
    assert stop.value.exit_code == 129
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_under_nohup_a_hang_up_is_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
