"""Identity of trials, and which trials are knowable when."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
from made_plans import best, experiment, facts_of, record, rounds, top

from vitbench.base.errors import InputError
from vitbench.plan.resolve import resolve
from vitbench.plan.rounds import expand
from vitbench.plan.trial_id import trial_id
from vitbench.plan.trials import Builder, Plan, Trial, extend, settings
from vitbench.spec.trial import TrialSpec
from vitbench.store.record import ALGORITHM_VERSION, Record, Role

TUNED = """
factors: {model.global_pool: [token, avg]}
tune: {train.lr: [1e-3, 2e-3, 4e-3], seeds: 2}
seeds: 3
"""
STAGED = """
stages:
  - name: pretrain
    train: {steps: 60, lr: 4e-3, objective: {name: masked_patch}}
  - name: transfer
    data: {train_fraction: 0.5}
    train: {steps: 20}
arms:
  masked: {}
  pixels: {pretrain.train.objective.target: pixels}
  scratch: {pretrain.enabled: false}
  scratch_equal: {pretrain.enabled: false, transfer.train.train_flops: total_of(masked)}
seeds: 2
"""


def spec_of(**sections: dict[str, Any]) -> TrialSpec:
    written = {"model": {"name": "Mu/2"}, "data": {"name": "fake"}, "train": {"steps": 10}, **sections}
    spec = TrialSpec.model_validate(written)
    return resolve(spec, facts_of(spec.data.name))


def identity(seed: int = 0, parent: str | None = None, **sections: dict[str, Any]) -> str:
    spec = spec_of(**sections)
    parents = {} if parent is None else {"start": parent}
    return trial_id(spec, seed, facts_of(spec.data.name).fingerprint, parents)


def roles(plan: Plan) -> Counter[Role]:
    return Counter(trial.role for trial in plan.trials)


def of(plan: Plan, role: Role, arm: str | None = None) -> list[Trial]:
    return [t for t in plan.trials if t.role == role and arm in (None, t.arm)]


def test_golden_ids() -> None:
    """Where one of these changes, every user's finished trials are lost to them: raise ALGORITHM_VERSION on purpose."""
    assert ALGORITHM_VERSION == 1
    assert identity() == "52b05b7cc9c9e573"
    assert identity(seed=3, model={"name": "R14x0.25"}, train={"steps": 10, "opt": "sgd"}) == "9a8fa7bae80f6835"
    masked = {"steps": 5, "objective": {"name": "masked_patch", "target": "pixels"}}
    assert (
        identity(parent="0123456789abcdef", data={"name": "colour", "train_fraction": 0.5}, train=masked)
        == "53bcc07dd40a60ed"
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"parent": "0123456789abcdef"},
        {"data": {"name": "other"}},
        {"data": {"name": "fake", "val_fraction": 0.2}},
        {"data": {"name": "fake", "flip": True}},
        {"data": {"name": "fake", "classes": [0, 1]}},
        {"model": {"name": "Mu/4"}},
        {"model": {"name": "Mu/2", "pos_embed": "none"}},
        {"train": {"steps": 11}},
        {"train": {"steps": 10, "lr": 2e-3}},
        {"train": {"steps": 10, "precision": "bf16"}},
        {"evaluate": {"knn": 5}},
    ],
)
def test_what_enters_an_id(changed: dict[str, Any]) -> None:
    assert identity(**changed) != identity()


@pytest.mark.parametrize(
    "changed",
    [
        {"data": {"name": "torch/fake"}},  # Another name of the same images.
        {"model": {"family": "vit", "patch_size": 2}},
        {"model": {"name": "ViT-Mu/2", "norm_layer": "batch"}},
        {"train": {"images": 640}},
        {"train": {"steps": 10, "momentum": 0.5}},
        {"data": {"name": "fake", "classes": [0, 1, 2, 3]}},
    ],
)
def test_equal_functions_share_an_id(changed: dict[str, Any]) -> None:
    assert identity(**changed) == identity()


