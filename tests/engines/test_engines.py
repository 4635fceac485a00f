"""Runs: equal results from every engine, lost workers tried again, faults recorded, finished trials never repeated."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import ARMS, STAGED, TINY, TUNED, Ran, options, results

from vitbench.base.errors import ResultsError
from vitbench.engines import execute, runner
from vitbench.plan.trials import Trial
from vitbench.store.events import Event, Finished, Planned, Progress, Started, Warned
from vitbench.store.record import Record
from vitbench.store.trials import Store


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The staged experiment, one trial after another; read it only."""
    return Ran(STAGED, tmp_path_factory.mktemp("staged"))


def test_records_say_what_was_computed(staged: Ran) -> None:
    for trial in staged.trials:
        record = staged.records[trial.trial_id]
        result = record.result
        classify = trial.spec.train.objective.name == "classify"
        assert record.status == "ok"
        assert (record.trial_id, record.parent, record.seed) == (trial.trial_id, trial.parent, trial.seed)
        assert result.num_steps == trial.spec.train.steps
        assert result.num_images == result.num_steps * 16
        assert (result.num_train_images, result.num_test_images) == (408, 256)
        assert result.curve[-1].step == result.num_steps
        assert (result.test_top1_percent is not None) == classify
        assert result.weights_sha256
        assert record.run.threads == 1
        assert "torch" in record.run.versions


def test_predictions_are_those_of_the_accuracy(staged: Ran) -> None:
    for trial in staged.trials:
        path = staged.store.folder(trial.trial_id) / "predictions.npz"
        assert path.exists() == (trial.role == "reporting")
        if path.exists():
            with np.load(path, allow_pickle=False) as found:
                assert found["index"].tolist() == list(range(256))
                percent = 100 * float(np.mean(found["predicted"] == found["label"]))
            assert percent == staged.records[trial.trial_id].result.test_top1_percent


def test_events_tell_the_whole_story(staged: Ran) -> None:
    assert [e.trial_id for e in staged.heard(Started)] == [e.trial_id for e in staged.heard(Finished)]
    assert {e.trial_id for e in staged.heard(Progress)} == set(staged.records)
    first, *_, last = staged.heard(Planned)
    assert (first.num_done, first.num_trials) == (0, 6)
    assert (last.num_done, sum(work.num_trials for work in last.done), last.left) == (6, 6, ())
    finished = {e.trial_id: e for e in staged.heard(Finished)}
    assert all(finished[i].metric == r.result.test_top1_percent for i, r in staged.records.items())


def test_a_stage_comes_before_what_starts_from_it(staged: Ran) -> None:
    order = [e.trial_id for e in staged.heard(Started)]
    for trial in staged.trials:
        assert trial.parent is None or order.index(trial.parent) < order.index(trial.trial_id)


def test_three_stages_run_in_order(tmp_path: Path) -> None:
    """The last stage is the longest, and longest-first must not put it first."""
    text = (
        TINY
        + """
stages:
  - {name: first, train: {steps: 1, objective: {name: masked_patch}}}
  - {name: second, train: {steps: 2}}
  - {name: third, train: {steps: 3}}
seeds: 2
"""
    )
    ran = Ran(text, tmp_path)
    assert {r.status for r in ran.records.values()} == {"ok"}
    assert [e.num_steps for e in ran.heard(Started)] == [1, 1, 2, 2, 3, 3]
    assert len(ran.heard(Planned)) == 2, "in one round"


@pytest.mark.slow
def test_same_seed_twice_is_bit_equal(staged: Ran, tmp_path: Path) -> None:
    again = Ran(STAGED, tmp_path)
    assert results(again) == results(staged)
    assert again.files() == staged.files()


@pytest.mark.slow
def test_workers_give_bit_equal_results(staged: Ran, tmp_path: Path) -> None:
    parallel = Ran(STAGED, tmp_path, workers=2, engine="workers")
    assert results(parallel) == results(staged)
    assert parallel.files() == staged.files()
    assert {r.run.engine for r in parallel.records.values()} == {"workers"}


def test_a_second_run_trains_nothing(staged: Ran) -> None:
    files = {p: p.stat().st_mtime_ns for p in staged.root.rglob("record.json")}
    again = Ran(STAGED, staged.root)
    assert again.heard(Started) == []
    assert results(again) == results(staged)
    assert {p: p.stat().st_mtime_ns for p in staged.root.rglob("record.json")} == files


