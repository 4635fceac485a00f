"""Mechanisms by name: one canonical text, errors in one line, a user's own code, and no code where results are read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Cli

from vitbench.base.errors import InputError
from vitbench.spec import load
from vitbench.spec import mechanism as registry
from vitbench.spec.trial import ModelSpec, ObjectiveSpec

MIXER = """
from typing import ClassVar
from vitbench.model.token_mixers.depthwise import DepthwiseConvolution

class Mine(DepthwiseConvolution):
    name: ClassVar[str] = "mine"
"""
EXPERIMENT = """
name: own
uses_code: [my_mixer.py]
base:
  data: {name: fake, val_fraction: 0.2}
  model: {patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2, mlp_ratio: 2.0, global_pool: avg}
  train: {steps: 3, batch_size: 16}
factors: {model.token_mixer: [attention, mine]}
seeds: 1
"""


@pytest.fixture(autouse=True)
def _forget_what_tests_register() -> Iterator[None]:
    registry.registered("token_mixer")
    before = dict(registry._REGISTRY)
    yield
    registry._REGISTRY.clear()
    registry._REGISTRY.update(before)
    registry._NAMED.clear()


def own(folder: Path, source: str = MIXER) -> Path:
    (folder / "my_mixer.py").write_text(source)
    path = folder / "own.yaml"
    path.write_text(EXPERIMENT)
    return path


def test_a_name_and_a_mapping_have_one_text() -> None:
    assert ModelSpec(token_mixer={"name": "depthwise", "kernel_size": 3}).token_mixer == "depthwise"  # type: ignore[arg-type]
    wide = ModelSpec(token_mixer={"name": "depthwise", "kernel_size": 5})  # type: ignore[arg-type]
    assert wide.token_mixer == "depthwise(kernel_size=5)"
    assert ModelSpec(token_mixer="depthwise(kernel_size=5)") == wide
    assert ModelSpec.model_validate(wide.model_dump(mode="json", exclude_defaults=True)) == wide


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("depthwis", "'depthwis' is not allowed; allowed: attention, axial_alternate, causal, depthwise, "),
        ({"name": "depthwise", "kernal": 5}, "depthwise has no field 'kernal'; it has kernel_size"),
        ({"name": "depthwise", "kernel_size": 0}, "depthwise.kernel_size: "),
        ({"kernel_size": 5}, "needs a name"),
    ],
)
def test_what_does_not_exist_is_refused_in_one_line(value: object, message: str) -> None:
    text = f"name: x\nbase: {{model: {{token_mixer: {value if isinstance(value, str) else dict(value)}}}}}"  # type: ignore[call-overload]
    with pytest.raises(InputError) as raised:
        load.loads(text, "x.yaml")
    assert str(raised.value).startswith("x.yaml:2: base.model.token_mixer: " + message)
    assert "\n" not in str(raised.value)


def test_fields_that_one_objective_has_become_part_of_its_text() -> None:
    assert ObjectiveSpec.model_validate({"name": "masked_patch", "target": "pixels"}).name == "masked_patch"
    assert ObjectiveSpec(name="masked_patch(mask_ratio=0.75)") == ObjectiveSpec(name="masked_patch", mask_ratio=0.75)
    with pytest.raises(ValueError, match="classify has no field 'temperature'"):
        ObjectiveSpec.model_validate({"name": "classify", "temperature": 3})


def test_a_users_own_mixer_is_planned_with_its_source_in_the_ids(tmp_path: Path, cli: Cli) -> None:
    from vitbench.plan.trial_id import trial_id
    from vitbench.spec.trial import TrialSpec

    answer = cli("plan", own(tmp_path), "--results", tmp_path / "results")
    assert answer.code == 0, answer.err
    spec = TrialSpec(model=ModelSpec(token_mixer="mine"))
    first = trial_id(spec, 0, "data", None)
    assert first != trial_id(TrialSpec(model=ModelSpec(token_mixer="attention")), 0, "data", None)
    del registry._REGISTRY["token_mixer", "mine"]
    registry._NAMED.clear()
    answer = cli("plan", own(tmp_path, MIXER + "# changed\n"), "--results", tmp_path / "results")
    assert answer.code == 0, answer.err
    assert trial_id(spec, 0, "data", None) != first


def test_reading_a_results_folder_runs_no_code(tmp_path: Path) -> None:
    path = own(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w')\n" + MIXER)
    experiment = load.load(path)
    assert not isinstance(experiment, load.Suite)
    assert experiment.factors["model.token_mixer"] == ("attention", "mine")
    assert not (tmp_path / "ran").exists()
    load.load(path, run_code=True)
    assert (tmp_path / "ran").exists()


def test_code_that_is_missing_or_broken_is_refused_in_one_line(tmp_path: Path) -> None:
    path = own(tmp_path, "1 / 0")
    with pytest.raises(InputError, match=r"my_mixer\.py cannot be imported \(ZeroDivisionError"):
        load.load(path, run_code=True)
    (tmp_path / "my_mixer.py").unlink()
    with pytest.raises(InputError, match=r"uses_code: no file .*my_mixer\.py"):
        load.load(path, run_code=True)


def test_two_classes_of_one_name_are_refused(tmp_path: Path) -> None:
    clash = MIXER.replace('"mine"', '"attention"').replace("class Mine", "class Attention")
    with pytest.raises(InputError, match=r"token_mixer 'attention': .* both define it"):
        load.load(own(tmp_path, clash), run_code=True)


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, files: dict[str, str]) -> Path:
    """A package as pip leaves it, with the entry point `mine` and these modules; the path of an experiment."""
    site = folder / "site-packages"
    for path, text in {
        **{f"{name}/{module}": source for module, source in files.items()},
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{name}-1.0.dist-info/entry_points.txt": f"[vitbench.mechanisms]\nmine = {name}.mixers\n",
    }.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    monkeypatch.syspath_prepend(str(site))
    path = folder / "own.yaml"
    path.write_text(EXPERIMENT.replace("[my_mixer.py]", "[mine]"))
    return path


def test_an_installed_package_brings_a_mixer_with_the_hash_of_all_its_files(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = installed(tmp_path, monkeypatch, "their_mixers", {"__init__.py": "", "mixers.py": MIXER, "deep/part.py": ""})
    answer = cli("plan", path, "--results", tmp_path / "results")
    assert answer.code == 0, answer.err
    first = registry.class_of("token_mixer", "mine").source_sha256
    assert first is not None
    (tmp_path / "site-packages/their_mixers/deep/part.py").write_text("changed = True")
    assert registry._installed_sha256("mine", "their_mixers") != first


def test_an_entry_point_that_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = installed(tmp_path, monkeypatch, "other_mixers", {"__init__.py": "", "mixers.py": "1 / 0"})
    with pytest.raises(InputError, match=r"uses_code: mine cannot be imported \(ZeroDivisionError"):
        load.load(path, run_code=True)
    path.write_text(path.read_text().replace("[mine]", "[yours]"))
    with pytest.raises(InputError, match=r"'yours' is neither a \.py file nor an entry point .*\(mine\)"):
        load.load(path, run_code=True)


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_users_own_mixer_is_trained_in_worker_processes_too(processes: str, tmp_path: Path, cli: Cli) -> None:
    path = own(tmp_path, MIXER + f"# {processes} processes\n")  # A source of its own: it is imported once a process.
    answer = cli("run", path, "--results", tmp_path / "results", "-j", processes)
    assert answer.code == 0, answer.err
    rows = [json.loads(line) for line in (tmp_path / "results/own/records.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["ok", "ok"]
    engines = {row["run"]["engine"] for row in rows}
    assert engines == ({"workers"} if processes == "2" else {"local"})
    assert cli("verdict", "--run", "own", "--results", tmp_path / "results").code == 0


@pytest.mark.slow
def test_results_of_a_users_own_mixer_are_read_without_its_code(tmp_path: Path, cli: Cli) -> None:
    """What needs the network itself says that it needs the code, in one line, and takes it by `--code`."""
    path, results = own(tmp_path, MIXER + "# read without it\n"), tmp_path / "results"
    assert cli("run", path, "--results", results, "-j", "1").code == 0
    rows = [json.loads(line) for line in (results / "own/records.jsonl").read_text().splitlines()]
    trial = next(row["trial_id"] for row in rows if row["arm"] == "mine")
    registry._REGISTRY.pop(("token_mixer", "mine"))
    registry._LOADED.clear()
    registry._NAMED.clear()
    for name in [name for name in sys.modules if name.startswith("vitbench_user_")]:
        del sys.modules[name]
    for words in (("verdict", "--run", "own"), ("report", "own"), ("clean",), ("doctor",)):
        answer = cli(*words, "--results", results)
        assert answer.code == 0, answer.out + answer.err
    assert "uses your code" in cli("status", "own", "--results", results).err
    answer = cli("export", trial, "--to", tmp_path / "x", "--results", results)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert "'mine' is not allowed" in answer.err
    assert "--code FILE loads a mechanism of yours" in answer.err
    answer = cli("export", trial, "--to", tmp_path / "x", "--results", results, "--code", tmp_path / "my_mixer.py")
    assert "model.token_mixer mine; its ViT has no such part" in answer.err
