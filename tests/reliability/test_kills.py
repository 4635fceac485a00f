"""SIGKILL at every point of every durable write: what is there is whole, and what follows is bit-equal."""

from __future__ import annotations

from pathlib import Path

import pytest
from faulted import checkpoints, here, in_child, left, options, record, saved_steps, warnings

from vitbench.plan.trials import Trial
from vitbench.store.trials import Store

pytest_plugins = ["broken_trial"]

KILLED = -9


def goes_on(trial: Trial, root: Path, unbroken: Path, resumed_at: int | None) -> None:
    said = here([trial], options(root))
    assert warnings(said) == [], "a checkpoint that was never finished warns of nothing"
    assert record(root, trial).run.resumed_at_step == resumed_at
    assert left(root, [trial]) == left(unbroken, [trial])
    assert checkpoints(root, trial) == ["final.safetensors"], "nothing temporary is left"


@pytest.mark.slow
@pytest.mark.parametrize("piece", range(1, 6))
def test_in_the_middle_of_a_checkpoints_bytes(piece: int, trial: Trial, unbroken: Path, tmp_path: Path) -> None:
    """A checkpoint of this model is 3 pieces long: the kills lie in the first and in the second checkpoint."""
    assert in_child([trial], options(tmp_path), f"checkpoint.mid_write:{piece}") == KILLED
    names = checkpoints(tmp_path, trial)
    assert len([name for name in names if name.startswith(".step-")]) == 1, "a part, under another name"
    whole = 0 if piece <= 3 else 1
    assert saved_steps(tmp_path, trial) == [1][:whole]
    goes_on(trial, tmp_path, unbroken, resumed_at=whole or None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "resumed_at"),
    [
        ("checkpoint.before_rename:3", 2),
        ("checkpoint.before_sidecar:3", 2),
        ("sidecar.mid_write:3", 2),
        ("sidecar.before_rename:3", 2),
        ("checkpoint.before_trim:3", 3),
    ],
)
def test_between_a_checkpoint_and_its_sidecar(
    point: str, resumed_at: int, trial: Trial, unbroken: Path, tmp_path: Path
) -> None:
    assert in_child([trial], options(tmp_path), point) == KILLED
    assert saved_steps(tmp_path, trial)[0] == resumed_at
    goes_on(trial, tmp_path, unbroken, resumed_at)


@pytest.mark.parametrize("point", ["file.mid_write", "file.before_rename", "record.mid_write", "record.before_link"])
def test_before_the_record(point: str, trial: Trial, unbroken: Path, tmp_path: Path) -> None:
    """The trial is finished again from its last checkpoint: nothing is trained twice."""
    assert in_child([trial], options(tmp_path), point) == KILLED
    assert Store(tmp_path).read(trial.trial_id) is None
    goes_on(trial, tmp_path, unbroken, resumed_at=12)


def test_after_the_record(trial: Trial, unbroken: Path, tmp_path: Path) -> None:
    assert in_child([trial], options(tmp_path), "record.after_link") == KILLED
    path = Store(tmp_path).folder(trial.trial_id) / "record.json"
    before = path.stat().st_mtime_ns, path.read_bytes()
    assert here([trial], options(tmp_path)) == []
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    assert left(tmp_path, [trial]) == left(unbroken, [trial])


def test_a_kill_between_steps(trial: Trial, unbroken: Path, tmp_path: Path) -> None:
    assert in_child([trial], options(tmp_path), "step.mid:8") == KILLED
    goes_on(trial, tmp_path, unbroken, resumed_at=7)


def test_a_results_folder_that_is_moved_goes_on(trial: Trial, unbroken: Path, tmp_path: Path) -> None:
    """Under a name with spaces and letters of other alphabets."""
    assert in_child([trial], options(tmp_path / "here"), "step.mid:5") == KILLED
    there = tmp_path / "Ergebnisse für α β" / "第二 run"
    there.parent.mkdir()
    (tmp_path / "here").rename(there)
    goes_on(trial, there, unbroken, resumed_at=4)


def test_no_fault_is_met_outside_a_test(trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITBENCH_FAULT", "step.mid:1:memory")
    monkeypatch.setenv("VITBENCH_TESTING", "0")
    from vitbench.base.fault_injection import fault

    fault("step.mid")
    monkeypatch.setenv("VITBENCH_TESTING", "1")
    with pytest.raises(MemoryError):
        fault("step.mid")
