"""Reading experiment files: what is accepted, every refusal word for word, spec paths. Under 2 s."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from sample_files import SAMPLE, STAGED

from vitbench.base.errors import InputError
from vitbench.spec.experiment import Experiment, Stage
from vitbench.spec.load import get_path, loads, merge, set_path, translate, validate_trial
from vitbench.spec.messages import key_path


def _loaded(text: str) -> Experiment:
    found = loads(text, "a.yaml")
    assert isinstance(found, Experiment)
    return found


def _refusal(text: str) -> str:
    with pytest.raises(InputError) as error:
        loads(text, "a.yaml")
    return str(error.value)


def test_the_sample_is_read_whole() -> None:
    found = _loaded(SAMPLE)
    assert found.base["train"] == {"epochs": 20, "batch_size": 64}
    assert found.factors == {"model.global_pool": ("token", "avg")}
    assert found.tune is not None
    assert found.tune.grid == {"train.lr": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)}
    assert found.seeds.first() == (0, 1, 2, 3, 4)
    assert [claim.id for claim in found.claims] == ["CLS-01", "CLS-02a"]


def test_stages_and_paths_into_them() -> None:
    found = _loaded(STAGED)
    assert [stage.name for stage in found.stages] == ["pretrain", "transfer"]
    assert list(found.factors) == ["pretrain.train.objective.target", "pretrain.enabled"]


REFUSALS = [
    ("model.global_pool", "model.global_pol", "12: factors.model.global_pol: unknown setting model.global_pol. "
     "Did you mean 'model.global_pool'?"),
    ("token, avg]\n", "token, avgg]\n", "12: factors.model.global_pool[1]: 'avgg' is not allowed; "
     "allowed: avg, map, token. Did you mean 'avg'?"),
    ("token, avg]\n", "token, token]\n", "12: factors.model.global_pool[1]: the level 'token' stands twice"),
    ("[token, avg]\n", "[]\n", "1: factor model.global_pool has no levels"),
    ("[token, avg]\n", "token\n", "12: factors.model.global_pool: needs a list, not 'token'"),
    ("model.global_pool:", "train.objective:", "12: factors.train.objective: train.objective is a section; set one of "
     "train.objective.name, train.objective.target, train.objective.mask_ratio"),
    ("model.global_pool:", "global_pool:", "12: factors.global_pool: unknown setting global_pool. "
     "Did you mean 'model.global_pool'?"),
    ("question:", "Question:", "6: Question: unknown key. Did you mean 'question'?"),
    ("question:", "zzz:", "6: zzz: unknown key; allowed: name, question, uses_code, base, factors, arms, exclude, "
     "stages, tune, seeds, report, claims, differs"),
    ("name: class_token_vs_gap", "name: a/b", "5: name: needs a name (letters, digits, '.', '_', '-'; at most 80; "
     "a letter or digit first), not 'a/b'"),
    ("name: class_token_vs_gap", "name: 5", "5: name: needs text, not 5"),
    ("name: class_token_vs_gap\n", "", "1: the key 'name' is missing"),
    ("name: digits", "nam: digits", "8: base.data.nam: unknown key. Did you mean 'name'?"),
    ("name: digits", "name: true", "8: base.data.name: needs text, not true"),
    ("val_fraction: 0.15", "val_fraction: 1", "8: base.data.val_fraction: needs a number below 1, not 1"),
    ("val_fraction: 0.15", "val_fraction: .nan", "8: base.data.val_fraction: needs a number, not '.nan'"),
    ("epochs: 20", "epochs: fast", "10: base.train.epochs: needs a number, not 'fast'"),
    ("epochs: 20", "epochs: 1:30", "10: base.train.epochs: needs a number, not '1:30'"),
    ("epochs: 20", "epochs: 010", "10: base.train.epochs: needs a number, not '010'"),
    ("epochs: 20", "epochs: 0", "10: base.train.epochs: needs a number above 0, not 0"),
    ("epochs: 20", "epochs: true", "10: base.train.epochs: needs a number, not true"),
    ("epochs: 20", "steps: 1e3", "10: base.train.steps: needs a whole number, not 1000.0"),
    ("epochs: 20", "epochs: 20, steps: 5", "10: base.train.steps: only one duration is allowed, not epochs and steps"),
    ("{epochs: 20, batch_size: 64}", "[epochs]", "10: base.train: needs a mapping (key: value), not ['epochs']"),
    ("train.lr: [1e-3,", "train.lr: [-1e-3,", "14: tune.train.lr[0]: needs a number above 0, not -0.001"),
    ("train.lr: [1e-3,", "train.lr: [0.002,", "14: tune.train.lr[1]: the level 0.002 stands twice"),
    ("  train.lr: [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2]\n", "", "13: tune: has no path to tune; write for example "
     "train.lr: [1e-3, 3e-3, 1e-2]"),
    ("[1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2]", "[]", "14: tune.train.lr: no levels"),
    ("  seeds: 3", "  sedes: 3", "15: tune.sedes: unknown key. Did you mean 'seeds'?"),
    ("[5, 8, 12", "[8, 5, 12", "16: seeds.looks: looks must ascend, not [8, 5, 12, 20]"),
    ("{looks: [5, 8, 12, 20]}", "[1, 1]", "16: seeds: a seed stands twice"),
    ("{looks: [5, 8, 12, 20]}", "[0, 1000]", "16: seeds: reporting seeds are 0 to 999, not 1000; "
     "`vitbench --max-trials N` allows more"),
    ("{looks: [5, 8, 12, 20]}", "0", "16: seeds: needs a number above 0, not 0"),
    ("{looks: [5, 8, 12, 20]}", "{num: 5, looks: [5, 8]}", "16: seeds: needs one of num, chosen, looks"),
    ("best_of(token), 1e-3", "best_of, 1e-3", "17: report.also_at.train.lr[0]: needs a number, not 'best_of'"),
    ("also_at: {train.lr", "also_at: {train.rl", "17: report.also_at.train.rl: unknown setting train.rl. "
     "Did you mean 'train.lr'?"),
    ("margin_points: 2.0", "margin_points: -1", "19: claims[0]: an equivalence needs margin_points above 0"),
    ("arms: [avg, token], margin", "arms: [avg, 3], margin", "19: claims[0].arms[1]: needs text or a mapping "
     "(key: value), not 3"),
    ("form: difference", "form: diference", "20: claims[1].form: 'diference' is not allowed; allowed: difference, "
     "equivalence, ordering, interaction, slope, diminishing_returns, share_of_gain, statistic, crossover, "
     "frontier_ratio, descriptive. Did you mean 'difference'?"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), REFUSALS)
def test_one_mistake_is_one_line(old: str, new: str, message: str) -> None:
    assert SAMPLE.count(old) >= 1
    assert _refusal(SAMPLE.replace(old, new, 1)) == f"a.yaml:{message}"


def test_no_is_a_name_and_not_false() -> None:
    assert _loaded(SAMPLE.replace("name: digits", "name: no")).base["data"]["name"] == "no"


def test_a_path_is_a_factor_or_tuned() -> None:
    text = SAMPLE.replace("train.lr: [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2]", "model.global_pool: [map]")
    assert "a.yaml:1: model.global_pool is both a factor and tuned; it can be one or the other" in _refusal(text)


def test_all_mistakes_come_at_once_in_file_order() -> None:
    text = SAMPLE
    for old, new in [
        ("question", "Question"),
        ("epochs: 20", "epochs: fast, epoch: 3"),
        ("avg]\n", "av]\n"),
    ]:
        text = text.replace(old, new, 1)
    assert _refusal(text).splitlines() == [
        "a.yaml:6: Question: unknown key. Did you mean 'question'?",
        "a.yaml:10: base.train.epochs: needs a number, not 'fast'",
        "a.yaml:10: base.train.epoch: unknown key. Did you mean 'epochs'?",
        "a.yaml:12: factors.model.global_pool[1]: 'av' is not allowed; allowed: avg, map, token. Did you mean 'avg'?",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("pretrain.train.objective.target", "pretrain.objective.target", "7: factors.pretrain.objective.target: unknown"
         " setting pretrain.objective.target. Did you mean 'pretrain.train.objective.target'?"),
        ("pretrain.train.objective.target", "pretain.train.lr", "7: factors.pretain.train.lr: unknown setting "
         "pretain.train.lr. Did you mean 'pretrain.train.lr'?"),
        ("[true, false]", "[yes, false]", "8: factors.pretrain.enabled[0]: needs true or false, not 'yes'"),
        ("pretrain.enabled", "enabled", "8: factors.enabled: unknown setting enabled. Did you mean "
         "'transfer.enabled'?"),
        ("train: {epochs: 2}", "train: {epoch: 2}", "5: stages[1].train.epoch: unknown key. Did you mean 'epochs'?"),
        ("epochs: 5,", "epochs: 5, steps: 3,", "4: stages[0].train.steps: only one duration is allowed, "
         "not epochs and steps"),
        ("name: transfer", "name: train", "1: a stage cannot be called train, which is a section of its spec"),
        ("name: transfer", "nam: transfer", None),
    ],
)  # fmt: skip
def test_mistakes_in_stages(old: str, new: str, message: str | None) -> None:
    lines = _refusal(STAGED.replace(old, new, 1)).splitlines()
    if message is None:
        assert "a.yaml:5: stages[1]: the key 'name' is missing" in lines
    else:
        assert f"a.yaml:{message}" in lines


def test_two_stages_of_one_name() -> None:
    text = STAGED.replace("name: transfer", "name: pretrain").replace("transfer.", "pretrain.")
    assert _refusal(text).splitlines() == [
        "a.yaml:4: stages[0].name: two stages are called 'pretrain'",
        "a.yaml:5: stages[1].name: two stages are called 'pretrain'",
    ]


def test_arms_are_checked_and_set_nothing_twice() -> None:
    text = "name: x\nfactors: {model.depth: [1, 2]}\narms:\n  a: {model.dept: 3, train.lr: x}\n  b: {model.depth: 3}\n"
    assert _refusal(text).splitlines() == [
        "a.yaml:4: arms.a.model.dept: unknown setting model.dept. Did you mean 'model.depth'?",
        "a.yaml:4: arms.a.train.lr: needs a number, not 'x'",
        "a.yaml:5: arms.b.model.depth: is a factor as well; it can be one or the other",
    ]
    tuned = "name: x\narms: {a: {train.steps: 5}, b: {}}\ntune: {train.epochs: [1, 2]}"
    assert _refusal(tuned) == "a.yaml:2: arms.a.train.steps: is tuned as well; it can be one or the other"
    assert "a.yaml:2: arms.b c" in _refusal("name: x\narms: {a: {}, b c: {}}")


def test_long_levels_that_begin_alike_are_two() -> None:
    levels = [f"folder:/{'a' * 90}/{end}" for end in "xy"]
    assert _loaded(f"name: x\nfactors: {{data.name: {levels}}}").factors["data.name"] == tuple(levels)


def test_exclude_names_settings_or_the_arm() -> None:
    text = "name: x\narms: {a: {}, b: {model.depth: 3}}\nexclude: [{arm: a, model.dept: 3}]"
    assert _refusal(text) == "a.yaml:3: exclude[0].model.dept: unknown setting model.dept. Did you mean 'model.depth'?"


def test_a_compute_level_may_be_the_total_of_an_arm() -> None:
    arms = "name: x\narms: {a: {train.train_flops: 1e12}, b: {train.train_flops: %s}}"
    assert _loaded(arms % "total_of(a)").arms["b"] == {"train.train_flops": "total_of(a)"}
    assert _refusal(arms % "all_of(a)") == "a.yaml:2: arms.b.train.train_flops: needs a number, not 'all_of(a)'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.yaml:1: an experiment is a mapping (name: ..., base: ...), not null"),
        ("- a", "a.yaml:1: an experiment is a mapping (name: ..., base: ...), not ['a']"),
        ("name: x\nname: y", "a.yaml:2: the key 'name' stands twice (first on line 1)"),
        ("suite: []", "a.yaml:1: the key 'name' is missing"),
        (
            "name: x\nsuite: [a]\nfactors: {}",
            "a.yaml:3: factors: unknown key; allowed: name, question, suite, base, tune, seeds",
        ),
    ],
)
def test_other_shapes(text: str, message: str) -> None:
    assert _refusal(text) == message


def test_budget_is_short_for_the_duration() -> None:
    text = SAMPLE.replace("epochs: 20, ", "")
    assert _loaded(text + "budget: {train_flops: 1e14}").base["train"] == {"batch_size": 64, "train_flops": 1e14}
    assert _refusal(text + "budget: {train_flops: -1}") == (
        "a.yaml:21: base.train.train_flops: needs a number above 0, not -1"
    )
    assert _refusal(text + "budget: {hours: 1}") == (
        "a.yaml:21: budget: needs one of epochs, steps, images, train_flops and its value, not {'hours': 1}"
    )
    assert _refusal("name: x\nbase: {train: null}\nbudget: {steps: 1}") == (
        "a.yaml:2: base.train: needs a mapping (key: value), not null"
    )
    assert _refusal(SAMPLE + "budget: {steps: 1}") == "a.yaml:21: budget: base.train states a duration too; keep one"


def test_set_and_get_path_leave_the_original_alone() -> None:
    before = {"train": {"epochs": 5, "objective": {"name": "classify"}}, "model": {"depth": 2}}
    after = set_path(before, "train.objective.name", "masked_patch")
    assert get_path(after, "train.objective.name") == "masked_patch"
    assert get_path(before, "train.objective.name") == "classify"
    after["model"]["depth"] = 9
    assert before["model"]["depth"] == 2
    assert set_path({}, "data.name", "fake") == {"data": {"name": "fake"}}
    with pytest.raises(KeyError):
        get_path(before, "train.lr")
    with pytest.raises(KeyError):
        get_path(before, "model.depth.x")
    with pytest.raises(InputError, match=r"^depth\.x: depth is 2, not a section$"):
        set_path(before, "model.depth.x", 1)


def test_one_duration_replaces_another_and_nothing_else() -> None:
    before = {"train": {"epochs": 5, "lr": 1.0}}
    assert set_path(before, "train.train_flops", 1e9) == {"train": {"lr": 1.0, "train_flops": 1e9}}
    assert merge(before, {"train": {"steps": 3}}) == {"train": {"lr": 1.0, "steps": 3}}
    assert merge(before, {"train": {"lr": 2.0}}) == {"train": {"epochs": 5, "lr": 2.0}}
    assert merge({"a": [1, 2], "b": {"c": 1}}, {"a": [3], "b": 4}) == {"a": [3], "b": 4}


def test_validate_trial_lays_base_stage_and_settings_over_each_other() -> None:
    stage = Stage(name="pretrain", train={"epochs": 3, "objective": {"name": "masked_patch"}})
    spec = validate_trial({"train": {"epochs": 9, "lr": 1e-3}, "model": {"depth": 2}}, stage, {"train.lr": 2e-3})
    assert (spec.train.epochs, spec.train.lr, spec.train.objective.name) == (3, 2e-3, "masked_patch")
    with pytest.raises(InputError) as error:
        validate_trial({}, stage, {"train.lr": "x", "model.dept": 1})
    assert str(error.value).splitlines() == [
        "model.dept: unknown key. Did you mean 'depth'?",
        "train.lr: needs a number, not 'x'",
    ]


def test_translate_serves_any_spec() -> None:
    with pytest.raises(ValidationError) as error:
        Stage.model_validate({"name": "a b", "enabled": "yes", "modell": {}})
    assert translate(error.value, key_path) == [
        "name: needs a name (letters, digits, '.', '_', '-'; at most 80; a letter or digit first), not 'a b'",
        "enabled: needs true or false, not 'yes'",
        "modell: unknown key. Did you mean 'model'?",
    ]
