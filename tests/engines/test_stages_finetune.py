"""Two stages: the second starts from the first's weights, at its own resolution; equal first stages are one trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vitbench.base.errors import InputError, ResultsError
from vitbench.data import DataOptions, Facts, facts
from vitbench.engines import runner
from vitbench.engines.environment import device_name, versions
from vitbench.engines.execute import execute, execute_locked
from vitbench.engines.options import Options
from vitbench.model.weights.transfer import interpolate_grid
from vitbench.plan.trials import Builder, Trial
from vitbench.spec.experiment import Experiment
from vitbench.spec.load import loads
from vitbench.stats.race import CHOOSER
from vitbench.store.events import Event, Warned
from vitbench.store.record import Record, Result, Run, Status
from vitbench.store.trials import Store

STILL = "{steps: 1, batch_size: 8, lr: 1.0e-12, weight_decay: 0.0}"
STAGED = f"""
name: staged
base:
  data: {{name: fake}}
  model: {{patch_size: 2, embed_dim: 16, depth: 2, num_heads: 2, mlp_ratio: 2.0}}
stages:
  - {{name: pretrain, train: {{steps: 3, batch_size: 16}}}}
  - {{name: transfer, train: {STILL}, data: {{img_size: 16}}}}
seeds: 2
"""
MASKED = STAGED.replace("batch_size: 16", "batch_size: 16, objective: {name: masked_patch}")


def facts_of(name: str) -> Facts:
    return facts(name, DataOptions())


def experiment(text: str) -> Experiment:
    loaded = loads(text, "staged.yaml")
    assert isinstance(loaded, Experiment)
    return loaded


def planned(text: str, seed: int = 0) -> list[Trial]:
    """The trials of one seed of the first arm, first stage first."""
    builder = Builder(experiment(text), facts_of)
    return builder.trials(next(iter(builder.arms.values())), {}, seed, "reporting")


def ran(text: str, root: Path, keep: str = "final") -> runner.RunOutcome:
    request = runner.RunRequest(Options(root, DataOptions(), keep=keep))
    return runner.run(Builder(experiment(text), facts_of), request, CHOOSER, lambda event: None)


def options(root: Path) -> Options:
    return Options(root, DataOptions())


def weights(root: Path, trial: Trial) -> dict[str, torch.Tensor]:
    return load_file(Store(root).weights(trial.trial_id))


def silent(event: Any) -> None:
    """Nobody listens."""


@pytest.mark.slow
@pytest.mark.parametrize("text", [STAGED, MASKED], ids=["supervised", "masked patches"])
@pytest.mark.parametrize("positions", ["learned_1d", "learned_2d", "relative_2d", "sincos_2d"])
def test_fine_tuning_at_twice_the_resolution(text: str, positions: str, tmp_path: Path) -> None:
    """A transfer of one step of 1e-12 ends where it starts: at the first stage's weights, positions stretched."""
    text = text.replace("depth: 2", f"depth: 2, pos_embed: {positions}")
    outcome = ran(text, tmp_path)
    assert {record.status for record in outcome.records.values()} == {"ok"}
    first, second = planned(text)
    assert (first.spec.model.img_size, second.spec.model.img_size) == (8, 16)
    before, after = weights(tmp_path, first), weights(tmp_path, second)
    for name, tensor in after.items():
        if name.startswith("head."):
            assert tensor.abs().max() < 1e-6
        elif name == "pos_embed":
            torch.testing.assert_close(tensor, interpolate_grid(before[name], 1 + 8 * 8, 1), rtol=0, atol=1e-6)
        elif tensor.shape == before[name].shape:
            torch.testing.assert_close(tensor, before[name], rtol=0, atol=1e-6)
        else:
            assert tensor.shape[-2] > before[name].shape[-2]
            torch.testing.assert_close(tensor[..., 0, :], before[name][..., 0, :], rtol=0, atol=1e-6)


def test_equal_first_stages_are_one_trial(tmp_path: Path) -> None:
    text = STAGED + "factors:\n  transfer.data.img_size: [16, 8, 12]\n"
    outcome = ran(text, tmp_path)
    trials = outcome.plan.trials
    assert len(trials) == 2 * 3 * 2
    assert len(outcome.plan.unique()) == 2 * (1 + 3)
    for seed in (0, 1):
        parents = {t.parent for t in trials if t.stage == "transfer" and t.seed == seed}
        assert parents == {t.trial_id for t in trials if t.stage == "pretrain" and t.seed == seed}
        assert len(parents) == 1
    store = Store(tmp_path)
    records = store.read_all(folder.name for folder in store.trials.iterdir())
    assert [record.run.attempt for record in records.values()] == [1] * 8


