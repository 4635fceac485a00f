"""What is exported gives timm's model the same logits; what timm cannot hold is refused in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli
from PIL import Image
from torch import Tensor

from vitbench.base.errors import InputError, ResultsError
from vitbench.data import DataOptions, facts
from vitbench.inspection.export import architecture, export, find_trial
from vitbench.model.build import build, initialise
from vitbench.plan.resolve import resolve
from vitbench.spec.trial import DataSpec, ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec
from vitbench.store.record import Record, Result, Run, Status
from vitbench.store.trials import Store
from vitbench.train.checkpoint import pack
from vitbench.train.resident import load_images

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
FAKE = DataOptions()
VIT: dict[str, Any] = {"patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
FULL_ROOT: dict[str, Any] = {"root": "imagenet"}

EXPORTED: dict[str, tuple[dict[str, Any], int]] = {
    "token": (VIT, 8),
    "average": ({**VIT, "global_pool": "avg"}, 8),
    "average, norm after": ({**VIT, "global_pool": "avg", "final_norm": "after_pool"}, 8),
    "average beside a class token": ({**VIT, "global_pool": "avg", "class_token": True}, 8),
    "attention pooling": ({**VIT, "global_pool": "map"}, 8),
    "attention pooling, norm after": ({**VIT, "global_pool": "map", "final_norm": "after_pool"}, 8),
    "no final norm": ({**VIT, "final_norm": "none"}, 8),
    "no qkv bias": ({**VIT, "qkv_bias": False}, 8),
    "dropout": ({**VIT, "drop_rate": 0.1, "drop_path_rate": 0.1}, 8),
    "no positions": ({**VIT, "pos_embed": "none"}, 8),
    "no_embed_class": ({**VIT, "no_embed_class": True}, 8),
    "registers": ({**VIT, "reg_tokens": 3}, 8),
    "registers, average": ({**VIT, "reg_tokens": 3, "global_pool": "avg"}, 8),
    "learned_2d": ({**VIT, "pos_embed": "learned_2d"}, 8),
    "learned_2d, no_embed_class": ({**VIT, "pos_embed": "learned_2d", "no_embed_class": True}, 8),
    "learned_2d, average": ({**VIT, "pos_embed": "learned_2d", "global_pool": "avg"}, 8),
    "sincos_2d": ({**VIT, "pos_embed": "sincos_2d"}, 8),
    "sincos_2d, average": ({**VIT, "pos_embed": "sincos_2d", "global_pool": "avg"}, 8),
    "BatchNorm ResNet": (
        {"name": "R14x0.25", "norm_layer": "batch", "weight_standardize": False, **FULL_ROOT}, 40),
    "BiT": ({"name": "R50x1", **FULL_ROOT}, 33),
    "hybrid": ({**VIT, "name": "R26x1+ViT-Ti/32", "patch_size": 1, "pos_embed": "learned_2d"}, 64),
}  # fmt: skip

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "relative": ({**VIT, "pos_embed": "relative_2d"}, "model.pos_embed relative_2d"),
    "rotary": ({**VIT, "pos_embed": "rope_2d"}, "model.pos_embed rope_2d"),
    "every layer": ({**VIT, "pos_placement": "every_layer"}, "model.pos_placement every_layer"),
    "shared": ({**VIT, "pos_placement": "every_layer_shared"}, "model.pos_placement every_layer_shared"),
    "tanh head": ({**VIT, "head": "mlp_tanh"}, "model.head mlp_tanh"),
    "conv stem": ({**VIT, "stem": "conv"}, "model.stem conv"),
    "depthwise": ({**VIT, "global_pool": "avg", "token_mixer": "depthwise"}, "model.token_mixer depthwise"),
    "alibi": ({**VIT, "pos_embed": "alibi_2d"}, "model.pos_embed alibi_2d"),
    "small root": ({"name": "R50x1"}, "model.root small; its resnets have imagenet"),
    "narrow BiT": ({"name": "R50x0.5", **FULL_ROOT}, "model.layers [3, 4, 6, 3] x 0.5; with GroupNorm it has"),
    "BatchNorm, standardised": ({"name": "R14x1", "norm_layer": "batch", **FULL_ROOT}, "model.weight_standardize True"),
    "post-activation": ({"name": "R50x1", "preact": False, **FULL_ROOT}, "model.preact False; its resnets have True"),
    "shallow hybrid": ({**VIT, "name": "R14x1+ViT-Ti/32", "patch_size": 1}, "model.layers [1, 1, 1, 1]; its hybrids"),
    "narrow hybrid": ({**VIT, "name": "R26x0.5+ViT-Ti/32", "patch_size": 1}, "model.width_factor 0.5; its hybrids"),
}


def resolved(fields: dict[str, Any], img_size: Any = 8, objective: ObjectiveSpec | None = None) -> TrialSpec:
    train = TrainSpec(steps=1, objective=objective or ObjectiveSpec())
    written = TrialSpec(model=ModelSpec(**fields), data=DataSpec(name="fake", img_size=img_size), train=train)
    return resolve(written, facts("fake", FAKE))


def module_of(spec: TrialSpec) -> Any:
    """Initialised weights with noise on all of them, running statistics included, so that no zero hides a fault."""
    module = build(spec.model, spec.train.objective)
    initialise(module, spec.model, spec.train.objective, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator), alpha=0.1)
    return module.eval()


def committed(store: Store, spec: TrialSpec, module: Any, trial_id: str = "0123456789abcdef", **changed: Any) -> Record:
    """A record of a trial that ended with the module's weights."""
    status: Status = changed.get("status", "ok")
    fingerprint = changed.get("fingerprint", facts("fake", FAKE).fingerprint)
    record = Record(
        trial_id=trial_id, status=status, reason=changed.get("reason"), seed=0, data_fingerprint=fingerprint,
        spec=spec.model_dump(mode="json", exclude_defaults=True), result=Result(), run=Run(),
    )  # fmt: skip
    files = {} if module is None else {"checkpoints/final.safetensors": pack(module.state_dict())}
    store.commit(record, store.begin_attempt(trial_id), files)
    return record


