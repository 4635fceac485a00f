"""A checkpoint that is damaged or foreign is never trained on: the one before is, or the trial starts anew."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faulted import here, left, options, planned, record, saved_steps, stack, warnings
from safetensors.torch import load

from vitbench.plan.trials import Trial
from vitbench.store.trials import Store
from vitbench.train.checkpoint import pack

pytest_plugins = ["broken_trial"]


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory: pytest.TempPathFactory, trial: Trial) -> Path:
    """A root in which the trial has checkpoints of steps 7 and 8; copy it."""
    root = tmp_path_factory.mktemp("broken")
    with pytest.raises(MemoryError):
        stack([trial], options(root), "step.mid:9:memory")
    assert saved_steps(root, trial) == [8, 7]
    return root


def path_of(root: Path, trial: Trial, step: int) -> Path:
    return Store(root).weights(trial.trial_id).with_name(f"step-{step:09d}.safetensors")


def sign(path: Path) -> None:
    """A sidecar that fits whatever the file holds."""
    path.with_suffix(".sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def one_bit(path: Path) -> None:
    """In the weights, where a reader of the format alone finds nothing wrong."""
    content = bytearray(path.read_bytes())
    content[-50] ^= 1
    path.write_bytes(bytes(content))


def another_format(path: Path) -> None:
    path.write_bytes(b"something else")
    sign(path)


def of_another_version(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'\\"last_read\\"', b'\\"last_seen\\"'))
    sign(path)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncated, "does not fit its checksum"),
    "empty": (empty, "does not fit its checksum"),
    "one bit": (one_bit, "does not fit its checksum"),
    "another format": (another_format, "is no checkpoint of this version"),
    "another version": (of_another_version, "is no checkpoint of this version"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_one_before_is_taken(kind: str, trial: Trial, broken_off: Path, unbroken: Path, tmp_path: Path) -> None:
    damage, why = DAMAGE[kind]
    root = shutil.copytree(broken_off, tmp_path / "root")
    damage(path_of(root, trial, 8))
    said = here([trial], options(root))
    name = path_of(root, trial, 8).name
    assert warnings(said) == [f"trial {trial.trial_id}: checkpoint {name} {why}; going on from step 7"]
    assert record(root, trial).run.resumed_at_step == 7
    assert left(root, [trial]) == left(unbroken, [trial])


def test_without_any_the_trial_starts_anew(trial: Trial, broken_off: Path, unbroken: Path, tmp_path: Path) -> None:
    root = shutil.copytree(broken_off, tmp_path / "root")
    for step in (7, 8):
        one_bit(path_of(root, trial, step))
    said = warnings(here([trial], options(root)))
    assert len(said) == 2
    assert all("does not fit its checksum; starting anew" in line for line in said)
    assert record(root, trial).run.resumed_at_step is None
    assert left(root, [trial]) == left(unbroken, [trial])


def test_another_trials_is_not_taken(trial: Trial, broken_off: Path, unbroken: Path, tmp_path: Path) -> None:
    """Whole and signed, but of another seed."""
    (other,) = planned(seeds=[1])
    with pytest.raises(MemoryError):
        stack([other], options(tmp_path / "other"), "step.mid:10:memory")
    root = shutil.copytree(broken_off, tmp_path / "root")
    for suffix in (".safetensors", ".sha256"):
        theirs = path_of(tmp_path / "other", other, 9).with_suffix(suffix)
        shutil.copy(theirs, path_of(root, trial, 9).with_suffix(suffix))
    (said,) = warnings(here([trial], options(root)))
    assert f"is of trial {other.trial_id}; going on from step 8" in said
    assert left(root, [trial]) == left(unbroken, [trial])


@pytest.mark.slow
def test_another_machines_is_not_taken(
    trial: Trial, broken_off: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit-equality is promised for the same versions, device and threads: half of each is neither."""
    root = shutil.copytree(broken_off, tmp_path / "root")
    said = warnings(here([trial], options(root, threads=2)))
    assert [line.partition(".safetensors ")[2] for line in said] == ["was made with threads 1; starting anew"] * 2
    root = shutil.copytree(broken_off, tmp_path / "again")
    with monkeypatch.context() as patch:
        patch.setattr("torch.__version__", "9.9")
        said = warnings(here([trial], options(root)))
    assert all("was made with torch " in line for line in said)
    assert len(said) == 2
    assert left(root, [trial]) == left(unbroken, [trial])


def test_no_clock_decides_which_is_newer(trial: Trial, broken_off: Path, tmp_path: Path) -> None:
    import os

    root = shutil.copytree(broken_off, tmp_path / "root")
    os.utime(path_of(root, trial, 8), (0, 0))
    os.utime(path_of(root, trial, 7), (4e9, 4e9))
    here([trial], options(root))
    assert record(root, trial).run.resumed_at_step == 8


def test_a_checkpoint_can_be_checked_without_vitbench(trial: Trial, broken_off: Path) -> None:
    """Sidecars are lines of sha256sum, and the tensors plain safetensors."""
    from safetensors import safe_open

    path = path_of(broken_off, trial, 8)
    digest, name = path.with_suffix(".sha256").read_text().split()
    assert (digest, name) == (hashlib.sha256(path.read_bytes()).hexdigest(), path.name)
    with safe_open(path, "pt") as opened:
        assert sorted(opened.keys()) == ["bad_step", "best", "first", "loss_sum", "second", "weights"]
        assert set(opened.metadata()) == {"vitbench"}


def test_tensors_with_strides_are_written_by_their_values() -> None:
    """safetensors writes the memory of numpy arrays with strides as it lies, in silence; ours are laid out first."""
    table = torch.arange(12.0).view(3, 4)
    state = {"turned": table.T, "every second": table[:, ::2], "plain": table}
    read = load(pack(state))
    assert {name: read[name].tolist() for name in state} == {name: tensor.tolist() for name, tensor in state.items()}
