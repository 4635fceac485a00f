"""`--processes K`: one trial on several processes is the trial on one process, and no fault of one process is lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli
from faulted import TINY, fault, here, left, options, planned, record, saved_steps, warnings
from ranks import SIZE, all_ranks, launched, run_trial, train_share
from safetensors.torch import load_file
from tiny_jobs import CPU, RESNET, VIT, images_of, spec

from vitbench.base.errors import InputError
from vitbench.base.signals import Terminated, stoppable
from vitbench.cli.commands.group import launched_rank
from vitbench.engines import processes
from vitbench.engines.execute import execute
from vitbench.engines.options import why_not_share
from vitbench.spec.trial import ObjectiveSpec, TrialSpec
from vitbench.store.events import Event, Progress
from vitbench.store.trials import Store
from vitbench.train.sampling import Cut
from vitbench.train.trainer import Job, Trainer

NUM_STEPS = 10
TOLERANCE = 1e-6
SGD: dict[str, Any] = {"opt": "sgd", "lr": 1e-2, "batch_size": 64}
ADAMW: dict[str, Any] = {"batch_size": 64, "lr": 3e-3}
MIXING: dict[str, Any] = {"mixup": 0.4, "cutmix": 1.0, "reprob": 0.5, "augment": "medium"}
CASES: dict[str, tuple[TrialSpec, TrialSpec]] = {
    "sgd": (spec(**SGD), spec(**SGD)),
    "adamw": (spec(**ADAMW), spec(**ADAMW, grad_accum=SIZE)),
    "uneven": (spec(**{**SGD, "batch_size": 63}), spec(**{**SGD, "batch_size": 63})),
    "clip": (spec(**SGD, clip_grad=0.05), spec(**SGD, clip_grad=0.05)),
    "masked patches": (spec(**SGD, objective="downsampled"), spec(**SGD, objective="downsampled")),
    "masked pixels": (spec(**SGD, objective="pixels"), spec(**SGD, objective="pixels")),
    "mixing": (spec(**SGD, **MIXING), spec(**SGD, **MIXING)),
    "mixing in micro-batches": (spec(**SGD, **MIXING, grad_accum=3), spec(**SGD, **MIXING, grad_accum=3)),
    "resnet, average": (spec(RESNET, **SGD, model_ema=True), spec(RESNET, **SGD, model_ema=True)),
}
"""What two processes train, and what one process trains for comparison."""


def alone(one: TrialSpec) -> Trainer:
    """A trainer of one process after its steps."""
    trainer = Trainer([Job(one, 0)], images_of(one), CPU)
    for step in range(NUM_STEPS):
        trainer.step(step)
    return trainer


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Weights within 1e-6 after ten steps, equal bits on both processes; every test image once, answers in order."""
    assert all_ranks(train_share, [both for both, _ in CASES.values()], NUM_STEPS, tmp_path) == [0, 0]
    for number, (name, (_, one)) in enumerate(CASES.items()):
        trainer = alone(one)
        ranks = [np.load(tmp_path / f"{number}-{rank}.npz") for rank in range(SIZE)]
        assert np.array_equal(ranks[0]["weights"], ranks[1]["weights"]), name
        apart = np.abs(ranks[0]["weights"] - trainer.stack.flat.numpy()).max()
        assert apart <= TOLERANCE, f"{name}: {apart}"
        np.testing.assert_allclose(ranks[0]["loss"], trainer.loss_sum.numpy(), rtol=1e-5, err_msg=name)
        expected = np.array(trainer.validate()[0][:2], dtype=float)
        for rank in ranks:
            np.testing.assert_allclose(rank["scores"], expected, rtol=1e-5, err_msg=name)
        if trainer.objective.predicts_classes:
            read = np.concatenate([rank["evaluated"] for rank in ranks])
            assert np.array_equal(read, trainer.used[0].test), f"{name}: every image once"
            assert all(np.array_equal(rank["predicted"], trainer.test()[0].predicted) for rank in ranks), name


def test_a_partner_across_processes_matters() -> None:
    """The control of `mixing`: partners inside each process's half give other weights."""
    whole, halves = (alone(spec(**SGD, **MIXING, grad_accum=parts)) for parts in (1, SIZE))
    assert (whole.stack.flat - halves.stack.flat).abs().max() > 1000 * TOLERANCE


@pytest.mark.parametrize(("num_micro", "num_processes"), [(1, 2), (2, 3), (4, 5), (1, 1)])
def test_shares_are_the_batch(num_micro: int, num_processes: int) -> None:
    cuts = [list(Cut(num_micro, rank, num_processes).rows(63)) for rank in range(num_processes)]
    assert np.array_equal(np.concatenate([share for micro in zip(*cuts, strict=True) for share in micro]), range(63))
    for rank in range(num_processes):
        with_partner = list(Cut(num_micro, rank, num_processes, has_partner=True).rows(63))
        for micro, rows, share in zip(np.array_split(np.arange(63), num_micro), with_partner, cuts[rank], strict=True):
            assert np.array_equal(rows[1:], share)
            assert rows[0] == np.roll(micro, 1)[list(micro).index(share[0])]