def test_the_algorithms_version_enters(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity()
    monkeypatch.setattr("vitbench.plan.trial_id.ALGORITHM_VERSION", ALGORITHM_VERSION + 1)
    assert identity() != before


def test_arm_setting_role_and_experiment_do_not_enter() -> None:
    """Two files that meet in a spec share its trials: a factor's level in one is the base of the other."""
    factor = experiment("factors: {train.lr: [1e-3, 2e-3]}\nseeds: 2\n")
    tuned = experiment("tune: {train.lr: [1e-3, 2e-3], seeds: 2}\nseeds: 2\n").model_copy(update={"name": "other"})
    ids = {t.trial_id for t in expand(Builder(factor, facts_of), {}, best).trials}
    last = rounds(tuned, top({"baseline": 2e-3}))[-1]
    assert {t.trial_id for t in of(last, "reporting")} < ids
    assert not {f.name for f in dataclasses.fields(Trial)} & {"device", "threads", "engine"}


def test_without_tuning_everything_is_known_at_once() -> None:
    made = experiment("factors:\n  model.global_pool: [token, avg]\n  model.depth: [2, 3, 4]\nseeds: 5\n")
    (plan,) = rounds(made, record)
    assert roles(plan) == {"reporting": 2 * 3 * 5}
    assert plan.num_expected == len(plan.unique()) == 30
    assert {t.seed for t in plan.trials} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("seeds", "expected"), [("{chosen: [0, 3, 7]}", [0, 3, 7]), ("{looks: [5, 8]}", [0, 1, 2, 3, 4])]
)
def test_reporting_seeds(seeds: str, expected: list[int]) -> None:
    made = experiment(f"seeds: {seeds}\n")
    assert [t.seed for t in expand(Builder(made, facts_of), {}, best).trials] == expected
    assert [t.seed for t in expand(Builder(made, facts_of), {}, best, seeds=[9]).trials] == [9]


def test_tuning_comes_first_and_its_seeds_are_its_own() -> None:
    first, last = rounds(experiment(TUNED), top({"token": 4e-3, "avg": 1e-3}))
    assert roles(first) == {"tuning": 2 * 3 * 2}
    assert not first.complete
    assert first.num_expected == 12 + 6
    assert {t.seed for t in first.trials} == {1000, 1001}
    assert last.complete
    assert roles(last) == {"tuning": 12, "reporting": 6}
    assert last.choices == {"token": {"train.lr": 4e-3}, "avg": {"train.lr": 1e-3}}
    assert {(t.arm, t.spec.train.lr) for t in of(last, "reporting")} == {("token", 4e-3), ("avg", 1e-3)}
    assert {t.seed for t in of(last, "reporting")} == {0, 1, 2}


def test_expand_is_pure() -> None:
    made, records = experiment(TUNED), dict[str, Record]()
    once, twice = (expand(Builder(made, facts_of), records, best) for _ in range(2))
    assert once == twice
    assert records == {}


def test_reporting_waits_for_the_last_tuning_trial() -> None:
    first = expand(Builder(experiment(TUNED), facts_of), {}, best)
    records = {t.trial_id: record(t) for t in first.trials[:-1]}
    assert expand(Builder(experiment(TUNED), facts_of), records, best).trials == first.trials


def test_an_arm_without_an_eligible_setting_is_named_and_the_others_report() -> None:
    def score(trial: Trial) -> Record:
        return record(trial, status="diverged" if trial.arm == "avg" and trial.role == "tuning" else "ok")

    plan = rounds(experiment(TUNED), score)[-1]
    assert plan.unfit == ("avg",)
    assert {t.arm for t in of(plan, "reporting")} == {"token"}


def test_a_setting_with_one_diverged_seed_is_out() -> None:
    def score(trial: Trial) -> Record:
        bad = trial.spec.train.lr == 4e-3 and trial.seed == 1001
        return record(trial, 100 * trial.spec.train.lr, status="diverged" if bad else "ok")

    assert rounds(experiment(TUNED), score)[-1].choices["token"] == {"train.lr": 2e-3}


@pytest.mark.parametrize(
    ("also_at", "rates"),
    [
        ("[1e-3]", {"token": {4e-3, 1e-3}, "avg": {2e-3, 1e-3}}),
        ("[best_of(token)]", {"token": {4e-3}, "avg": {2e-3, 4e-3}}),
        ("[best_of(token), best_of(avg)]", {"token": {4e-3, 2e-3}, "avg": {2e-3, 4e-3}}),
        ("[grid]", {"token": {1e-3, 2e-3, 4e-3}, "avg": {1e-3, 2e-3, 4e-3}}),
    ],
)
def test_shared_settings_are_reported_beside_each_arms_own(also_at: str, rates: dict[str, set[float]]) -> None:
    made = experiment(f"{TUNED}report: {{also_at: {{train.lr: {also_at}}}}}\n")
    first, last = rounds(made, top({"token": 4e-3, "avg": 2e-3}))
    for arm, expected in rates.items():
        found = of(last, "reporting", arm)
        assert {t.spec.train.lr for t in found} == expected
        assert len(found) == 3 * len(expected), "each setting and seed once"
    assert len(last.trials) <= first.num_expected


def test_a_grid_is_extended_at_its_edge_for_all_arms_alike() -> None:
    made = experiment(TUNED.replace("seeds: 2}", "seeds: 2, extend: 2}"))
    sizes = [len(plan.grid) for plan in rounds(made, top({"token": 2e-3, "avg": 2e-3}))]
    assert sizes == [3, 3], "nothing is extended where the best is inside"
    plans = rounds(made, top({"token": 2e-3, "avg": 5e-3}))
    assert [len(plan.grid) for plan in plans] == [3, 5, 5]
    assert [s["train.lr"] for s in plans[-1].grid] == pytest.approx([5e-4, 1e-3, 2e-3, 4e-3, 8e-3])
    assert {t.spec.train.lr for t in of(plans[-1], "tuning", "token")} == {t["train.lr"] for t in plans[-1].grid}


