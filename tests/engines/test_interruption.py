"""A run that is killed, interrupted or terminated: nothing is left behind, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_runs import TINY

ROOT = Path(__file__).parent.parent.parent
LONG = TINY.replace("steps: 12", "steps: 120") + "factors: {model.global_pool: [token, avg]}\nseeds: 3\n"
PATIENCE_SECONDS = 120


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """Six trials, each long enough to be killed in."""
    path = tmp_path / "tiny.yaml"
    path.write_text(LONG)
    return path


def start(experiment: Path, root: Path, jobs: int) -> subprocess.Popen[str]:
    """The command in a process group of its own, as a shell starts it."""
    words = [sys.executable, str(ROOT / "cli.py"), "run", str(experiment), "--results", str(root), "-j", str(jobs)]
    words += ["--checkpoint-seconds", "0.2"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.fixture
def groups() -> Iterator[list[int]]:
    """Process groups to end whatever happens."""
    started: list[int] = []
    yield started
    for group in started:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_for(what: Any) -> None:
    """Until `what()` holds; what is waited for comes sooner or later, and how soon is not asked."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(group: int) -> bool:
    """Does any process of the group run?"""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    states = [
        path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()
    ]
    return any(int(fields[2]) == group and fields[0] != "Z" for fields in states)


def records(root: Path) -> dict[Path, tuple[int, bytes]]:
    """Every committed record: when it was written, and its bytes."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.glob("trials/*/record.json")}


def saved(root: Path) -> list[Path]:
    """The folders of trials that have a checkpoint."""
    return sorted({path.parent.parent for path in root.glob("trials/*/checkpoints/step-*.sha256")})


def rows(root: Path) -> list[dict[str, Any]]:
    """What every table is made of, less times and machine."""
    lines = (root / "tiny" / "records.jsonl").read_text().splitlines()
    return [{**json.loads(line), "run": None} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_in_the_middle_the_same_command_goes_on(
    jobs: int, experiment: Path, tmp_path: Path, cli: Any, groups: list[int]
) -> None:
    root = tmp_path / "killed"
    process = start(experiment, root, jobs)
    groups.append(process.pid)
    wait_for(lambda: len(records(root)) >= 2)
    process.kill()
    process.communicate()
    wait_for(lambda: not alive(process.pid))  # Workers notice by themselves that their parent is gone.
    before = records(root)
    assert 2 <= len(before) < 6
    assert {json.loads(content)["status"] for _, content in before.values()} == {"ok"}
    assert cli("run", experiment, "--results", root, "-j", 1).code == 0
    after = records(root)
    assert len(after) == 6
    assert {path: after[path] for path in before} == before, "finished trials are untouched"
    if jobs == 1:
        assert cli("run", experiment, "--results", tmp_path / "unbroken", "-j", 1).code == 0
        assert rows(root) == rows(tmp_path / "unbroken")
        saved = [(tmp_path / name / "tiny" / "predictions.npz").read_bytes() for name in ("killed", "unbroken")]
        assert saved[0] == saved[1]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "jobs", "code"), [(signal.SIGINT, 2, 130), (signal.SIGTERM, 1, 143)])
def test_a_signal_stops_cleanly_and_leaves_no_child(
    number: signal.Signals, jobs: int, code: int, experiment: Path, tmp_path: Path, groups: list[int], cli: Any
) -> None:
    """Ctrl-C reaches the whole group, as a terminal sends it; SIGTERM the one process."""
    process = start(experiment, tmp_path / "results", jobs)
    groups.append(process.pid)
    wait_for(lambda: records(tmp_path / "results") and saved(tmp_path / "results"))
    (begun, *_) = saved(tmp_path / "results") or [None]
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == code
    assert "Traceback" not in out + err
    assert err.splitlines()[-1] == "stopped; finished trials are kept, run the same command again to resume"
    wait_for(lambda: not alive(process.pid))
    statuses = {json.loads(content)["status"] for _, content in records(tmp_path / "results").values()}
    assert statuses == {"ok"}
    assert rows(tmp_path / "results"), "what is finished is in the run's rows"
    if begun is not None:
        assert begun in saved(tmp_path / "results") or (begun / "record.json").exists(), "what was begun is saved"
    assert cli("run", experiment, "--results", tmp_path / "results", "-j", 1).code == 0
    assert len(records(tmp_path / "results")) == 6