def test_a_trial_that_another_process_finished_meanwhile_is_not_run_again(staged: Ran) -> None:
    heard: list[Event] = []
    for trial in staged.trials:
        assert execute.execute_locked(trial, options(staged.root), heard.append)
    assert heard == []


def test_transfer_starts_from_its_stages_weights(staged: Ran) -> None:
    """Pre-training moved the shared weights: the two arms of a seed differ from the first step on."""
    curves = {
        (t.arm, t.seed): staged.records[t.trial_id].result.curve[0] for t in staged.trials if t.stage == "transfer"
    }
    assert curves["masked", 0] != curves["scratch", 0]


def test_tuning_then_reporting(tmp_path: Path) -> None:
    ran = Ran(TUNED, tmp_path)
    roles = [e.role for e in ran.heard(Started)]
    assert roles == ["tuning"] * 2 + ["reporting"] * 2
    assert ran.outcome.plan.complete
    tuning = {t.setting["train.lr"]: ran.records[t.trial_id].result for t in ran.trials if t.role == "tuning"}
    best = max(tuning, key=lambda lr: (tuning[lr].val_top1_percent or 0, -lr))
    assert ran.outcome.plan.choices == {"baseline": {"train.lr": best}}


@pytest.mark.parametrize("limit", [1, 3])
def test_a_limit_stops_and_the_same_run_goes_on(limit: int, tmp_path: Path) -> None:
    ran = Ran(ARMS, tmp_path, limit=limit)
    assert len(ran.records) == limit
    assert ran.outcome.stopped_by_limit
    assert len(ran.outcome.missing) == 4 - limit
    rest = Ran(ARMS, tmp_path)
    assert len(rest.heard(Started)) == 4 - limit
    assert not rest.outcome.missing


def kept(ran: Ran) -> set[str]:
    return {t.role for t in ran.trials if ran.store.weights(t.trial_id).exists()}


@pytest.mark.parametrize(
    ("keep", "roles"), [("final", {"reporting"}), ("all", {"tuning", "reporting"}), ("none", set())]
)
def test_weights_kept(keep: str, roles: set[str], tmp_path: Path) -> None:
    assert kept(Ran(TUNED, tmp_path, keep=keep)) == roles


def test_weights_of_stages_are_always_kept(tmp_path: Path) -> None:
    assert kept(Ran(STAGED, tmp_path, keep="none")) == {"stage"}


def faulty(monkeypatch: pytest.MonkeyPatch, error: BaseException, seed: int) -> None:
    """Training of one seed raises."""
    train = execute.train_stack

    def broken(trainer: Any, *rest: Any) -> Any:
        if trainer.jobs[0].seed == seed:
            raise error
        return train(trainer, *rest)

    monkeypatch.setattr(execute, "train_stack", broken)


def test_a_fault_is_a_record_the_sweep_goes_on_and_it_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        faulty(patch, RuntimeError("something\nof many lines"), seed=1)
        ran = Ran(ARMS, tmp_path)
    failed = [r for r in ran.records.values() if r.status == "failed"]
    assert [r.seed for r in failed] == [1, 1]
    assert {r.reason for r in failed} == {"RuntimeError: something"}
    assert all(r.result.test_top1_percent is None for r in failed)
    assert Ran(ARMS, tmp_path).heard(Started) == []
    for trial in ran.trials:
        ran.store.set_aside(trial.trial_id)
    repaired = Ran(ARMS, tmp_path)
    assert len(repaired.heard(Started)) == 2
    assert {r.status for r in repaired.records.values()} == {"ok"}


@pytest.mark.slow
def test_out_of_memory_is_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        faulty(patch, MemoryError("no more"), seed=1)
        ran = Ran(ARMS, tmp_path)
    assert {r.seed for r in ran.records.values()} == {0}
    assert len(ran.outcome.missing) == 2
    assert "out of memory" in ran.heard(Warned)[0].message
    assert not Ran(ARMS, tmp_path).outcome.missing