LONG = TINY.replace("steps: 12", "steps: 60, opt: sgd")


def weights(root: Path, trial: Any) -> torch.Tensor:
    """The final weights of a trial in one row."""
    state = load_file(Store(root).weights(trial.trial_id))
    return torch.cat([state[name].ravel() for name in sorted(state)])


def assert_equal_trials(root: Path, other: Path, trial: Any) -> None:
    """Equal to rounding: weights, and the answers on test images."""
    assert (weights(root, trial) - weights(other, trial)).abs().max() <= TOLERANCE
    results = [record(folder, trial).result for folder in (root, other)]
    assert results[0].predictions_sha256 == results[1].predictions_sha256
    assert results[0].num_test_images == results[1].num_test_images


def test_resume_with_any_number_of_processes(tmp_path: Path) -> None:
    """SIGTERM to one process saves and ends both; then one process goes on, is stopped, and two finish."""
    (trial,) = planned(LONG)
    here([trial], options(tmp_path / "one", every=float("inf")))
    how = options(tmp_path / "two", every=float("inf"), processes=SIZE)
    assert all_ranks(run_trial, trial, how, [None, "step.mid:7:TERM"]) == [143, 143]
    (first,) = saved_steps(tmp_path / "two", trial)
    assert first in (7, 8, 9), "they agree on a step in the step itself"
    with fault("step.mid:20:TERM"), stoppable(), pytest.raises(Terminated):
        execute([trial], options(tmp_path / "two", every=float("inf")), lambda event: None)
    assert saved_steps(tmp_path / "two", trial)[0] == first + 20
    assert all_ranks(run_trial, trial, how, [None, None]) == [0, 0]
    run = record(tmp_path / "two", trial).run
    assert (run.processes, run.resumed_at_step) == (SIZE, first + 20)
    assert record(tmp_path / "one", trial).run.processes is None
    assert_equal_trials(tmp_path / "one", tmp_path / "two", trial)


STAGED = (
    TINY.replace("steps: 12", "steps: 12, opt: sgd")
    + """
stages:
  - {name: pretrain, train: {objective: {name: masked_patch}}}
  - {name: teach}
  - {name: learn, uses: {teacher: teach}, train: {objective: {name: distill}}}
"""
)


def test_stages_and_teachers_reach_every_process(tmp_path: Path) -> None:
    """Weights to start from and the teacher's lie at process 0 only. Each trial has a fresh group."""
    trials = planned(STAGED)
    assert [set(trial.parents) for trial in trials] == [set(), {"start"}, {"teacher"}]
    here(trials, options(tmp_path / "one"))
    how = options(tmp_path / "two", processes=SIZE)
    ids = list(processes.run([[trial] for trial in trials], how, lambda event: None, 1))
    assert ids == [trial.trial_id for trial in trials]
    for trial in trials:
        assert (weights(tmp_path / "one", trial) - weights(tmp_path / "two", trial)).abs().max() <= TOLERANCE


def test_a_diverging_trial_ends_everywhere(tmp_path: Path) -> None:
    (trial,) = planned(TINY.replace("lr: 4e-3", "lr: 1e12, opt: sgd, clip_grad: null"))
    here([trial], options(tmp_path / "one"))
    assert all_ranks(run_trial, trial, options(tmp_path / "two", processes=SIZE), [None, None]) == [0, 0]
    one, two = (record(tmp_path / name, trial) for name in ("one", "two"))
    assert one.status == "diverged"
    assert (one.status, one.reason) == (two.status, two.reason)


def on_first_progress(act: Any) -> Any:
    """A listener that notes events, and acts once, on the first sign of progress."""
    events: list[Event] = []

    def listen(event: Event) -> None:
        if isinstance(event, Progress) and not any(isinstance(earlier, Progress) for earlier in events):
            act()
        events.append(event)

    listen.events = events  # type: ignore[attr-defined]
    return listen


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[processes.TrialProcess]:
    """The groups that are started."""
    made: list[processes.TrialProcess] = []
    start = processes._started

    def noting(*arguments: Any) -> processes.TrialProcess:
        made.append(start(*arguments))
        return made[-1]

    monkeypatch.setattr(processes, "_started", noting)
    return made


def send(groups: list[processes.TrialProcess], number: int) -> None:
    """A signal to the newest group's last process."""
    pid = groups[-1].followers[-1].pid
    assert pid is not None
    os.kill(pid, number)


