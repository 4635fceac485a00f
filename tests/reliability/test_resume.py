"""A training that is broken off at any step and goes on is the unbroken one, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from faulted import NUM_STEPS, STAGED, TINY, checkpoints, here, left, options, planned, record, saved_steps, stack

from vitbench.data import DataOptions
from vitbench.store.trials import Store
from vitbench.train.checkpoint import read_weights

KINDS = {
    "adamw": TINY,
    "sgd": TINY.replace("lr: 4e-3", "lr: 4e-2, opt: sgd"),
    "dropout": TINY.replace("depth: 1", "depth: 1, drop_rate: 0.3, drop_path_rate: 0.1"),
    "medium, micro-batches": TINY.replace("batch_size: 16", "batch_size: 16, augment: medium, grad_accum: 2"),
    "masked patches": TINY.replace("batch_size: 16", "batch_size: 16, objective: {name: masked_patch}"),
    "batch norm": TINY.replace(
        "patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2, mlp_ratio: 2.0",
        "family: resnet, layers: [1, 1], width_factor: 0.25, root: small, norm_layer: batch",
    ),
    "diverged": TINY.replace("lr: 4e-3", "lr: 1e30, clip_grad: null"),
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plain trial, trained without a checkpoint; read it only."""
    root = tmp_path_factory.mktemp("unbroken")
    here(planned(), options(root, every=float("inf")))
    return root


@pytest.mark.parametrize("step", [1, 2, 5, 6, 11, NUM_STEPS])
def test_broken_off_at_any_step(step: int, unbroken: Path, tmp_path: Path) -> None:
    """Before and after readings of the curve, in the first step (nothing is saved yet) and in the last."""
    trials = planned()
    with pytest.raises(MemoryError):
        stack(trials, options(tmp_path), f"step.mid:{step}:memory")
    assert saved_steps(tmp_path, trials[0]) == [n for n in (step - 1, step - 2) if n > 0]
    here(trials, options(tmp_path))
    assert left(tmp_path, trials) == left(unbroken, trials)
    run = record(tmp_path, trials[0]).run
    assert (run.attempt, run.resumed_at_step) == (2, step - 1 or None)
    assert checkpoints(tmp_path, trials[0]) == ["final.safetensors"], "a finished trial has no checkpoints left"


def test_broken_off_again_and_again(unbroken: Path, tmp_path: Path) -> None:
    trials = planned()
    for _ in range(NUM_STEPS):
        with pytest.raises(MemoryError):
            stack(trials, options(tmp_path), "step.mid:2:memory")
        if saved_steps(tmp_path, trials[0])[0] == NUM_STEPS - 1:
            break
    here(trials, options(tmp_path))
    assert left(tmp_path, trials) == left(unbroken, trials)
    assert record(tmp_path, trials[0]).run.attempt == NUM_STEPS


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_training(kind: str, tmp_path: Path) -> None:
    trials = planned(KINDS[kind])
    here(trials, options(tmp_path / "unbroken", every=float("inf")))
    with pytest.raises(MemoryError):
        stack(trials, options(tmp_path / "broken"), f"step.mid:{2 if kind == 'diverged' else 8}:memory")
    here(trials, options(tmp_path / "broken"))
    assert left(tmp_path / "broken", trials) == left(tmp_path / "unbroken", trials)
    assert record(tmp_path / "broken", trials[0]).run.resumed_at_step
    assert record(tmp_path / "broken", trials[0]).status == ("diverged" if kind == "diverged" else "ok")


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_streamed_images(num_workers: int, unbroken: Path, tmp_path: Path) -> None:
    trials, data = planned(), DataOptions(stream=True, num_workers=num_workers)
    with pytest.raises(MemoryError):
        stack(trials, options(tmp_path, data=data), "step.mid:7:memory")
    here(trials, options(tmp_path, data=data))
    assert left(tmp_path, trials) == left(unbroken, trials)
    assert record(tmp_path, trials[0]).run.resumed_at_step == 6


TAUGHT = (
    TINY
    + """
stages:
  - {name: teach, train: {steps: 4}}
  - {name: learn, uses: {teacher: teach}, train: {objective: {name: distill}}}
"""
)


LABELLED = TAUGHT.replace("name: distill", "name: pseudo_label, labelled_fraction: 0.25").replace(
    "teach, ", "teach, data: {train_fraction: 0.25}, "
)