def test_a_diverged_trial_is_recorded_with_its_step_and_what_starts_from_it_too(tmp_path: Path) -> None:
    text = STAGED.replace("arms:", "arms:\n  wild: {pretrain.train.lr: 1e30, pretrain.train.clip_grad: null}")
    ran = Ran(text.replace("seeds: 2", "seeds: 1"), tmp_path)
    by_stage = {(t.arm, t.stage): ran.records[t.trial_id] for t in ran.trials}
    lost = by_stage["wild", "pretrain"]
    assert lost.status == "diverged"
    assert lost.reason == "loss or logits not finite at step 2"
    child = by_stage["wild", "transfer"]
    assert (child.status, child.reason) == ("diverged", f"stage {lost.trial_id} diverged: {lost.reason}")
    assert child.result.test_top1_percent is None
    assert {by_stage[arm].status for arm in by_stage if arm[0] != "wild"} == {"ok"}
    assert Ran(text.replace("seeds: 2", "seeds: 1"), tmp_path).heard(Started) == []


def test_a_trial_that_another_process_is_at_work_on_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = Ran(ARMS, tmp_path / "elsewhere").trials
    lock = Store(tmp_path / "here").lock(trials[0].trial_id)
    assert lock.__enter__()
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        lock.__exit__(None, None, None)

    monkeypatch.setattr(runner.time, "sleep", wait)
    ran = Ran(ARMS, tmp_path / "here")
    assert len(waits) == 1
    assert [e.trial_id for e in ran.heard(Started)][-1] == trials[0].trial_id
    assert not ran.outcome.missing


class Killer:
    """Kills every worker at the first `times` starts of a trial."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started) and self.left:
            self.left -= 1
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)


def test_a_lost_worker_is_replaced_and_its_trial_tried_again(staged: Ran, tmp_path: Path) -> None:
    ran = Ran(STAGED, tmp_path, workers=2, hear=Killer(1))
    assert results(ran) == results(staged)
    assert "trial process lost (exit -9, out of memory?)" in ran.heard(Warned)[0].message
    assert max(r.run.attempt for r in ran.records.values()) == 2


def test_a_trial_lost_for_the_third_time_is_left_missing(tmp_path: Path) -> None:
    one = ARMS.replace("seeds: 2", "seeds: 1").replace("[token, avg]", "[token]")
    ran = Ran(one, tmp_path, workers=2, hear=Killer(1000))
    assert ran.records == {}
    assert len(ran.outcome.missing) == 1
    assert "for the third time; left missing" in ran.heard(Warned)[2].message
    assert not Ran(one, tmp_path).outcome.missing


@pytest.mark.slow
def test_an_error_of_the_users_in_a_worker_ends_the_run_with_its_code(tmp_path: Path) -> None:
    trials: tuple[Trial, ...] = tuple(Ran(ARMS, tmp_path / "elsewhere").trials)
    store = Store(tmp_path / "here")
    store.trials.mkdir(parents=True)
    store.folder(trials[-1].trial_id).write_text("a file where a folder should be")
    with pytest.raises(ResultsError, match="a file where a folder is expected"):
        Ran(ARMS, tmp_path / "here", workers=2)
    assert multiprocessing.active_children() == []


def test_a_stage_whose_weights_were_not_kept_is_trained_again(tmp_path: Path) -> None:
    """Another experiment may have run it first, as a tuning trial."""
    ran = Ran(STAGED, tmp_path)
    child = next(trial for trial in ran.trials if trial.parent)
    before = (ran.store.folder(child.trial_id) / "record.json").read_bytes()
    (ran.store.folder(child.trial_id) / "record.json").unlink()
    assert child.parent is not None
    weights = ran.store.weights(child.parent).read_bytes()
    ran.store.weights(child.parent).unlink()
    again = Ran(STAGED, tmp_path)
    assert f"needs {child.parent}, whose weights were not kept" in again.heard(Warned)[0].message
    assert ran.store.weights(child.parent).read_bytes() == weights
    assert again.records[child.trial_id].result == Record.model_validate_json(before).result


def test_every_record_is_read_once_in_a_run_that_finds_all_done(staged: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    read = Store.read

    def reading(store: Store, trial_id: str) -> Any:
        reads.append(trial_id)
        return read(store, trial_id)

    monkeypatch.setattr(Store, "read", reading)
    Ran(STAGED, staged.root)
    assert sorted(reads) == sorted(staged.records)
