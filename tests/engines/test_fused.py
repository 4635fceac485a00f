"""The fused engine: the same ids, the same record schema and, within tolerance, the same numbers as one by one."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import ARMS, STAGED, TINY, TUNED, Ran, experiment, results

from vitbench.base.errors import InputError
from vitbench.cli.commands.prepare import data_options, facts_source
from vitbench.engines import stacked
from vitbench.engines.engine_choice import check, choose_engine
from vitbench.engines.memory import activation_bytes, member_bytes
from vitbench.engines.stacks import split, stack_key, stacks
from vitbench.plan.rounds import expand
from vitbench.plan.trials import Builder, Plan, Trial
from vitbench.stats.race import CHOOSER
from vitbench.store.events import Warned
from vitbench.store.record import Record

GRID = (
    TINY.replace("lr: 4e-3", "weight_decay: 0.1")
    + "factors: {train.lr: [1e-3, 4e-3], data.train_fraction: [1.0, 0.5]}\nseeds: 2\n"
)
HOT = TINY + "factors: {train.lr: [1e-3, 1e30], train.clip_grad: [null]}\nseeds: 2\n"
KINDS = {
    "arms": ARMS,
    "tuned": TUNED,
    "grid": GRID,
    "resnet": TINY.replace("{patch_size: 4, embed_dim: 16, depth: 2, num_heads: 2, mlp_ratio: 2.0}",
                           "{family: resnet, layers: [1, 1], width_factor: 0.25}") + "seeds: 2\n",
}  # fmt: skip


def trials_of(text: str) -> tuple[Trial, ...]:
    facts_of = facts_source(data_options(None, False))
    plan: Plan = expand(Builder(experiment(text), facts_of), {}, CHOOSER)
    return tuple(plan.unique().values())


def assert_alike(fused: Record, alone: Record) -> None:
    """Everything of a record but what rounding may move; accuracies within two of the few test images."""
    for key in ("trial_id", "status", "reason", "seed", "parent", "data_fingerprint", "spec"):
        assert getattr(fused, key) == getattr(alone, key)
    own, other = fused.result, alone.result
    assert own.model_dump().keys() == other.model_dump().keys()
    for key in ("num_params", "train_flops", "num_images", "num_steps", "num_train_images", "num_test_images"):
        assert getattr(own, key) == getattr(other, key)
    losses, expected = ([(p.step, p.train_loss) for p in r.curve] for r in (own, other))
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for key in ("test_top1_percent", "val_top1_percent", "test_top1_best_val_percent"):
        if getattr(other, key) is not None:
            assert abs(getattr(own, key) - getattr(other, key)) <= 200 / own.num_test_images


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_records_are_those_of_trials_one_by_one(kind: str, tmp_path: Path) -> None:
    stacked = Ran(KINDS[kind], tmp_path / "fused", engine="fused")
    alone = Ran(KINDS[kind], tmp_path / "alone")
    assert stacked.records.keys() == alone.records.keys()
    assert {record.run.engine for record in stacked.records.values()} == {"fused"}
    for trial_id, record in stacked.records.items():
        assert_alike(record, alone.records[trial_id])


def test_a_diverged_member_gets_its_record_and_the_others_go_on(tmp_path: Path) -> None:
    stacked, alone = Ran(HOT, tmp_path / "fused", engine="fused"), Ran(HOT, tmp_path / "alone")
    assert sorted(r.status for r in stacked.records.values()) == ["diverged", "diverged", "ok", "ok"]
    for trial_id, record in stacked.records.items():
        assert_alike(record, alone.records[trial_id])


@pytest.mark.slow
def test_stages_stack_and_follow_their_parents(tmp_path: Path) -> None:
    stacked, alone = Ran(STAGED, tmp_path / "fused", engine="fused"), Ran(STAGED, tmp_path / "alone")
    assert stacked.records.keys() == alone.records.keys()
    for trial_id, record in stacked.records.items():
        assert_alike(record, alone.records[trial_id])


def test_a_child_of_a_lost_stage_is_recorded_and_its_siblings_are_trained(tmp_path: Path) -> None:
    text = STAGED.replace("steps: 12, objective", "steps: 12, lr: 4e-3, objective")
    first = Ran(text, tmp_path, engine="fused", limit=2)
    (lost, *_) = [t for t in first.trials if t.stage == "pretrain"]
    path = first.store.folder(lost.trial_id) / "record.json"
    path.write_text(path.read_text().replace('"status": "ok"', '"status": "diverged",\n "reason": "made so"'))
    done = Ran(text, tmp_path, engine="fused")
    children = {r.trial_id: r for r in done.records.values() if r.parent is not None}
    assert sorted(r.status for r in children.values()) == ["diverged", "ok"]


@pytest.mark.slow
def test_memory_that_runs_out_splits_the_stack_and_those_like_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    execute = stacked.execute

    def cramped(trials: Any, options: Any, emit: Any) -> None:
        sizes.append(len(trials))
        if len(trials) > 2:
            raise MemoryError("no room")
        execute(trials, options, emit)

    monkeypatch.setattr(stacked, "execute", cramped)
    ran = Ran(TINY + "seeds: 5\n", tmp_path, engine="fused")
    assert sizes == [5, 2, 2]
    assert len(ran.records) == 5
    assert any("at most" in event.message for event in ran.heard(Warned))


def test_a_trial_that_another_process_holds_is_left_to_it(tmp_path: Path) -> None:
    text = TINY + "seeds: 3\n"
    held, *free = trials_of(text)
    warm = Ran(text, tmp_path, engine="fused", limit=1)
    with ExitStack() as stack:
        other = next(t for t in trials_of(text) if t.trial_id not in warm.records)
        assert stack.enter_context(warm.store.lock(other.trial_id))
        done = stacked.run(trials_of(text), _options(tmp_path), lambda event: None)
        assert set(done) == {t.trial_id for t in (held, *free)} - {other.trial_id}
    assert warm.store.read(other.trial_id) is None


def _options(root: Path) -> Any:
    from made_runs import options

    return options(root, engine="fused")


def test_what_may_be_one_stack() -> None:
    made = stacks(trials_of(GRID))
    assert [len(stack) for stack in made] == [8]
    assert [len(stack) for stack in stacks(trials_of(ARMS))] == [2, 2]
    assert [len(stack) for stack in stacks(trials_of(TINY + "seeds: 7\n"), most=3)] == [2, 2, 3]
    assert [len(part) for part in split(trials_of(TINY + "seeds: 7\n"), 7)] == [7]
    dropping = TINY.replace("mlp_ratio: 2.0", "mlp_ratio: 2.0, drop_path_rate: 0.1") + "seeds: 2\n"
    assert [stack_key(trial) for trial in trials_of(dropping)] == [None, None]
    assert [len(stack) for stack in stacks(trials_of(dropping))] == [1, 1]
    lengths = TINY + "factors: {train.steps: [10, 12]}\nseeds: 2\n"
    assert [len(stack) for stack in stacks(trials_of(lengths))] == [2, 2]


def test_the_memory_model_counts_what_a_deeper_or_larger_trial_keeps() -> None:
    base, deeper, longer = (
        trials_of(TINY.replace(*change) + "seeds: 1\n")[0].spec
        for change in (("x", "x"), ("depth: 2", "depth: 4"), ("batch_size: 16", "batch_size: 32"))
    )
    assert activation_bytes(longer) == 2 * activation_bytes(base)
    assert 1.5 < activation_bytes(deeper) / activation_bytes(base) < 2.5
    assert member_bytes(base) > activation_bytes(base)


@pytest.mark.parametrize(
    ("asked", "device", "workers", "engine", "processes", "why"),
    [
        ("auto", "cpu", 2, "workers", 2, "one per core"),
        ("auto", "cpu", 1, "local", 1, "one process"),
        ("auto", "cuda", 1, "fused", 1, "8 trials in 1 stacks of up to 8"),
        ("fused", "cpu", 2, "fused", 2, "as requested"),
        ("local", "cuda", 1, "local", 1, "as requested"),
        ("workers", "cuda", 3, "workers", 3, "as requested"),
    ],
)
def test_the_engine_is_chosen_and_says_why(
    asked: str, device: str, workers: int, engine: str, processes: int, why: str
) -> None:
    choice = choose_engine(asked, device, workers, trials_of(GRID))
    assert (choice.engine, choice.num_jobs) == (engine, processes)
    assert why in choice.words()
    unlike = trials_of(TINY + "seeds: 1\n")
    assert choose_engine("auto", "cuda", 1, unlike).engine == "local"


@pytest.mark.parametrize(("asked", "jobs"), [("fast", None), ("local", 4)])
def test_an_engine_that_cannot_be_had_is_refused(asked: str, jobs: int | None) -> None:
    with pytest.raises(InputError, match=r"--engine|--jobs"):
        check(asked, jobs)
    check("auto", jobs, recompute=True)
    with pytest.raises(InputError, match=r"--recompute.*stack"):
        check("fused", None, recompute=True)


@pytest.mark.slow
def test_workers_are_the_serial_run_bit_for_bit(tmp_path: Path) -> None:
    serial, parallel = Ran(TUNED, tmp_path / "a"), Ran(TUNED, tmp_path / "b", workers=2, engine="workers")
    assert results(serial) == results(parallel)