@pytest.mark.parametrize(("text", "broken", "step"), [(STAGED, 0, 5), (STAGED, 1, 4), (TAUGHT, 1, 4), (LABELLED, 1, 4)])
def test_two_stages(text: str, broken: int, step: int, tmp_path: Path) -> None:
    """The second starts from the first, or has it as its teacher in every step or for its labels."""
    trials = planned(text)
    here(trials, options(tmp_path / "unbroken", every=float("inf")))
    here(trials[:broken], options(tmp_path / "broken"))
    with pytest.raises(MemoryError):
        stack([trials[broken]], options(tmp_path / "broken"), f"step.mid:{step}:memory")
    here(trials, options(tmp_path / "broken"))
    assert left(tmp_path / "broken", trials) == left(tmp_path / "unbroken", trials)
    assert record(tmp_path / "broken", trials[broken]).run.resumed_at_step == step - 1


def test_the_best_weights_are_those_of_before(tmp_path: Path) -> None:
    """A training that was best at its first reading, and is broken off after that."""
    trials = planned(TINY.replace("lr: 4e-3", "lr: 1e-1, clip_grad: null"))
    here(trials, options(tmp_path / "unbroken", every=float("inf")))
    result = record(tmp_path / "unbroken", trials[0]).result
    percents = [point.val_top1_percent or 0.0 for point in result.curve]
    assert percents[0] > max(percents[1:]), "else this test tests nothing"
    assert result.test_top1_best_val_percent != result.test_top1_percent
    with pytest.raises(MemoryError):
        stack(trials, options(tmp_path / "broken"), "step.mid:7:memory")
    here(trials, options(tmp_path / "broken"))
    assert left(tmp_path / "broken", trials) == left(tmp_path / "unbroken", trials)


def test_time_is_that_of_all_attempts(tmp_path: Path) -> None:
    trials = planned()
    with pytest.raises(MemoryError):
        stack(trials, options(tmp_path), "step.mid:10:memory")
    folder = Store(tmp_path).weights(trials[0].trial_id).parent
    from vitbench.train.checkpoint import Checkpoints

    place = Checkpoints(folder, trials[0].trial_id, {})
    snapshot, _ = place.latest()
    assert snapshot is not None
    assert snapshot.standing.seconds > 0
    longer = replace(snapshot, standing=snapshot.standing.model_copy(update={"seconds": 1000.0}))
    place.write(longer)
    here(trials, options(tmp_path))
    assert record(tmp_path, trials[0]).run.train_seconds > 1000


def test_a_stack_goes_on_as_a_stack(tmp_path: Path) -> None:
    """Bit for bit; and one of its members had diverged when it was broken off."""
    wild = planned(TINY.replace("lr: 4e-3", "lr: 1e30, clip_grad: null"))
    trials = [*planned(TINY.replace("lr: 4e-3", "lr: 4e-3, clip_grad: null"), seeds=[0, 1]), *wild]
    stack(trials, options(tmp_path / "unbroken", every=float("inf")))
    with pytest.raises(MemoryError):
        stack(trials, options(tmp_path / "broken"), "step.mid:7:memory")
    assert [saved_steps(tmp_path / "broken", trial)[0] for trial in trials] == [6, 6, 6]
    stack(trials, options(tmp_path / "broken"))
    assert left(tmp_path / "broken", trials) == left(tmp_path / "unbroken", trials)
    assert [record(tmp_path / "broken", trial).status for trial in trials] == ["ok", "ok", "diverged"]


@pytest.mark.parametrize("how", ["singles", "groups"])
def test_a_stack_goes_on_apart(how: str, tmp_path: Path) -> None:
    """One by one; or in groups, where its members' checkpoints are at different steps. Within rounding."""
    trials = planned(seeds=[0, 1, 2])
    stack(trials, options(tmp_path / "unbroken", every=float("inf")))
    with pytest.raises(MemoryError):
        stack(trials, options(tmp_path / "broken"), "step.mid:7:memory")
    if how == "singles":
        here(trials, options(tmp_path / "broken"))
    else:
        next(Store(tmp_path / "broken").weights(trials[1].trial_id).parent.glob("step-*6.sha256")).unlink()
        stack(trials, options(tmp_path / "broken"))
        assert [record(tmp_path / "broken", t).run.resumed_at_step for t in trials] == [6, 5, 6]
    for trial in trials:
        ours, theirs = record(tmp_path / "broken", trial), record(tmp_path / "unbroken", trial)
        losses = [[point.train_loss for point in found.result.curve] for found in (ours, theirs)]
        np.testing.assert_allclose(*losses, rtol=1e-4)
        weights = [read_weights(Store(tmp_path / name).weights(trial.trial_id)) for name in ("broken", "unbroken")]
        for name, tensor in weights[0].items():
            torch.testing.assert_close(tensor, weights[1][name], rtol=0, atol=1e-3)
