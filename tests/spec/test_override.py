"""`--data`, `--seeds`, `--set` and suites: what holds over what, and what is refused, word for word. Under 2 s."""

from __future__ import annotations

import pytest

from vitbench.base.errors import InputError
from vitbench.spec.experiment import Experiment, Suite
from vitbench.spec.load import apply_suite, loads, override
from vitbench.spec.overrides import patches
from vitbench.spec.yaml import read

PLAIN = """\
name: e
base: {data: {name: digits}, model: {name: Mu/2, depth: 2}, train: {epochs: 20}}
factors: {model.global_pool: [token, avg]}
tune: {train.lr: [1e-3, 1e-2], seeds: 3}
claims: [{id: C, form: difference, arms: [avg, token], above_points: 0, parts: []}]
"""
STAGED = """\
name: e
base: {model: {name: ViT-Ti/4}}
stages:
- {name: pretrain, data: {name: fake, img_size: 32}, train: {epochs: 5}}
- {name: transfer, train: {lr: 1e-3}}
arms: {scratch: {pretrain.enabled: false}, whole: {transfer.model.patch_size: 4}}
"""


def _experiment(text: str = PLAIN) -> Experiment:
    found = loads(text, "e.yaml")
    assert isinstance(found, Experiment)
    return found


def _over(experiment: Experiment, *sets: str, data: str | None = None, seeds: str | None = None) -> Experiment:
    return override(experiment, data=data, seeds=seeds, sets=sets)


def _refusal(experiment: Experiment, *sets: str, data: str | None = None, seeds: str | None = None) -> str:
    with pytest.raises(InputError) as error:
        _over(experiment, *sets, data=data, seeds=seeds)
    return str(error.value)


def test_nothing_asked_changes_nothing() -> None:
    for text in (PLAIN, STAGED):
        assert _over(_experiment(text)) == _experiment(text)


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [("5", (0, 1, 2, 3, 4)), ("0-4", (0, 1, 2, 3, 4)), ("0,3,7", (0, 3, 7)), ("0-2, 7", (0, 1, 2, 7)), ("7-7", (7,))],
)
def test_seeds(seeds: str, expected: tuple[int, ...]) -> None:
    changed = _over(_experiment(PLAIN + "seeds: {looks: [5, 8]}"), seeds=seeds)
    assert changed.seeds.first() == expected
    assert changed.seeds.looks is None
    assert changed.tune == _experiment().tune


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ("", "needs a number of seeds (5), a range (0-4) or a list (0,3,7)"),
        ("five", "needs a number of seeds (5), a range (0-4) or a list (0,3,7)"),
        ("-1", "needs a number of seeds (5), a range (0-4) or a list (0,3,7)"),
        ("1,,2", "needs a number of seeds (5), a range (0-4) or a list (0,3,7)"),
        ("99999", "needs a number of seeds (5), a range (0-4) or a list (0,3,7)"),
        ("0", "needs a number above 0, not 0"),
        ("4-0", "no seeds"),
        ("1,1", "a seed stands twice"),
        ("0-3,2", "a seed stands twice"),
        ("1000,1", "reporting seeds are 0 to 999, not 1000; `vitbench --max-trials N` allows more"),
        ("1001", "reporting seeds are 0 to 999, not 1001; `vitbench --max-trials N` allows more"),
    ],
)
def test_seeds_that_cannot_be(seeds: str, message: str) -> None:
    assert _refusal(_experiment(), seeds=seeds) == f"--seeds {seeds}: {message}"


def test_set_is_typed_dotted_repeatable_and_the_last_holds() -> None:
    changed = _over(
        _experiment(), "model.depth=3", "train.weight_decay=1e-3", "evaluate.few_shot=[1, 5]", "model.depth=4"
    )
    assert changed.base["model"] == {"name": "Mu/2", "depth": 4}
    assert changed.base["train"] == {"epochs": 20, "weight_decay": 1e-3}
    assert changed.base["evaluate"] == {"few_shot": [1, 5]}
    assert _over(_experiment(), "train.clip_grad=null").base["train"]["clip_grad"] is None
    assert _over(_experiment(), "data.name=folder:/a=b").base["data"]["name"] == "folder:/a=b"


