"""Starting from weights: they arrive, they count by what they are, not by where they lie, and misfits are refused."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Answer, Cli
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, facts
from vitbench.engines.execute import execute
from vitbench.engines.options import Options
from vitbench.model.build import build, initialise, load_weights
from vitbench.model.parameters import parameters
from vitbench.model.weights.start import fetched, misfit, read_shapes, tensors_by_name, weights_sha256
from vitbench.model.weights.transfer import interpolate_grid
from vitbench.plan.resolve import resolve
from vitbench.plan.trials import Builder
from vitbench.spec.experiment import Experiment
from vitbench.spec.load import load
from vitbench.spec.trial import DataSpec, ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec
from vitbench.store.record import Record
from vitbench.store.trials import Store
from vitbench.train import checkpoint

TIMM_NAME = "vitbench_made"
SIZES: dict[str, Any] = {"patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
STILL = "{steps: 1, batch_size: 8, lr: 1.0e-12, weight_decay: 0.0}"
FILE = """
name: started
base:
  data: {{name: fake, img_size: {img_size}}}
  model: {{patch_size: 2, embed_dim: 16, depth: {depth}, num_heads: 2, mlp_ratio: 2.0, init_from: "{start}"}}
  train: {train}
seeds: 1
"""
default_cfgs: dict[str, dict[str, Any]] = {}
"""Where timm looks for the weights of a model that this file registers."""


def state(seed: int = 0, num_classes: int = 7) -> dict[str, Tensor]:
    """Noise in the shapes of the tiny ViT on the fake images."""
    spec = TrialSpec(model=ModelSpec(**SIZES), data=DataSpec(name="fake"), train=TrainSpec(steps=1))
    resolved = resolve(spec, facts("fake", DataOptions())).model.model_copy(update={"num_classes": num_classes})
    generator = torch.Generator().manual_seed(seed)
    return {p.name: torch.randn(p.shape, generator=generator) for p in parameters(resolved, ObjectiveSpec())}


def written(path: Path, start: str, img_size: int = 8, depth: int = 2, train: str = STILL) -> Path:
    path.write_text(FILE.format(start=start, img_size=img_size, depth=depth, train=train))
    return path


def ids(path: Path) -> list[str]:
    """The trial ids of an experiment file."""
    experiment = load(path)
    assert isinstance(experiment, Experiment)
    builder = Builder(experiment, lambda name: facts(name, DataOptions()))
    return [t.trial_id for arm in builder.arms.values() for t in builder.trials(arm, {}, 0, "reporting")]


def ended(root: Path) -> tuple[dict[str, Tensor], Record]:
    """Final weights and record of the only trial."""
    store = Store(root)
    (folder,) = store.trials.iterdir()
    record = store.read(folder.name)
    assert record is not None
    return load_file(store.weights(folder.name)), record


def assert_started_from(given: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """All but the head arrived (a step of 1e-12 moves nothing), and the head did not."""
    for name, tensor in found.items():
        if name.startswith("head."):
            assert tensor.abs().max() < 1e-6
        else:
            torch.testing.assert_close(tensor, given[name], rtol=0, atol=1e-6)


def test_hash_is_that_of_the_record(tmp_path: Path) -> None:
    given = state()
    path = tmp_path / "a.safetensors"
    path.write_bytes(checkpoint.pack(given))
    assert weights_sha256(path) == checkpoint.weights_sha256(given)
    backwards = dict(reversed(given.items()))
    save_file(backwards, tmp_path / "b.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "b.safetensors").read_bytes() != path.read_bytes()
    assert weights_sha256(tmp_path / "b.safetensors") == weights_sha256(path)


@pytest.mark.parametrize("change", ["value", "name", "shape", "type"])
def test_hash_counts(change: str, tmp_path: Path) -> None:
    given = {"a": torch.zeros(2, 3), "b": torch.ones(2)}
    other = {**given}
    if change == "value":
        other["b"] = torch.tensor([1.0, 1.5])
    elif change == "name":
        other = {"a": given["a"], "c": given["b"]}
    else:
        other["a"] = torch.zeros(3, 2) if change == "shape" else torch.zeros(2, 3, dtype=torch.float64)
    save_file(given, tmp_path / "a.safetensors")
    save_file(other, tmp_path / "b.safetensors")
    assert weights_sha256(tmp_path / "a.safetensors") != weights_sha256(tmp_path / "b.safetensors")
    assert weights_sha256(tmp_path / "b.safetensors") == checkpoint.weights_sha256(other)


def test_an_overwritten_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    before = weights_sha256(path)
    save_file({"a": torch.ones(3)}, path)
    assert weights_sha256(path) != before


def test_identity_is_the_weights_not_the_path(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "one.safetensors")
    (tmp_path / "folder").mkdir()
    save_file(state(), tmp_path / "folder" / "model.safetensors", metadata={"format": "pt"})
    save_file(state(seed=1), tmp_path / "other.safetensors")
    starts = [tmp_path / "one.safetensors", tmp_path / "folder", tmp_path / "other.safetensors"]
    one, moved, other = (ids(written(tmp_path / "x.yaml", str(start))) for start in starts)
    assert one == moved != other
    fresh = (tmp_path / "x.yaml").read_text().replace(f', init_from: "{starts[-1]}"', "")
    assert "init_from" not in fresh
    (tmp_path / "x.yaml").write_text(fresh)
    assert ids(tmp_path / "x.yaml") not in (one, other)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_training_starts_there(kind: str, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    save_file(state(), tmp_path / "given" / "model.safetensors")
    start = tmp_path / "given" / ("model.safetensors" if kind == "file" else "")
    answer = cli("run", written(tmp_path / "x.yaml", str(start)), "--results", tmp_path / "out", "-j", "1", "-q")
    assert answer.code == 0, answer.err
    assert_started_from(state(), ended(tmp_path / "out")[0])


def test_positions_are_interpolated(cli: Cli, tmp_path: Path) -> None:
    save_file(state(), tmp_path / "given.safetensors")
    path = written(tmp_path / "x.yaml", str(tmp_path / "given.safetensors"), img_size=16)
    assert cli("run", path, "--results", tmp_path / "out", "-j", "1", "-q").code == 0
    expected = {**state(), "pos_embed": interpolate_grid(state()["pos_embed"], 1 + 8 * 8, 1)}
    assert_started_from(expected, ended(tmp_path / "out")[0])


def test_masked_patches_can_be_predicted_from_a_classifier(cli: Cli, tmp_path: Path) -> None:
    save_file(state(), tmp_path / "given.safetensors")
    train = STILL.replace("{", "{objective: {name: masked_patch}, ")
    path = written(tmp_path / "x.yaml", str(tmp_path / "given.safetensors"), train=train)
    path.write_text(path.read_text() + "report: {metric: num_steps}\n")
    answer = cli("run", path, "--results", tmp_path / "out", "-j", "1", "-q")
    assert answer.code == 0, answer.err
    found, record = ended(tmp_path / "out")
    assert record.status == "ok", answer.err
    torch.testing.assert_close(found["blocks.1.mlp.fc1.weight"], state()["blocks.1.mlp.fc1.weight"])


@pytest.fixture
def zoo(tmp_path: Path) -> Iterator[dict[str, Tensor]]:
    """A model in timm's registry whose pre-trained weights are a file, as downloaded ones would be."""
    import timm
    from timm.models import register_model
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    made = VisionTransformer(img_size=8, in_chans=1, num_classes=7, **SIZES)
    save_file(made.state_dict(), tmp_path / "zoo.safetensors")

    def entry(pretrained: bool = False, **kwargs: Any) -> Any:
        sizes = {"img_size": 8, **SIZES, **kwargs}
        return timm.models.build_model_with_cfg(VisionTransformer, TIMM_NAME, pretrained, **sizes)

    entry.__name__ = TIMM_NAME
    default_cfgs[TIMM_NAME] = {
        "file": str(tmp_path / "zoo.safetensors"), "num_classes": 7, "input_size": (1, 8, 8), "classifier": "head",
    }  # fmt: skip
    if not timm.is_model(TIMM_NAME):
        register_model(entry)
    timm.models._registry._model_pretrained_cfgs[TIMM_NAME] = replace(
        timm.models._registry._model_pretrained_cfgs[TIMM_NAME], file=str(tmp_path / "zoo.safetensors")
    )
    fetched(f"timm:{TIMM_NAME}").unlink(missing_ok=True)
    yield made.state_dict()
    fetched(f"timm:{TIMM_NAME}").unlink(missing_ok=True)