def test_extension_ends() -> None:
    made = experiment(TUNED.replace("seeds: 2}", "seeds: 2, extend: 2}"))
    plans = rounds(made, top({"token": 1.0, "avg": 1.0}))
    assert [len(plan.grid) for plan in plans] == [3, 5, 7, 7]
    assert plans[-1].choices["token"]["train.lr"] == pytest.approx(1.6e-2)


def test_extending_a_grid() -> None:
    assert extend([4e-3, 1e-3, 2e-3], 1) == pytest.approx([5e-4, 1e-3, 2e-3, 4e-3, 8e-3])
    assert extend(["a", "b"], 1) == ["a", "b"]
    assert extend([0.0, 0.1], 1) == [0.0, 0.1]
    assert extend([16, 32], 1) == [8, 16, 32, 64]
    assert extend([1, 2, 3], 1) == [1, 2, 3, 4]
    assert all(isinstance(value, int) for value in extend([16, 32, 48], 2))
    two = experiment("tune: {train.lr: [2e-3, 1e-3], train.weight_decay: [0.0, 0.1], seeds: 1}\n")
    assert [tuple(s.values()) for s in settings(two)] == [(1e-3, 0.0), (1e-3, 0.1), (2e-3, 0.0), (2e-3, 0.1)]


def test_equal_stages_run_once() -> None:
    plan = rounds(experiment(STAGED), record)[-1]
    stages = of(plan, "stage")
    assert {t.stage for t in stages} == {"pretrain"}
    by_arm = {arm: {t.seed: t.trial_id for t in of(plan, "stage", arm)} for arm in ("masked", "pixels", "scratch")}
    assert by_arm["scratch"] == {}
    assert not set(by_arm["masked"].values()) & set(by_arm["pixels"].values())
    for trial in of(plan, "reporting"):
        assert trial.parent == by_arm.get(trial.arm, {}).get(trial.seed)
        assert trial.stage == "transfer"


def test_a_shared_stage_is_one_trial_for_all_that_start_from_it() -> None:
    """Tuning the second stage runs the first on the tuning seeds once, whatever the number of settings and arms."""
    tuned = experiment(STAGED + "tune: {transfer.train.lr: [1e-3, 2e-3, 4e-3], seeds: 2}\n")
    first = expand(Builder(tuned, facts_of), {}, best)
    unique = Counter((t.role, t.spec.train.objective.target) for t in first.unique().values() if t.stage == "pretrain")
    assert unique == {("stage", "mean_colour"): 2, ("stage", "pixels"): 2}
    assert Counter(t.role for t in first.unique().values())["tuning"] == 4 * 3 * 2


def test_a_stage_may_be_another_files_reporting_trial() -> None:
    alone = experiment("seeds: 2\n").model_copy(
        update={"base": {"data": {"name": "fake"}, "model": {"name": "Mu/2"},
                         "train": {"steps": 60, "lr": 4e-3, "objective": {"name": "masked_patch"}}}}
    )  # fmt: skip
    staged = of(rounds(experiment(STAGED), record)[-1], "stage", "masked")
    assert {t.trial_id for t in expand(Builder(alone, facts_of), {}, best).trials} == {t.trial_id for t in staged}


def test_total_of_an_arm_is_the_compute_of_its_stages() -> None:
    from vitbench.engines.runner import flops_of

    plan = rounds(experiment(STAGED), record)[-1]
    spent = {arm: sum(flops_of(t) for t in plan.trials if t.arm == arm and t.seed == 0) for arm in
             ("masked", "scratch", "scratch_equal")}  # fmt: skip
    step = spent["scratch"] / 20
    assert 0 <= spent["masked"] - spent["scratch_equal"] < step
    assert spent["scratch_equal"] > 3 * spent["scratch"]


def test_a_seed_is_one_seed_in_every_stage() -> None:
    for trial in rounds(experiment(STAGED), record)[-1].trials:
        spec = spec_of(data={"name": "fake", "val_fraction": trial.spec.data.val_fraction})
        assert trial.seed in (0, 1)
        assert trial.data_fingerprint == facts_of(spec.data.name).fingerprint


def test_a_cell_that_cannot_be_names_experiment_arm_and_stage() -> None:
    made = experiment(STAGED.replace("{pretrain.enabled: false}", "{transfer.model.num_heads: 5}"))
    builder = Builder(made, facts_of)
    with pytest.raises(InputError, match=r"^made, arm scratch, stage transfer: model\.num_heads: 5 does not divide"):
        builder.stages(builder.arms["scratch"], {})