def test_set_of_one_duration_replaces_another() -> None:
    assert _over(_experiment(), "train.train_flops=1e9").base["train"] == {"train_flops": 1e9}
    assert _over(_experiment(STAGED), "pretrain.train.steps=7").stages[0].train == {"steps": 7}


def test_set_of_the_experiments_own_keys() -> None:
    changed = _over(_experiment(), "tune.seeds=5", "tune.extend=1", "report.metric=val_top1_percent", "seeds=[4, 2]")
    assert changed.tune is not None
    assert (changed.tune.seeds, changed.tune.extend) == (5, 1)
    assert changed.tune.grid == {"train.lr": (1e-3, 1e-2)}
    assert changed.report.metric == "val_top1_percent"
    assert changed.seeds.first() == (4, 2)
    assert _over(_experiment(), "seeds=3").seeds.first() == (0, 1, 2)
    assert _over(_experiment(), "seeds.looks=[5, 8]").seeds.looks == (5, 8)


REFUSALS = [
    ("model.global_pool=avg", "model.global_pool is a factor of e (model.global_pool: ['token', 'avg']); "
     "to change it, write a file with `extends:`"),
    ("train.lr=1", "train.lr is tuned in e (train.lr: [0.001, 0.01]); to change it, write a file with `extends:`"),
    ("model.dept=3", "unknown setting model.dept. Did you mean 'model.depth'?"),
    ("lr=3", "unknown setting lr. Did you mean 'train.lr'?"),
    ("base.model.depth=3", "unknown setting base.model.depth. Did you mean 'model.depth'?"),
    ("tune=3", "tune is a section; set one of tune.by, tune.first, tune.alpha, tune.seeds, tune.extend"),
    ("train.objective=x", "train.objective is a section; set one of train.objective.name, train.objective.target, "
     "train.objective.mask_ratio"),
    ("model.depth=x", "needs a whole number, not 'x'"),
    ("train.epochs=0", "needs a number above 0, not 0"),
    ("train.epochs=.nan", "needs a number, not '.nan'"),
    ("train.opt=adam", "'adam' is not allowed; allowed: adamw, sgd. Did you mean 'adamw'?"),
    ("tune.seeds=0", "needs a number above 0, not 0"),
    ("report.metric=3", "needs text, not 3"),
    ("seeds=[1, 1]", "a seed stands twice"),
    ("seeds.num=x", "needs a whole number, not 'x'"),
    ("+model.depth=3", "'+' is Hydra's; write KEY=VALUE without it"),
    ("++model.depth=3", "'+' is Hydra's; write KEY=VALUE without it"),
    ("~model.depth", "'~' is Hydra's; keys cannot be deleted; KEY=null may do the same"),
    ("model.depth:3", "needs KEY=VALUE, for example --set model.depth=3"),
    ("model.depth: 3", "needs KEY=VALUE, for example --set model.depth=3"),
    ("model.depth", "needs KEY=VALUE, for example --set train.epochs=5"),
    ("", "needs KEY=VALUE, for example --set train.epochs=5"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REFUSALS)
def test_set_that_cannot_be(text: str, message: str) -> None:
    assert _refusal(_experiment(), text) == f"--set {text}: {message}"


def test_set_of_bad_yaml_names_the_option() -> None:
    assert _refusal(_experiment(), "model.depth=[1").startswith("--set model.depth=[1:1: not YAML: ")
    assert _refusal(_experiment(), "model.name=*a").startswith("--set model.name=*a:1: anchors and aliases")


def test_all_refusals_come_at_once() -> None:
    lines = _refusal(_experiment(), "model.depth=x", "train.epochs=3", "lr=3").splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["--set model.depth=x", "--set lr=3"]


def test_a_factor_that_is_a_duration_forbids_the_other_durations() -> None:
    experiment = _experiment("name: e\nfactors: {train.epochs: [1, 2]}")
    assert "train.steps is a factor of e (train.epochs: [1, 2])" in _refusal(experiment, "train.steps=5")


def test_set_where_an_arm_or_a_stage_has_its_own() -> None:
    staged = _experiment(STAGED)
    assert _refusal(staged, "transfer.model.patch_size=2") == (
        "--set transfer.model.patch_size=2: transfer.model.patch_size is set by the arm whole; "
        "to change it, write a file with `extends:`"
    )
    assert _refusal(staged, "train.steps=5") == (
        "--set train.steps=5: the stage pretrain sets this path itself; write pretrain.train.steps"
    )
    assert _over(staged, "transfer.train.lr=3e-3").stages[1].train == {"lr": 3e-3}
    assert _over(staged, "transfer.enabled=false").stages[1].enabled is False
    assert _over(staged, "train.weight_decay=0.1").base["train"] == {"weight_decay": 0.1}


def test_an_experiment_that_tunes_nothing_has_no_tuning_seeds() -> None:
    assert _refusal(_experiment(STAGED), "tune.seeds=3") == "--set tune.seeds=3: e has no `tune` section"


def test_other_data_bring_their_own_patch_size() -> None:
    changed = _over(_experiment(), data="cifar10")
    assert changed.base["data"] == {"name": "cifar10"}
    assert changed.base["model"] == {"name": "Mu", "depth": 2}
    assert _over(_experiment(), data="digits").base["model"]["name"] == "Mu/2"
    again = _over(_experiment(), "model.patch_size=8", data="cifar10")
    assert again.base["model"] == {"name": "Mu", "depth": 2, "patch_size": 8}


def test_other_data_keep_what_the_file_says() -> None:
    """The image size always, and a patch that suits the new images."""
    sized = _experiment("name: e\nbase: {data: {img_size: 16}, model: {name: Mu/4}, train: {epochs: 1}}")
    assert _over(sized, data="cifar10").base == {
        "data": {"name": "cifar10", "img_size": 16}, "model": {"name": "Mu/4"}, "train": {"epochs": 1}
    }  # fmt: skip
    for model in ("{name: Mu/4}", "{patch_size: 4}"):
        before = _experiment(f"name: e\nbase: {{model: {model}}}\narms: {{a: {{}}, b: {{model.name: Ti/4}}}}")
        kept = override(before, data="cifar10", seeds=None, sets=(), suits=lambda patch: patch == 4)
        assert kept.base["model"] == before.base["model"]
        assert kept.arms == before.arms
        changed = override(before, data="cifar10", seeds=None, sets=(), suits=lambda patch: patch == 2)
        assert patches(changed) == set()
        assert patches(kept) == patches(before) == {4}


@pytest.mark.parametrize("name", ["R26x1", "R26x1+ViT-Ti/16"])
def test_other_data_keep_names_without_a_patch(name: str) -> None:
    experiment = _experiment(f"name: e\nbase: {{model: {{name: {name}}}}}")
    assert _over(experiment, data="cifar10").base["model"]["name"] == name


def test_other_data_reach_stages_and_arms() -> None:
    changed = _over(_experiment(STAGED), data="cifar10")
    assert changed.base == {"data": {"name": "cifar10"}, "model": {"name": "ViT-Ti"}}
    assert changed.stages[0].data == {"name": "fake", "img_size": 32}
    assert changed.arms == {"scratch": {"pretrain.enabled": False}, "whole": {}}


@pytest.mark.parametrize(
    "varying",
    [
        "factors: {model.patch_size: [2, 4]}",
        "factors: {model.name: [Mu/2, Ti/2]}",
        "factors: {data.img_size: [8, 16]}",
        "arms: {a: {model.patch_size: 2}, b: {model.patch_size: 4}}",
        "arms: {a: {model.name: Mu/2}, b: {model.name: Mu/4}}",
    ],
)
def test_a_patch_that_the_file_varies_stays(varying: str) -> None:
    base = "name: e\nbase: {model: {name: Mu/2}, data: {img_size: 8}}\n"
    before = _experiment(base + varying)
    changed = _over(before, data="cifar10")
    assert changed.base == {"model": {"name": "Mu/2"}, "data": {"img_size": 8, "name": "cifar10"}}
    assert (changed.arms, changed.factors) == (before.arms, before.factors)
    unsized = "name: e\nbase: {model: {name: Mu/2}}\n"
    control = _over(_experiment(unsized + "arms: {a: {model.name: Mu/2}, b: {model.name: Ti/2}}"), data="cifar10")
    assert control.base == {"model": {"name": "Mu"}, "data": {"name": "cifar10"}}
    assert control.arms == {"a": {"model.name": "Mu"}, "b": {"model.name": "Ti"}}


def test_data_that_the_file_varies_cannot_be_overridden() -> None:
    experiment = _experiment("name: e\nfactors: {data.name: [digits, fake]}")
    assert _refusal(experiment, data="cifar10") == (
        "--data cifar10: data.name is a factor of e (data.name: ['digits', 'fake'])"
    )


def _suite(text: str) -> Suite:
    return Suite.model_validate({"name": "s", "suite": [], **read(text or "{}", "s.yaml").value})


def test_a_suite_overrides_its_members_and_the_command_line_the_suite() -> None:
    suite = _suite("base: {train: {epochs: 9}, model: {depth: 3}}\ntune: {train.lr: [1e-4], seeds: 1}\nseeds: 2")
    changed = apply_suite(suite, _experiment())
    assert changed.base["train"] == {"epochs": 9}
    assert changed.base["model"] == {"name": "Mu/2", "depth": 3}
    assert changed.tune is not None
    assert (changed.tune.grid, changed.tune.seeds) == ({"train.lr": (1e-4,)}, 1)
    assert changed.seeds.first() == (0, 1)
    assert _over(changed, "train.steps=1", seeds="3").base["train"] == {"steps": 1}
    assert apply_suite(_suite(""), _experiment()) == _experiment()


def test_a_suites_duration_holds_for_members_that_count_in_its_unit() -> None:
    suite = _suite("base: {train: {steps: 9, weight_decay: 0.1}}")
    assert apply_suite(suite, _experiment()).base["train"] == {"epochs": 20, "weight_decay": 0.1}
    both = _suite("base: {train: {steps: 9, epochs: 17}}")
    assert apply_suite(both, _experiment()).base["train"] == {"epochs": 17}
    assert apply_suite(both, _experiment("name: e\nbase: {train: {steps: 300}}")).base["train"] == {"steps": 9}


@pytest.mark.parametrize(
    ("text", "grid"),
    [
        (
            "name: e\ntune: {train.clip_grad: [0.5, 1], train.lr: [1, 2]}",
            {"train.clip_grad": (0.5, 1), "train.lr": (1e-4,)},
        ),
        (STAGED + "tune: {transfer.train.lr: [1, 2]}", {"transfer.train.lr": (1e-5,)}),
        (STAGED + "tune: {pretrain.train.lr: [1, 2]}", {"pretrain.train.lr": (1e-4,)}),
    ],
)
def test_a_suite_tunes_what_its_members_tune_in_whichever_stage(text: str, grid: dict[str, tuple[float, ...]]) -> None:
    suite = _suite("tune: {train.lr: [1e-4], transfer.train.lr: [1e-5], seeds: 1}")
    tune = apply_suite(suite, _experiment(text)).tune
    assert tune is not None
    assert (tune.grid, tune.seeds) == (grid, 1)
    assert apply_suite(suite, _experiment("name: e")).tune is None
