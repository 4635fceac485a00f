"""Out of memory, and processes that are lost: tried twice again from the last checkpoint, then left missing, said once;
the batch is never changed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faulted import TINY, facts_of, fault, here, left, options, planned, record, saved_steps, stack, warnings

from vitbench.base.errors import IncompleteError, InputError
from vitbench.cli.commands.prepare import ExperimentRequest, data_options
from vitbench.cli.commands.run import RunOptions, run
from vitbench.data import DataOptions
from vitbench.engines import execute, local, processes
from vitbench.engines.runner import RunRequest
from vitbench.engines.runner import run as run_all
from vitbench.plan.trials import Builder, Trial
from vitbench.stats.race import CHOOSER
from vitbench.store.events import Event, Progress, Started
from vitbench.store.trials import Store
from vitbench.train.trainer import Trainer

pytest_plugins = ["broken_trial"]


@pytest.mark.parametrize("kind", ["memory", "allocator"])
def test_it_is_tried_again_from_its_checkpoint(kind: str, trial: Trial, unbroken: Path, tmp_path: Path) -> None:
    said = warnings(here([trial], options(tmp_path), f"step.mid:5:{kind}"))
    assert len(said) == 1
    assert f"out of memory on trial {trial.trial_id}" in said[0]
    assert said[0].endswith("trying again")
    assert record(tmp_path, trial).run.attempt == 2
    assert record(tmp_path, trial).run.resumed_at_step == 4
    assert left(tmp_path, [trial]) == left(unbroken, [trial])


def too_much(*_: Any) -> None:
    torch.empty(1 << 50)


def test_what_torch_really_raises_is_recognised(trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "step", too_much)
    with pytest.raises(MemoryError, match="allocate"):
        stack([trial], options(tmp_path))
    monkeypatch.setattr(Trainer, "step", lambda *_: raised(torch.OutOfMemoryError("CUDA out of memory. Tried ...")))
    with pytest.raises(MemoryError, match="CUDA out of memory"):
        stack([trial], options(tmp_path))
    assert Store(tmp_path).read(trial.trial_id) is None


def raised(error: Exception) -> None:
    raise error


def test_a_fault_of_ours_is_no_want_of_memory(trial: Trial, tmp_path: Path) -> None:
    here([trial], options(tmp_path), "step.mid:5:ours")
    assert (record(tmp_path, trial).status, record(tmp_path, trial).reason) == ("failed", "RuntimeError: planted")
    assert saved_steps(tmp_path, trial) == [], "a trial that is run again after it failed starts anew"


class Heard:
    """A run of two trials, of which the first never finds the memory; what it said, and the tries at each."""

    def __init__(self, root: Path, workers: int, monkeypatch: pytest.MonkeyPatch | None = None) -> None:
        from vitbench.spec.experiment import Suite
        from vitbench.spec.load import loads

        made = loads(TINY + "seeds: 2\n", "tiny.yaml")
        assert not isinstance(made, Suite)
        self.said: list[Event] = []
        self.lost = planned()[0].trial_id
        self.outcome = run_all(Builder(made, facts_of), RunRequest(options(root), workers), CHOOSER, self.hear)

    def hear(self, event: Event) -> None:
        self.said.append(event)
        if isinstance(event, Started) and event.trial_id == self.lost:
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)

    def tries(self) -> int:
        return len([e for e in self.said if isinstance(e, Started) and e.trial_id == self.lost])


def test_the_third_time_is_the_last_and_the_hint_says_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other trial is run; the round after it does not take the lost one up again."""
    step = Trainer.step

    def scarce(trainer: Trainer, number: int) -> None:
        if trainer.jobs[0].seed == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(trainer, number)

    monkeypatch.setattr(Trainer, "step", scarce)
    heard = Heard(tmp_path, workers=1)
    assert heard.tries() == 3
    assert [t.trial_id for t in heard.outcome.missing] == [heard.lost]
    assert "for the third time; left missing: it may need a smaller train.batch_size" in warnings(heard.said)[-1]
    monkeypatch.undo()
    again = Heard(tmp_path, workers=1)
    assert not again.outcome.missing, "another run tries again"