def loaded(folder: Path) -> Any:
    import timm

    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def answers(spec: TrialSpec, ours: Any, theirs: Any) -> tuple[Tensor, Tensor]:
    """Both models' outputs on test images, each standardised as its own side says."""
    images = load_images(spec.data, FAKE, CPU)
    unit = images.test[:3].float() / 255  # type: ignore[attr-defined]
    mean, std = (torch.tensor(theirs.pretrained_cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        return ours(images.standardise(unit)), theirs((unit - mean) / std)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_timm_gives_equal_logits(name: str, tmp_path: Path) -> None:
    spec = resolved(*EXPORTED[name])
    module, store = module_of(spec), Store(tmp_path)
    export(committed(store, spec, module), store, tmp_path / "out", FAKE)
    ours, theirs = answers(spec, module, loaded(tmp_path / "out"))
    assert ours.std() > 1e-3
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


def test_equality_can_fail(tmp_path: Path) -> None:
    spec = resolved({**VIT, "pos_embed": "sincos_2d"})
    module, store = module_of(spec), Store(tmp_path)
    export(committed(store, spec, module), store, tmp_path / "out", FAKE)
    theirs = loaded(tmp_path / "out")
    with torch.no_grad():
        theirs.pos_embed[0, 3] = 0
    ours, changed = answers(spec, module, theirs)
    assert (ours - changed).abs().max() > 1e-4


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_masked_patch_weights_are_features(pool: str, tmp_path: Path) -> None:
    spec = resolved({**VIT, "global_pool": pool, "head": "mlp_tanh"}, objective=ObjectiveSpec(name="masked_patch"))
    module, store = module_of(spec), Store(tmp_path)
    export(committed(store, spec, module), store, tmp_path / "out", FAKE)
    tokens = module.forward_features
    pooled = {"token": lambda x: tokens(x)[:, 0], "avg": lambda x: tokens(x).mean(dim=1)}
    ours, theirs = answers(spec, pooled[pool], loaded(tmp_path / "out"))
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
    assert theirs.shape == (3, 16)


@pytest.mark.parametrize("name", REFUSED)
def test_what_timm_cannot_hold_is_refused(name: str) -> None:
    fields, reason = REFUSED[name]
    spec = resolved(fields, 64 if "name" in fields else 8)
    with pytest.raises(InputError) as raised:
        architecture(spec.model, spec.train.objective)
    assert str(raised.value).startswith(f"timm cannot hold this model: {reason}")
    assert "\n" not in str(raised.value)


def test_untrained_attention_pooling_is_refused() -> None:
    spec = resolved({**VIT, "global_pool": "map"}, objective=ObjectiveSpec(name="masked_patch"))
    with pytest.raises(InputError, match="predicting patches does not train"):
        architecture(spec.model, spec.train.objective)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["average, norm after", "BatchNorm ResNet", "hybrid"])
def test_configuration_is_what_timm_would_write(name: str, tmp_path: Path) -> None:
    import timm

    spec = resolved(*EXPORTED[name])
    store = Store(tmp_path)
    export(committed(store, spec, module_of(spec)), store, tmp_path / "out", FAKE)
    timm.models.save_for_hf(loaded(tmp_path / "out"), str(tmp_path / "theirs"), safe_serialization=True)
    ours, theirs = (json.loads((tmp_path / where / "config.json").read_text()) for where in ("out", "theirs"))
    names = ours.pop("label_names")
    assert names == list(facts("fake", FAKE).class_names) == theirs["pretrained_cfg"]["label_names"]
    if "model_args" not in theirs:  # Before 1.0.31 timm writes no arguments, and reads them all the same.
        theirs["model_args"] = ours["model_args"]
    for section in ("pretrained_cfg", "model_args"):
        for key, value in ours.pop(section).items():
            assert theirs[section][key] == value, key
    assert {key: theirs[key] for key in ours} == ours


def test_another_head_can_be_asked_for(tmp_path: Path) -> None:
    import timm

    spec = resolved(VIT)
    store = Store(tmp_path)
    export(committed(store, spec, module_of(spec)), store, tmp_path / "out", FAKE)
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=7, img_size=16)
    assert model(torch.zeros(1, 1, 16, 16)).shape == (1, 7)