def test_another_first_stage_is_another_transfer() -> None:
    first, second = planned(STAGED)
    other_first, other_second = planned(STAGED.replace("steps: 3", "steps: 4"))
    assert first.trial_id != other_first.trial_id
    assert second.trial_id != other_second.trial_id
    assert second.spec == other_second.spec


def test_a_stage_that_cannot_start_from_the_one_before_is_refused() -> None:
    unset = STAGED.replace("patch_size: 2, ", "").replace("img_size: 16", "img_size: 32")
    with pytest.raises(InputError, match=r"stage transfer: start from the stage before: weights: patch_embed\.proj"):
        planned(unset)
    with pytest.raises(InputError, match=r"rel_pos has shape .* and it cannot be interpolated"):
        planned(STAGED.replace("depth: 2", "depth: 2, pos_embed: relative_1d"))


HERE = Run(device=device_name("cpu"), versions=versions())
ELSEWHERE = Run(device="cpu (x86_64, AVX2, Another)", versions=versions())


def left(store: Store, trial: Trial, status: Status, reason: str | None, run: Run = HERE) -> None:
    """Commit a record of a stage that was not trained here."""
    record = Record(
        trial_id=trial.trial_id, status=status, reason=reason, seed=trial.seed, result=Result(), run=run,
        data_fingerprint=trial.data_fingerprint, spec=trial.spec.model_dump(mode="json", exclude_defaults=True),
    )  # fmt: skip
    store.commit(record, store.begin_attempt(trial.trial_id), {})


@pytest.mark.parametrize("status", ["failed", "diverged"])
def test_a_lost_first_stage_is_recorded(status: Status, tmp_path: Path) -> None:
    first, second = planned(STAGED)
    left(Store(tmp_path), first, status, "loss not finite at step 2")
    assert execute_locked(second, options(tmp_path), silent)
    record = Store(tmp_path).read(second.trial_id)
    assert record is not None
    assert record.status == status
    assert record.reason == f"stage {first.trial_id} {status}: loss not finite at step 2"


def test_a_first_stage_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    """Another process may be at work on it: the second stage is passed over, and nothing is recorded."""
    _, second = planned(STAGED)
    assert not execute_locked(second, options(tmp_path), silent)
    assert not Store(tmp_path).folder(second.trial_id).exists()


def test_a_first_stage_without_weights_is_refused(tmp_path: Path) -> None:
    first, second = planned(STAGED)
    left(Store(tmp_path), first, "ok", None)
    with pytest.raises(ResultsError, match=f"needs {first.trial_id}, whose weights were not kept; .* Move"):
        execute([second], options(tmp_path), silent)
    assert Store(tmp_path).read(second.trial_id) is None


def test_a_first_stage_from_another_kind_of_machine_is_trained_again(tmp_path: Path) -> None:
    """Its bits cannot be made here, so that other weights than the record's are said and used."""
    first, second = planned(STAGED)
    left(Store(tmp_path), first, "ok", None, ELSEWHERE)
    heard: list[Event] = []
    execute([second], options(tmp_path), heard.append)
    said = [event.message for event in heard if isinstance(event, Warned)]
    assert f"stage {first.trial_id} was made on {ELSEWHERE.device}; trained here, its weights differ in bits" in said
    record = Store(tmp_path).read(second.trial_id)
    assert record is not None
    assert record.status == "ok"


def test_weights_of_stages_are_kept_whatever_is_asked(tmp_path: Path) -> None:
    ran(STAGED, tmp_path, keep="none")
    first, second = planned(STAGED)
    assert Store(tmp_path).weights(first.trial_id).is_file()
    assert not Store(tmp_path).weights(second.trial_id).exists()


def test_init_from_is_the_first_stages(tmp_path: Path) -> None:
    """Also where an arm skips the first: then the next one starts there."""
    ran(STAGED, tmp_path)
    given = Store(tmp_path).weights(planned(STAGED)[0].trial_id)
    started = STAGED.replace("depth: 2", f'depth: 2, init_from: "{given}"')
    first, second = planned(started)
    assert (first.spec.model.init_from, second.spec.model.init_from) == (str(given), None)
    assert first.trial_id != planned(STAGED)[0].trial_id
    with pytest.raises(InputError, match=r"stage transfer: model\.init_from: other, but this stage starts"):
        planned(started + "arms: {other: {transfer.model.init_from: other}}\n")
    (only,) = planned(started + "arms: {direct: {pretrain.enabled: false}}\n")
    assert (only.stage, only.spec.model.init_from) == ("transfer", str(given))
    assert only.trial_id != planned(STAGED)[1].trial_id