def test_timm_weights_are_fetched_once(
    cli: Cli, zoo: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "x.yaml", f"timm:{TIMM_NAME}")
    with pytest.raises(InputError, match="was not fetched yet"):
        ids(path)
    assert cli("run", path, "--results", tmp_path / "out", "-j", "1", "-q").code == 0
    assert_started_from(zoo, ended(tmp_path / "out")[0])
    monkeypatch.setitem(sys.modules, "timm", None)
    assert cli("plan", path, "--results", tmp_path / "out").code == 0
    as_file = written(tmp_path / "y.yaml", str(tmp_path / "zoo.safetensors"))
    assert ids(path) == ids(as_file)


def refused(cli: Cli, root: Path, start: str | Path, depth: int = 2) -> Answer:
    """The answer of a run that must end before any training, with one line."""
    path = written(root / "x.yaml", str(start), depth=depth)
    answer = cli("run", path, "--results", root / "out", "-j", "1")
    assert answer.code == 2, answer.out
    assert not (root / "out" / "trials").exists()
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1
    return answer


def test_missing_weights_are_refused(cli: Cli, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere.safetensors"
    assert f"model.init_from: no file {nowhere}; allowed are" in refused(cli, tmp_path, nowhere).err
    assert f"no file {tmp_path / 'model.safetensors'}" in refused(cli, tmp_path, tmp_path).err


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x02\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0[]"])
def test_broken_files_are_refused(content: bytes, cli: Cli, tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(content)
    assert f"{broken}: not readable as safetensors weights" in refused(cli, tmp_path, broken).err


def test_half_a_file_is_refused(cli: Cli, tmp_path: Path) -> None:
    half = tmp_path / "half.safetensors"
    whole = checkpoint.pack(state())
    half.write_bytes(whole[: len(whole) // 2])
    assert "its length is not what its header says" in refused(cli, tmp_path, half).err


def test_other_shapes_are_refused(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "given.safetensors"
    save_file(state(), path)
    assert f"model.init_from: {path}: weights: they lack blocks.2." in refused(cli, tmp_path, path, depth=3).err
    assert "weights: the model has no blocks.1." in refused(cli, tmp_path, path, depth=1).err


def test_unknown_and_absent_timm(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = refused(cli, tmp_path, "timm:vit_tiny_patch16_244")
    assert "timm has no pre-trained weights of that name. Did you mean 'vit_tiny_patch16_224'" in unknown.err
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "needs timm: pip install 'vitbench[timm]'" in refused(cli, tmp_path, "timm:vit_tiny_patch16_224").err


def test_weights_that_change_after_the_plan_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "given.safetensors"
    save_file(state(), path)
    experiment = load(written(tmp_path / "x.yaml", str(path)))
    assert isinstance(experiment, Experiment)
    builder = Builder(experiment, lambda name: facts(name, DataOptions()))
    (trial,) = builder.trials(next(iter(builder.arms.values())), {}, 0, "reporting")
    save_file({**state(), "pos_embed": torch.ones(1, 17, 16)}, path)
    path.touch()
    with pytest.raises(InputError, match="changed after planning"):
        execute([trial], Options(tmp_path / "out", DataOptions()), lambda event: None)
    assert Store(tmp_path / "out").read(trial.trial_id) is None


def test_the_check_without_torch_is_the_one_with_torch(tmp_path: Path) -> None:
    """What the plan lets through is loaded, and what it refuses is refused, in the same words."""
    path = tmp_path / "given.safetensors"
    save_file(state(), path)
    for fields in ({}, {"depth": 3}, {"pos_embed": "learned_2d"}, {"no_embed_class": True}, {"patch_size": 4}):
        spec = TrialSpec(model=ModelSpec(**{**SIZES, **fields}), data=DataSpec(name="fake"), train=TrainSpec(steps=1))
        model = resolve(spec, facts("fake", DataOptions())).model
        problem = misfit(read_shapes(path), tensors_by_name(model, ObjectiveSpec()))
        module = build(model, ObjectiveSpec())
        initialise(module, model, ObjectiveSpec(), seed=0)
        if problem is None:
            load_weights(module, state(), tensors_by_name(model, ObjectiveSpec()))
        else:
            with pytest.raises(InputError, match=re.escape(problem)):
                load_weights(module, state(), tensors_by_name(model, ObjectiveSpec()))
        assert (problem is None) == (not fields)


@pytest.mark.slow
def test_planning_with_a_file_loads_no_torch(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "given.safetensors")
    path = written(tmp_path / "x.yaml", str(tmp_path / "given.safetensors"))
    script = """
import sys
from vitbench.cli.commands.checks import check_all
from vitbench.cli.commands.prepare import ExperimentRequest, data_options, facts_source, prepare

check_all(prepare(ExperimentRequest(sys.argv[1])), facts_source(data_options(None, False)))
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n", done.stderr