def test_a_worker_that_the_kernel_kills_is_tried_three_times(tmp_path: Path) -> None:
    heard = Heard(tmp_path, workers=2)
    assert heard.tries() == 3
    assert heard.lost in {t.trial_id for t in heard.outcome.missing}
    said = [line for line in warnings(heard.said) if heard.lost in line]
    assert "trial process lost (exit -9, out of memory?)" in said[0]
    assert "left missing" in said[-1]


def test_a_fork_server_that_has_just_died_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the kernel says that it is gone, it refuses; the soak met that."""
    refusals, waits = [2], list[float]()

    def refuse(*given: Any) -> Any:
        if refusals[0]:
            refusals[0] -= 1
            raise ConnectionRefusedError("refused")
        return given

    monkeypatch.setattr(processes, "TrialProcess", refuse)
    monkeypatch.setattr(processes.time, "sleep", waits.append)
    assert processes._started("context", options(Path()), 1) == ("context", options(Path()), 1)
    assert len(waits) == 2
    refusals[0] = 3
    with pytest.raises(IncompleteError, match="no trial process can be started"):
        processes._started("context", options(Path()), 1)


def test_a_killed_loader_process_is_tried_again(trial: Trial, unbroken: Path, tmp_path: Path) -> None:
    """SIGKILL of an image-loading process, in the middle of a training."""
    kills, said = [1], []

    def hear(event: Event) -> None:
        said.append(event)
        if isinstance(event, Progress) and kills:
            kills.pop()
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)

    how = options(tmp_path, data=DataOptions(stream=True, num_workers=1))
    with fault(None):
        assert list(local.run([trial], how, hear)) == [trial.trial_id]
    assert "an image-loading process was lost" in warnings(said)[0]
    assert record(tmp_path, trial).run.attempt == 2
    assert left(tmp_path, [trial]) == left(unbroken, [trial])


def test_halving_keeps_the_batch_and_the_numbers(trial: Trial, unbroken: Path, tmp_path: Path) -> None:
    said = warnings(here([trial], options(tmp_path, oom="halve"), "step.mid:5:allocator"))
    assert said[0].endswith("again in 2 micro-batches")
    found, whole = record(tmp_path, trial), record(unbroken, trial)
    assert (found.run.micro_batches, found.run.resumed_at_step) == (2, 4)
    assert found.trial_id == whole.trial_id
    assert found.result.num_images == whole.result.num_images
    losses = [[point.train_loss for point in one.result.curve] for one in (found, whole)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert whole.run.micro_batches is None


@pytest.mark.slow
def test_halving_ends_at_single_images(trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    monkeypatch.setattr(
        Trainer, "step", lambda trainer, _: (tried.append(trainer.train.grad_accum), raised(MemoryError("no")))
    )
    with pytest.raises(MemoryError):
        stack([trial], options(tmp_path, oom="halve"))
    assert tried == [1, 2, 4, 8, 16]


@pytest.mark.parametrize(
    ("field", "why"),
    [("depth: 1, drop_rate: 0.1", "dropout draws"), ("depth: 1, drop_path_rate: 0.1", "dropout draws")],
)
def test_halving_is_refused_where_it_would_change_the_training(field: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("depth: 1", field))
    request, run_options = (
        ExperimentRequest(str(path)),
        RunOptions(tmp_path / "results", data_options(None, False), oom="halve", quiet=True),
    )
    from rich.console import Console

    with pytest.raises(InputError, match=f"--oom halve: tiny, arm baseline: {why}"):
        run(request, run_options, Console(quiet=True))
    assert not (tmp_path / "results").exists()


def test_what_halving_would_change_is_known() -> None:
    from vitbench.engines.options import why_not_halve

    spec = planned()[0].spec
    norm = spec.model_copy(update={"model": spec.model.model_copy(update={"norm_layer": "batch"})})
    mixed = spec.model_copy(update={"train": spec.train.model_copy(update={"mixup": 0.2})})
    assert why_not_halve(spec) is None
    assert "BatchNorm" in str(why_not_halve(norm))
    assert "MixUp" in str(why_not_halve(mixed))
    assert execute._more_micro_batches([planned(TINY)[0]], options(Path()), None) is None, "only where it is asked for"