def test_a_killed_process_costs_an_attempt(tmp_path: Path, groups: list[processes.TrialProcess]) -> None:
    """SIGKILL of a process that is not the first: a fresh group goes on from the checkpoint, bit for bit."""
    (trial,) = planned(LONG)
    assert all_ranks(run_trial, trial, options(tmp_path / "whole", processes=SIZE), [None, None]) == [0, 0]
    listen = on_first_progress(lambda: send(groups, signal.SIGKILL))
    how = options(tmp_path / "killed", processes=SIZE)
    assert list(processes.run([[trial]], how, listen, 1)) == [trial.trial_id]
    assert len(groups) == 2
    (said,) = warnings(listen.events)
    assert said.startswith("one of the trial processes lost")
    run = record(tmp_path / "killed", trial).run
    assert (run.attempt, run.processes) == (2, SIZE)
    assert left(tmp_path / "killed", [trial]) == left(tmp_path / "whole", [trial])
    assert not multiprocessing.active_children()


def test_a_signal_to_one_process_ends_the_run(tmp_path: Path, groups: list[processes.TrialProcess]) -> None:
    (trial,) = planned(LONG.replace("steps: 60", "steps: 2000"))
    listen = on_first_progress(lambda: send(groups, signal.SIGTERM))
    with pytest.raises(Terminated) as stop:
        list(processes.run([[trial]], options(tmp_path, every=float("inf"), processes=SIZE), listen, 1))
    assert stop.value.exit_code == 143
    assert saved_steps(tmp_path, trial)
    assert not multiprocessing.active_children()


def written(tmp_path: Path, text: str = TINY) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(text + "seeds: 2\n")
    return path


def test_the_command_starts_its_processes(cli: Cli, tmp_path: Path) -> None:
    answer = cli("run", written(tmp_path), "--results", tmp_path / "r", "--processes", "2", "--device", "cpu")
    assert answer.code == 0, answer.err
    assert "one trial at a time, on 2 processes" in answer.out
    assert all(record(tmp_path / "r", trial).run.processes == 2 for trial in planned(seeds=(0, 1)))


def test_a_launcher_starts_the_processes(tmp_path: Path) -> None:
    words = ["run", str(written(tmp_path)), "--results", str(tmp_path / "r"), "--device", "cpu", "--quiet"]
    assert all_ranks(launched, [*words, "--processes", "2"]) == [0, 0]
    assert all(record(tmp_path / "r", trial).run.processes == 2 for trial in planned(seeds=(0, 1)))


def test_a_launcher_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --processes the variables of a launcher mean nothing."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (launched_rank(1), launched_rank(2)) == (None, 1)
    with pytest.raises(InputError, match=r"the launcher started 2 \(WORLD_SIZE\)"):
        launched_rank(3)


REFUSED = [
    ({"drop_rate": 0.1}, {}, "dropout and stochastic depth draw for a whole batch at once"),
    ({"drop_path_rate": 0.1}, {}, "dropout and stochastic depth"),
    ({**RESNET, "norm_layer": "batch"}, {}, "BatchNorm's statistics"),
    ({}, {"objective": "moco_v3"}, "compares the images of a batch"),
    ({}, {"objective": "dino"}, "keeps running means of a batch"),
    ({}, {"batch_size": 6, "grad_accum": 4}, "a micro-batch has 1 images, fewer than processes"),
]


@pytest.mark.parametrize(("model", "train", "why"), REFUSED)
def test_what_cannot_be_shared_is_refused(model: dict[str, Any], train: dict[str, Any], why: str) -> None:
    one = spec(model if "family" in model else {**VIT, **model}, **{k: v for k, v in train.items() if k != "objective"})
    if "objective" in train:
        changed = one.train.model_copy(update={"objective": ObjectiveSpec(name=train["objective"])})
        one = one.model_copy(update={"train": changed})
    assert why in (why_not_share(one, SIZE) or "")
    assert why_not_share(spec(**MIXING), SIZE) is None


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--set", "model.drop_rate=0.1"], "tiny, arm baseline: dropout and stochastic depth"),
        (["--jobs", "2"], "--jobs 2 does not go with it"),
        (["--engine", "fused"], "--engine fused does not go with it"),
        (["--oom", "halve"], "--oom halve does not go with it"),
    ],
)
def test_refusals_are_one_line_before_training(cli: Cli, tmp_path: Path, words: list[str], line: str) -> None:
    answer = cli("run", written(tmp_path), "--results", tmp_path / "r", "--processes", "2", "--device", "cpu", *words)
    assert answer.code == 2
    assert line in answer.err
    assert answer.err.count("\n") == 1
    assert not list((tmp_path / "r").glob("trials/*"))