def test_trials_are_found_by_their_beginning(tmp_path: Path) -> None:
    store, spec = Store(tmp_path), resolved(VIT)
    for trial_id in ("aaaa000000000000", "aabb000000000000"):
        committed(store, spec, None, trial_id)
    assert find_trial(store, "aaa").trial_id == "aaaa000000000000"
    with pytest.raises(InputError, match=r"'aa': 2 trials in .* begin with it: aaaa000000000000, aabb000000000000"):
        find_trial(store, "aa")
    with pytest.raises(InputError, match=r"none of the 2 trials .* Did you mean 'aabb000000000000'"):
        find_trial(store, "aabb0000000000ff")


def test_trials_without_weights_are_refused(tmp_path: Path) -> None:
    store, spec = Store(tmp_path), resolved(VIT)
    out = tmp_path / "out"
    with pytest.raises(InputError, match="its weights were not kept"):
        export(committed(store, spec, None, "a" * 16), store, out, FAKE)
    lost = committed(store, spec, None, "b" * 16, status="diverged", reason="loss not finite at step 3")
    with pytest.raises(InputError, match="diverged: loss not finite at step 3; it left no weights"):
        export(lost, store, out, FAKE)
    moved = committed(store, spec, module_of(spec), "c" * 16, fingerprint="0" * 64)
    with pytest.raises(ResultsError, match="fake differs from the images that it was trained on"):
        export(moved, store, out, FAKE)
    assert not out.exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    store, spec = Store(tmp_path), resolved(VIT)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty; name a new folder"):
        export(committed(store, spec, module_of(spec)), store, tmp_path / "out", FAKE)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def reported(root: Path, arm: str) -> Record:
    """A reporting trial of the smoke run."""
    lines = [json.loads(line) for line in (root / "smoke" / "records.jsonl").read_text().splitlines()]
    row = next(line for line in lines if line["arm"].startswith(arm) and line["role"] == "reporting")
    record = Store(root).read(row["trial_id"])
    assert record is not None
    return record


def test_command_exports_what_was_measured(cli: Cli, smoke_root: Path, tmp_path: Path) -> None:
    record = reported(smoke_root, "token")
    answer = cli("export", record.trial_id[:12], "--to", tmp_path / "out", "--results", smoke_root)
    assert (answer.code, answer.err) == (0, "")
    model = loaded(tmp_path / "out")
    assert f'timm.create_model("local-dir:{tmp_path / "out"}", pretrained=True)' in answer.out
    images = load_images(TrialSpec.model_validate(record.spec).data, FAKE, CPU)
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        predicted = model((images.test.float() / 255 - mean) / std).argmax(1).numpy()  # type: ignore[attr-defined]
    assert 100 * np.mean(predicted == images.test_labels) == pytest.approx(record.result.test_top1_percent)


def test_command_refuses_in_one_line(cli: Cli, smoke_root: Path, tmp_path: Path) -> None:
    record = reported(smoke_root, "relative_2d")
    answer = cli("export", record.trial_id, "--to", tmp_path / "out", "--results", smoke_root)
    assert answer.code == 2
    assert answer.err == (
        "error: timm cannot hold this model: model.pos_embed relative_2d acts inside the attention; "
        "its ViT adds one position to each token\n"
    )
    assert not (tmp_path / "out").exists()


def test_page_is_true(cli: Cli, smoke_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "WEIGHTS.md").read_text()
    record = reported(smoke_root, "token")
    words = re.search(r"^vitbench (export .*)$", page, re.M)
    assert words is not None
    assert cli(*words[1].replace("TRIAL", record.trial_id).split(), "--results", smoke_root).code == 0
    spec = TrialSpec.model_validate(record.spec)
    images = load_images(spec.data, FAKE, CPU)
    pixels = images.test[5]  # type: ignore[attr-defined]
    Image.fromarray(pixels.permute(1, 2, 0).numpy().squeeze()).save("image.png")
    code = re.search(r"```python\n(.*?)```", page, re.S)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)
    ours = build(spec.model, spec.train.objective).eval()
    from safetensors.torch import load_file

    ours.load_state_dict(load_file(Store(smoke_root).weights(record.trial_id)))
    with torch.no_grad():
        expected = ours(images.standardise(pixels.float()[None] / 255))
    torch.testing.assert_close(names["logits"], expected, rtol=1e-5, atol=1e-5)
