"""Many commands and several GPUs share the work: parts, devices of processes, stacks in several processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from made_runs import TINY, Ran
from test_fused import GRID, assert_alike, trials_of

from vitbench.base.errors import InputError
from vitbench.cli.commands.device import choose_devices, choose_num_jobs, shard_of
from vitbench.engines.engine_choice import check, choose_engine
from vitbench.engines.processes import visible_gpu
from vitbench.engines.runner import _ordered
from vitbench.engines.stacks import most_in_stack, stacks
from vitbench.store.events import Progress, Warned
from vitbench.store.trials import Store


@pytest.mark.parametrize(("text", "part"), [(None, (0, 1)), ("1/1", (0, 1)), ("2/8", (1, 8))])
def test_shards(text: str | None, part: tuple[int, int]) -> None:
    assert shard_of(text) == part


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", ""])
def test_a_shard_that_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"allowed is I/N with I from 1 to N"):
        shard_of(text)


def test_every_shard_begins_with_its_own_trials_and_then_helps_the_others() -> None:
    trials = trials_of(GRID)
    orders = [_ordered(trials, (part, 3)) for part in range(3)]
    assert all({t.trial_id for t in order} == {t.trial_id for t in trials} for order in orders)
    own = [{t.trial_id for t in trials if int(t.trial_id, 16) % 3 == part} for part in range(3)]
    for order, ids in zip(orders, own, strict=True):
        assert {t.trial_id for t in order[: len(ids)]} == ids
    assert sum(map(len, own)) == len(trials)


def test_seed_by_seed_a_run_that_is_cut_short_has_all_arms_at_its_first_seeds() -> None:
    trials = trials_of(
        GRID.replace("data.train_fraction: [1.0, 0.5]", "model.depth: [1, 2]").replace("seeds: 2", "seeds: 3")
    )
    ordered = _ordered(trials, seed_by_seed=True)
    assert [t.seed for t in ordered] == sorted(t.seed for t in trials)
    assert [t.seed for t in _ordered(trials)] != [t.seed for t in ordered]


def test_without_waiting_the_run_ends_where_others_hold_the_rest(tmp_path: Path) -> None:
    text = TINY + "seeds: 2\n"
    held_id = trials_of(text)[0].trial_id
    with Store(tmp_path).lock(held_id) as held:
        assert held
        ran = Ran(text, tmp_path, waits=False)
    assert [trial.trial_id for trial in ran.outcome.missing] == [held_id]
    assert not Ran(text, tmp_path, waits=False).outcome.missing


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("cuda", ("cuda", ())),
        ("cuda:3", ("cuda:3", ())),
        ("cuda:all", ("cuda", (0, 1, 2, 3))),
        ("cuda:0,2", ("cuda", (0, 2))),
        ("cpu", ("cpu", ())),
    ],
)
def test_several_gpus_by_name(name: str, device: Any, four_gpus: None) -> None:
    assert choose_devices(name) == device


@pytest.mark.parametrize(
    ("name", "why"),
    [("cuda:1,1", "stands twice"), ("cuda:0,4", "there are 4"), ("cuda:4", "there are 4"), ("cuda:0,", "allowed are")],
)
def test_gpus_that_are_not_there_are_refused(name: str, why: str, four_gpus: None) -> None:
    with pytest.raises(InputError, match=why):
        choose_devices(name)


def test_several_gpus_need_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no CUDA device here"):
        choose_devices("cuda:all")


@pytest.mark.parametrize(
    ("shown", "number", "name"), [(None, 2, "2"), ("", 1, "1"), ("4,6", 1, "6"), ("GPU-a, GPU-b", 1, "GPU-b")]
)
def test_a_process_sees_the_gpu_that_torch_counts(
    shown: str | None, number: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler may already show some GPUs only; torch then counts from 0 among them."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert visible_gpu(number) == name


def test_each_gpu_has_its_processes_and_its_stacks() -> None:
    assert choose_num_jobs(None, "cuda", 1, 4) == 4
    assert choose_num_jobs(2, "cuda", 1, 4) == 8
    trials = trials_of(GRID)
    choice = choose_engine("auto", "cuda", 4, trials, 4)
    assert (choice.engine, choice.num_jobs) == ("fused", 4)
    assert "8 trials in 4 stacks of up to 2" in choice.words()
    assert choose_engine("auto", "cuda", 8, trials, 4).engine == "workers", "several processes per GPU"
    assert [len(stack) for stack in stacks(trials, most_in_stack(trials, 3))] == [2, 3, 3]
    with pytest.raises(InputError, match="one GPU"):
        check("local", None, num_gpus=2)


@pytest.mark.slow
def test_stacks_in_two_processes_give_the_numbers_of_trials_alone(tmp_path: Path) -> None:
    shared = Ran(GRID, tmp_path / "shared", workers=2, engine="fused")
    alone = Ran(GRID, tmp_path / "alone")
    assert shared.records.keys() == alone.records.keys()
    for trial_id, record in shared.records.items():
        assert_alike(record, alone.records[trial_id])
    assert {record.run.engine for record in shared.records.values()} == {"fused"}


@pytest.mark.slow
def test_a_killed_process_loses_no_trial_of_its_stack(tmp_path: Path) -> None:
    """Its stack is trained again in halves, from the last checkpoints."""
    kills = [1]

    def hear(event: Any) -> None:
        if isinstance(event, Progress) and kills:
            kills.pop()
            os.kill(trial_processes()[0], signal.SIGKILL)

    text = GRID.replace("steps: 12", "steps: 60")
    ran = Ran(text, tmp_path, workers=2, hear=hear, engine="fused")
    assert not kills
    assert not ran.outcome.missing
    said = [event.message for event in ran.heard(Warned)]
    assert any("trial process lost (exit -9, out of memory?)" in line for line in said)
    assert all("trying again" in line for line in said)


def trial_processes() -> list[int]:
    """The processes that train, which the fork server started."""
    import multiprocessing

    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]
