"""ONNX graphs and transformers' ViT give torch's logits; what they cannot hold is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import model_specs
import numpy as np
import pytest
import torch
from conftest import Cli
from model_specs import TINY, made
from test_export import CPU, FAKE, VIT, committed, module_of, reported, resolved

from vitbench.base.errors import InputError, ResultsError
from vitbench.data import facts
from vitbench.inspection import onnx_export
from vitbench.inspection.onnx_export import onnx_bytes
from vitbench.inspection.other_formats import export_transformers
from vitbench.inspection.transformers_export import timm_arguments
from vitbench.spec.trial import ObjectiveSpec, TrialSpec
from vitbench.store.trials import Store
from vitbench.train.resident import load_images

HELD: dict[str, dict[str, Any]] = {
    "token": VIT,
    "no positions": {**VIT, "pos_embed": "none"},
    "no_embed_class": {**VIT, "no_embed_class": True},
    "learned_2d": {**VIT, "pos_embed": "learned_2d"},
    "sincos_2d": {**VIT, "pos_embed": "sincos_2d"},
    "no qkv bias": {**VIT, "qkv_bias": False},
    "narrow MLP": {**VIT, "mlp_ratio": 1.7},
}
WINDOWED = {**TINY, "depth": 1, "global_pool": "avg", "token_mixer": "window"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "average": ({**VIT, "global_pool": "avg"}, "class_token is False"),
    "average beside a class token": ({**VIT, "global_pool": "avg", "class_token": True}, "global_pool is avg"),
    "no final norm": ({**VIT, "final_norm": "none"}, "final_norm is False"),
    "rotary": ({**VIT, "pos_embed": "rope_2d"}, "model.pos_embed rope_2d"),
    "ResNet": ({"name": "R50x1", "root": "imagenet"}, "model.family resnet"),
}


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("img_size", [8, (8, 16)])
def test_transformers_gives_equal_logits(name: str, img_size: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    spec = resolved(HELD[name], img_size)
    module, store = module_of(spec), Store(tmp_path)
    export_transformers(committed(store, spec, module), store, tmp_path / "out", FAKE)
    theirs, loading = transformers.ViTForImageClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    images = load_images(spec.data, FAKE, CPU)
    pixels = images.standardise(images.test[:5].float() / 255)  # type: ignore[attr-defined]
    with torch.no_grad():
        ours, logits = module(pixels), theirs.eval()(pixels).logits
    assert ours.std() > 1e-3
    torch.testing.assert_close(logits, ours, rtol=1e-5, atol=1e-5)
    assert tuple(theirs.config.id2label.values()) == facts("fake", FAKE).class_names


def test_names_and_shapes_of_the_exported_tensors(tmp_path: Path) -> None:
    """What `ViTForImageClassification` has, written down, so that the layout is held without transformers too."""
    from safetensors import safe_open

    spec = resolved({**VIT, "depth": 1, "pos_embed": "sincos_2d"}, (8, 16))
    store = Store(tmp_path)
    export_transformers(committed(store, spec, module_of(spec)), store, tmp_path / "out", FAKE)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        shapes = {name: tuple(file.get_tensor(name).shape) for name in file.keys()}  # noqa: SIM118
    block = "vit.encoder.layer.0."
    linear = {
        **{f"{block}attention.attention.{part}": (16, 16) for part in ("query", "key", "value")},
        f"{block}attention.output.dense": (16, 16), f"{block}intermediate.dense": (32, 16),
        f"{block}output.dense": (16, 32), "classifier": (4, 16),
        "vit.embeddings.patch_embeddings.projection": (16, 1, 2, 2),
    }  # fmt: skip
    norms = [f"{block}layernorm_before", f"{block}layernorm_after", "vit.layernorm"]
    expected = {"vit.embeddings.cls_token": (1, 1, 16), "vit.embeddings.position_embeddings": (1, 33, 16)}
    for name, shape in linear.items():
        expected |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}  # type: ignore[dict-item]
    expected |= {f"{name}.{kind}": (16,) for name in norms for kind in ("weight", "bias")}  # type: ignore[dict-item]
    assert shapes == expected


@pytest.mark.parametrize("name", REFUSED)
def test_what_transformers_cannot_hold_is_refused(name: str) -> None:
    fields, reason = REFUSED[name]
    with pytest.raises(InputError) as raised:
        timm_arguments(resolved(fields, 33 if "name" in fields else 8))
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_no_format_takes_a_model_that_predicts_patches(tmp_path: Path) -> None:
    spec = resolved(VIT, objective=ObjectiveSpec(name="masked_patch"))
    with pytest.raises(InputError, match="masked_patch trains no classifier"):
        timm_arguments(spec)


def test_an_onnx_graph_has_torchs_logits_for_every_batch_size(cli: Cli, smoke_root: Path, tmp_path: Path) -> None:
    """A model that timm cannot hold, by the command, on the test images."""
    runtime = pytest.importorskip("onnxruntime")
    record = reported(smoke_root, "relative_2d")
    answer = cli("export", record.trial_id, "--to", tmp_path / "out", "--format", "onnx", "--results", smoke_root)
    assert (answer.code, answer.err) == (0, "")
    assert "an ONNX graph; logits on" in answer.out
    described = json.loads((tmp_path / "out" / "config.json").read_text())
    assert described["opset"] == 18
    import onnx

    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [18]
    session = runtime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    images = load_images(TrialSpec.model_validate(record.spec).data, FAKE, CPU)
    unit = (images.test.float() / 255).numpy()  # type: ignore[attr-defined]
    logits = [session.run(None, {"images": unit[start:stop]})[0] for start, stop in ((0, 1), (1, 8), (8, len(unit)))]
    predicted = np.concatenate(logits).argmax(1)
    assert 100 * np.mean(predicted == images.test_labels) == pytest.approx(record.result.test_top1_percent)


def test_windows_go_into_a_graph_and_the_module_stays_usable() -> None:
    """The lists of patches are constants of the graph, and not those that the export traced with."""
    pytest.importorskip("onnxruntime")
    module = made(model_specs.resolved(WINDOWED), noise=0.1)
    unit = torch.rand(3, 1, 8, 8)
    _, difference = onnx_bytes(module, torch.zeros(1, 1, 1), torch.ones(1, 1, 1), unit)
    assert difference < 1e-4
    assert module(unit).isfinite().all()


def test_a_graph_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    module = module_of(resolved(VIT))
    graph = onnx_export._graph

    def of_other_weights(wrapped: Any, example: torch.Tensor) -> bytes:
        with torch.no_grad():
            wrapped.network.head.weight[0] += 1.0
        content = graph(wrapped, example)
        with torch.no_grad():
            wrapped.network.head.weight[0] -= 1.0
        return content

    monkeypatch.setattr(onnx_export, "_graph", of_other_weights)
    zero, one = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    with pytest.raises(ResultsError, match="onnxruntime's logits differ"):
        onnx_bytes(module, zero, one, torch.rand(4, 1, 8, 8))


def test_a_run_lists_its_trials_and_a_format_is_one_of_three(cli: Cli, smoke_root: Path, tmp_path: Path) -> None:
    listed = cli("export", "smoke", "--to", tmp_path / "out", "--results", smoke_root)
    assert listed.code == 2
    assert "smoke is a run; export one of its" in listed.out
    assert reported(smoke_root, "token").trial_id in listed.out
    other = cli("export", "x", "--to", tmp_path / "out", "--format", "tflite", "--results", smoke_root)
    assert other.code == 2
    assert "--format tflite: allowed are timm, transformers, onnx" in other.err
    assert not (tmp_path / "out").exists()
