"""Files and names: `extends`, suites and their members, where a name is looked for, headers. Under 2 s."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_files import SAMPLE, STAGED

from vitbench.base.errors import InputError
from vitbench.spec.experiment import Experiment, Suite
from vitbench.spec.load import available, find, header, load, loads


def _refusal(text: str, source: Path) -> str:
    with pytest.raises(InputError) as error:
        loads(text, str(source))
    return str(error.value)


def test_extends_merges_deeply_with_the_file_at_hand_last(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(SAMPLE)
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "child.yaml"
    file.write_text(
        "extends: ../base.yaml\nname: child\nbase: {train: {train_flops: 1e12}, model: {depth: 3}}\nseeds: 4"
    )
    found = load(file)
    assert isinstance(found, Experiment)
    assert found.name == "child"
    assert found.base["train"] == {"batch_size": 64, "train_flops": 1e12}
    assert found.base["model"] == {"name": "Mu/2", "depth": 3}
    assert found.seeds.first() == (0, 1, 2, 3)
    assert found.factors == {"model.global_pool": ("token", "avg")}


def test_mistakes_are_told_in_the_file_that_makes_them(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("name: x\nbase: {train: {lr: fast}}")
    file = tmp_path / "child.yaml"
    file.write_text("extends: base.yaml\nbase: {model: {dept: 3}}")
    assert _refusal(file.read_text(), file).splitlines() == [
        f"{tmp_path}/base.yaml:2: base.train.lr: needs a number, not 'fast'",
        f"{tmp_path}/child.yaml:2: base.model.dept: unknown key. Did you mean 'depth'?",
    ]


def test_extends_in_a_circle_or_of_nothing(tmp_path: Path) -> None:
    for name, target in [("a", "b.yaml"), ("b", "c.yaml"), ("c", "a.yaml"), ("d", "d.yaml"), ("e", "f.yaml")]:
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\nextends: {target}")
    for name, message in [
        (
            "a",
            f"{tmp_path}/c.yaml:2: extends: files extend each other in a circle: a.yaml -> b.yaml -> c.yaml -> a.yaml",
        ),
        ("d", f"{tmp_path}/d.yaml:2: extends: files extend each other in a circle: d.yaml -> d.yaml"),
        ("e", f"{tmp_path}/e.yaml:2: extends: no such file: {tmp_path}/f.yaml"),
    ]:
        with pytest.raises(InputError) as error:
            load(tmp_path / f"{name}.yaml")
        assert str(error.value) == message
    assert (
        _refusal("extends: 3", Path("a.yaml")) == "a.yaml:1: extends: needs a .yaml file, relative to this one, not 3"
    )


def test_a_suite_and_its_members(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(SAMPLE)
    file = tmp_path / "all.yaml"
    file.write_text("name: all\nsuite: [one]\nbase: {train: {epochs: 2}}\ntune: {train.lr: [1e-3], seeds: 1}\nseeds: 2")
    found = load(file)
    assert isinstance(found, Suite)
    assert found.suite == ("one",)
    file.write_text("name: all\nsuite:\n- one\n- oen\nbase: {train: {epoch: 2}}")
    assert _refusal(file.read_text(), file).splitlines() == [
        f"{file}:4: suite[1]: no experiment 'oen': there is no such file or name. `vitbench list` shows all",
        f"{file}:5: base.train.epoch: unknown key. Did you mean 'epochs'?",
    ]


def test_a_suite_may_tune_what_some_member_tunes(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text(SAMPLE)
    (tmp_path / "staged.yaml").write_text(STAGED)
    (tmp_path / "broken.yaml").write_text("a: 1\na: 2")
    file = tmp_path / "all.yaml"
    suite = "name: all\nsuite: [plain, staged]\ntune:\n  train.lr: [1e-3]\n  transfer.train.lr: [1e-3]\n"
    assert isinstance(loads(suite, str(file)), Suite)
    for old, new, message in [
        ("transfer.t", "transfr.t", "5: tune.transfr.train.lr: no member tunes transfr.train.lr. "
         "Did you mean 'transfer.train.lr'?"),
        ("transfer.train", "trian", "5: tune.trian.lr: unknown setting trian.lr. Did you mean 'train.lr'?"),
        ("staged", "all", "2: suite[1]: all is itself a suite; name its experiments"),
        ("staged", "broken", f"2: suite[1]: {tmp_path}/broken.yaml:2: the key 'a' stands twice (first on line 1)"),
    ]:  # fmt: skip
        file.write_text(suite)
        assert f"{file}:{message}" in _refusal(suite.replace(old, new), file).splitlines()


def test_names_are_found_as_paths_then_here_then_in_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = find("smoke")
    assert shipped.is_absolute()
    assert isinstance(load(shipped), Experiment)
    (tmp_path / "experiments" / "paper").mkdir(parents=True)
    for name in ("smoke", "paper/patch_size"):
        (tmp_path / "experiments" / f"{name}.yaml").write_text(SAMPLE)
    assert find("smoke") == Path("experiments/smoke.yaml")
    assert find("paper/patch_size.yaml") == Path("experiments/paper/patch_size.yaml")
    assert available()["paper/patch_size"] == Path("experiments/paper/patch_size.yaml")
    assert available()["smoke"] == Path("experiments/smoke.yaml")
    (tmp_path / "smoke.yaml").write_text(SAMPLE)
    assert find("smoke") == Path("smoke.yaml")
    assert find(str(tmp_path / "smoke")) == tmp_path / "smoke.yaml"


@pytest.mark.parametrize("name", ["patchsize", "paper/patch_sise", "pach_size.yaml"])
def test_an_unknown_name_brings_the_nearest(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments" / "paper").mkdir(parents=True)
    (tmp_path / "experiments" / "paper" / "patch_size.yaml").write_text(SAMPLE)
    with pytest.raises(InputError, match=r"Did you mean '.*patch_size'.*\? `vitbench list` shows all$"):
        find(name)


@pytest.mark.parametrize("name", ["", "x" * 5000, "a\0b", "."])
def test_strange_names_are_unknown(name: str) -> None:
    with pytest.raises(InputError, match=r"^no experiment "):
        find(name)


def test_header_says_claim_run_cost_and_result(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(SAMPLE)
    assert header(file) == {
        "claim": "ViT App. D.3, Fig. 9: the class token and average pooling are equal once each has its own "
        "learning rate.",
        "run": "vitbench run class_token_vs_gap",
        "cost": "30 tuning trials, 4 minutes",
        "came_out": "inconclusive",
    }
    file.write_text("name: x\n# Run: not in the head")
    assert header(file) == {"claim": "", "run": "", "cost": "", "came_out": ""}


@pytest.mark.slow
def test_every_shipped_file_loads_and_says_its_claim_command_and_cost() -> None:
    found = available()
    assert "smoke" in found
    for name, path in found.items():
        load(path)
        said = header(path)
        assert all(said[label] for label in ("claim", "run", "cost")), name
