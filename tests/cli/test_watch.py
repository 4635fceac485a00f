"""The event log of a run, and `vitbench watch`, which follows it: torn lines, ends, kills, Ctrl-C. About 5 s."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from vitbench.base.errors import InputError
from vitbench.cli.commands import watch as watching
from vitbench.store.event_log import EventLog, EventReader, folder_of, live_logs
from vitbench.store.events import (
    Began,
    Ended,
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

EXPERIMENT = """
name: tiny
base: {data: {name: fake}, model: {name: Mu/4}, train: {steps: 12}}
factors: {model.global_pool: [token, avg]}
seeds: 2
"""
WORK = (Work("token", 1e9, 12, 2), Work("avg", 1e9, 12, 2))


def finished(arm: str, seed: int, score: float) -> Finished:
    return Finished(f"{arm}{seed}", arm, {}, seed, "reporting", "ok", None, score, score, 1e9, 12, 2.0)


EVENTS: list[Event] = [
    Began("tiny", 1, 1, WORK),
    Planned("tiny", 4, 0, 4, (), WORK),
    Started("token0", "token", {}, 0, "reporting", 12, 1e9),
    Progress("token0", 6, 12, 900.0, 0.5),
    finished("token", 0, 91.5),
    Warned("be <b>ware</b>"),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "experiment.yaml").write_text(EXPERIMENT)
    return tmp_path


@pytest.mark.parametrize("event", [*EVENTS, Ended(3)])
def test_an_event_survives_its_line(event: Event) -> None:
    assert from_line(to_line(event, 12.5)) == (12.5, event)


@pytest.mark.parametrize(
    "line", ["", "{", "[]", '{"at": 1}', '{"at": 1, "event": "Exploded"}', '{"at": 1, "event": "Ended"}']
)
def test_what_is_no_event_is_said_to_be_none(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (torn lines are of every kind)
        from_line(line)


def test_a_torn_line_is_read_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "host-1.jsonl"
    whole = to_line(Ended(0), 1.0)
    path.write_text(f"{whole}\nno event\n{whole[:20]}")
    reader = EventReader(path)
    assert list(reader.read()) == [(1.0, Ended(0))]
    with path.open("a") as file:
        file.write(whole[20:] + "\n")
    assert list(reader.read()) == [(1.0, Ended(0))]
    reader.close()


def test_a_journal_is_there_while_its_process_runs_and_thins_readings(root: Path) -> None:
    now = [0.0]
    with EventLog(root, clock=lambda: now[0]) as event_log:
        reader = EventReader(event_log.path)
        for now[0] in (0.0, 0.5, 1.0):
            event_log(EVENTS[3])
        event_log.exit_code = 0
        assert live_logs(root) == [event_log.path]
    assert [(at, type(event)) for at, event in reader.read()] == [(0.0, Progress), (1.0, Progress), (1.0, Ended)]
    assert not folder_of(root).exists()
    reader.close()


def gone(root: Path) -> Path:
    """The event log of a process that was killed."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    path = folder_of(root) / f"{socket.gethostname()}-{child.pid}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(to_line(event, 1.0) + "\n" for event in EVENTS))
    return path


def test_what_a_killed_process_left_is_not_watched_and_the_next_run_removes_it(root: Path) -> None:
    path = gone(root)
    assert live_logs(root) == []
    with pytest.raises(InputError, match="no run is active"):
        watching.watch([], root, Console(file=io.StringIO()))
    with EventLog(root):
        assert not path.exists()


def test_a_disk_that_refuses_does_not_stop_a_run(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("in the way")
    with EventLog(tmp_path) as event_log:
        event_log(EVENTS[0])
    assert (tmp_path / "events").read_text() == "in the way"


def watched(root: Path, names: list[str], later: list[Event]) -> tuple[int, list[str]]:
    """What watching says of a run that is under way and then does `later`."""
    out = io.StringIO()
    with EventLog(root) as event_log:
        for event in EVENTS:
            event_log(event)

        def go_on() -> None:
            time.sleep(0.2)
            for event in later:
                event_log(event)

        thread = threading.Thread(target=go_on)
        thread.start()
        code = watching.watch(names, root, Console(file=out, width=120))
        thread.join()
    return code, out.getvalue().splitlines()


@pytest.mark.parametrize("names", [[], ["tiny"]])
def test_watching_says_what_happens_until_the_end(
    root: Path, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.02)
    code, lines = watched(root, names, [finished("avg", 0, 92.5), Ended(1)])
    assert code == 1
    assert lines[0].startswith("[2/4] avg, seed 0: 92.50, 2.0 s; about")
    assert lines[1].startswith("the run ended with exit code 1")
    assert len(lines) == 2


def test_a_run_of_another_name_is_not_watched(root: Path) -> None:
    with pytest.raises(InputError, match="other is not running"):
        watched(root, ["other"], [])


def test_a_terminal_shows_the_arms(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.02)
    out = io.StringIO()
    with EventLog(root) as event_log:
        for event in EVENTS:
            event_log(event)
        watcher = watching.Watcher(event_log.path, root, Console(file=out, force_terminal=True, width=100, height=30))
        timer = threading.Timer(0.6, event_log, [Ended(0)])
        timer.start()
        assert watcher.follow() == 0
    assert "1/4 trials" in out.getvalue()
    assert "91.50 (n = 1, no interval)" in out.getvalue()
    assert "be <b>ware</b>" in out.getvalue()


def test_a_killed_run_is_said_to_be_killed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = gone(root), io.StringIO()
    monkeypatch.setattr(watching, "live_logs", lambda _: [path])
    assert watching.watch([], root, Console(file=out, width=200)) == 3
    assert out.getvalue().startswith("the run was killed; finished trials are kept; run the same command again")


def test_ctrl_c_ends_the_watching_only(root: Path) -> None:
    out = io.StringIO()
    with EventLog(root) as event_log:
        event_log(EVENTS[0])
        threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
        assert watching.watch([], root, Console(file=out)) == 0
        assert event_log.path.exists()
    assert out.getvalue() == "stopped watching; the run continues\n"
