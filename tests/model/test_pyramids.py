"""Swin, PoolFormer and MLP-Mixer in their published shapes: equal to timm's and torchvision's, refusals, traps."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Cli
from model_specs import CLASSIFY, TINY, images, made, named
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitbench.base.errors import InputError
from vitbench.inspection.export import architecture, timm_state
from vitbench.model import costs
from vitbench.model.build import load_weights
from vitbench.model.mechanisms import blocks_of, stage_models, token_mixer_of
from vitbench.model.parameters import parameters
from vitbench.model.weights.start import misfit, tensors_by_name
from vitbench.model.weights.timm_names import family_of, in_our_names, in_timms_names
from vitbench.plan.resolve import resolve
from vitbench.spec.mechanism import canonical
from vitbench.spec.trial import DataSpec, ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec
from vitbench.store.trials import Store

SMALL_SWIN: dict[str, Any] = {
    "embed_dim": 32, "num_heads": 2, "patch_size": 2, "mlp_ratio": 4.0,
    "token_mixer": "shifted_window(window_size=4)", "stages": "patch_merging(depths=[2, 2])",
}  # fmt: skip
SMALL_POOLFORMER: dict[str, Any] = {
    "embed_dim": 16,
    "depth": 3,
    "mlp_ratio": 4.0,
    "stages": "convolution(depths=[1, 2], widths=[24])",
}


def swin(img_size: int | tuple[int, int] = 32, **changes: Any) -> ModelSpec:
    return named("Swin-Mu", img_size, 10, **{**SMALL_SWIN, **changes})


def poolformer(**changes: Any) -> ModelSpec:
    return named("PoolFormer-Mu/4", 32, 10, **{**SMALL_POOLFORMER, **changes})


def mixer(**changes: Any) -> ModelSpec:
    return named("Mixer-Mu/4", 32, 10, **{"embed_dim": 64, "depth": 4, "mlp_ratio": 4.0, **changes})


def noisy(model: ModelSpec) -> Any:
    """Random values in every tensor, the tables of offsets included, so that a transposed index shows."""
    return made(model, noise=0.2)


def theirs_with(module: torch.nn.Module, state: Mapping[str, Tensor]) -> torch.nn.Module:
    module.load_state_dict(state)
    return module.eval()


@torch.no_grad()
def assert_same_logits(ours: torch.nn.Module, theirs: torch.nn.Module, model: ModelSpec, num_params: int) -> None:
    x = images(model, 2)
    expected = theirs(x)
    assert expected.abs().max() > 0.5
    assert sum(parameter.numel() for parameter in theirs.parameters()) == num_params
    assert costs.num_params(model, CLASSIFY) == num_params
    assert (ours(x) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("changes", "num_params"),
    [
        ({}, 135_670),
        ({"stages": "flat", "num_heads": 4, "depth": 4}, None),
        ({"token_mixer": "shifted_window(window_size=2)", "img_size": (16, 32)}, None),
        ({"token_mixer": "shifted_window(window_size=8)", "stages": "patch_merging(depths=[2, 1, 2])"}, None),
    ],
)
def test_swin_is_timms(changes: dict[str, Any], num_params: int | None) -> None:
    """In the last case the third stage has 4 x 4 patches, so its windows are 4 x 4."""
    import timm

    model = swin(**changes)
    ours, spec = noisy(model), TrialSpec(model=model)
    chosen = architecture(model, CLASSIFY)
    state = timm_state(spec, ours.state_dict())
    theirs = theirs_with(timm.create_model(chosen.name, num_classes=10, **chosen.model_args), state)
    assert_same_logits(ours, theirs, model, num_params or costs.num_params(model, CLASSIFY))


def torchvision_name(name: str) -> str:
    """torchvision's name of one of timm's: a stage is `features.2 S + 1`, and merging stands between stages."""
    if name.startswith("layers."):
        _, stage, kind, *rest = name.split(".")
        place = 2 * int(stage) + (1 if kind == "blocks" else 0)
        inner = ".".join(rest).replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")
        return f"features.{place}.{inner}"
    stem = {"patch_embed.proj.": "features.0.0.", "patch_embed.norm.": "features.0.2.", "head.fc.": "head."}
    return next((new + name.removeprefix(old) for old, new in stem.items() if name.startswith(old)), name)


def test_swin_is_torchvisions() -> None:
    models = pytest.importorskip("torchvision.models.swin_transformer")
    model = swin()
    ours = noisy(model)
    sizes = {"embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 4], "num_classes": 10}
    theirs = models.SwinTransformer(patch_size=[2, 2], **sizes)
    state = {torchvision_name(name): t for name, t in timm_state(TrialSpec(model=model), ours.state_dict()).items()}
    indices = {name: tensor for name, tensor in theirs.state_dict().items() if name.endswith("position_index")}
    assert_same_logits(ours, theirs_with(theirs, {**state, **indices}), model, 135_670)


def test_poolformer_is_timms() -> None:
    metaformer = pytest.importorskip("timm.models.metaformer")
    model = poolformer()
    ours, family = noisy(model), family_of(model)
    assert family is not None
    theirs = metaformer.MetaFormer(
        depths=(1, 2), dims=(16, 24), num_classes=10, mlp_act=torch.nn.GELU, mlp_bias=True, downsample_norm=None,
        norm_layers=metaformer.GroupNorm1, layer_scale_init_values=1e-5, res_scale_init_values=None,
        use_mlp_head=False,
    )  # fmt: skip
    theirs_with(theirs, in_timms_names(ours.state_dict(), model, family))
    assert_same_logits(ours, theirs, model, costs.num_params(model, CLASSIFY))


def test_attention_in_the_last_stage_is_timms() -> None:
    """Yu et al. 2022, Table 5: pooling below, attention above. timm's attention has a bias on request only."""
    metaformer = pytest.importorskip("timm.models.metaformer")
    init = partialmethod(metaformer.Attention.__init__, proj_bias=True)
    attention = type("Attention", (metaformer.Attention,), {"__init__": init})
    stages = 'convolution(depths=[1, 2], mixers=["attention"], widths=[64])'
    model = poolformer(embed_dim=32, num_heads=1, stages=stages, block_norm="layer", qkv_bias=False)
    ours = noisy(model)
    theirs = metaformer.MetaFormer(
        depths=(1, 2), dims=(32, 64), num_classes=10, mlp_act=torch.nn.GELU, mlp_bias=True, downsample_norm=None,
        token_mixers=[metaformer.Pooling, attention],
        norm_layers=[metaformer.LayerNorm2d, metaformer.LayerNorm], layer_scale_init_values=1e-5,
        res_scale_init_values=None, use_mlp_head=False,
    )  # fmt: skip
    family = family_of(model)
    assert family is not None
    state = in_timms_names(ours.state_dict(), model, family)
    renamed = {name.replace(".attn.", ".token_mixer."): tensor for name, tensor in state.items()}
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}  # Linear layers where ours are 1 x 1.
    theirs_with(theirs, {name: tensor.view(shapes[name]) for name, tensor in renamed.items()})
    assert_same_logits(ours, theirs, model, costs.num_params(model, CLASSIFY))


def test_the_mixer_is_timms() -> None:
    mlp_mixer = pytest.importorskip("timm.models.mlp_mixer")
    model = mixer()
    ours, family = noisy(model), family_of(model)
    assert family is not None
    theirs = mlp_mixer.MlpMixer(img_size=32, patch_size=4, embed_dim=64, num_blocks=4, num_classes=10)
    theirs_with(theirs, in_timms_names(ours.state_dict(), model, family))
    assert_same_logits(ours, theirs, model, 154_058)


@pytest.mark.parametrize(
    "timm_name", ["swin_tiny_patch4_window7_224", "poolformer_s12", "mixer_s16_224", "mixer_b32_224"]
)
def test_names_have_timms_sizes(timm_name: str) -> None:
    """Parameters, names of tensors and shapes of timm's model with 1000 classes at 224 px; its export is that model."""
    import timm

    model = named(timm_name)
    chosen, family = architecture(model, CLASSIFY), family_of(model)
    assert family is not None
    with torch.device("meta"):
        theirs = timm.create_model(timm_name)
        ours = {tensor.name: torch.empty(tensor.shape) for tensor in parameters(model, CLASSIFY)}
        exported = timm.create_model(chosen.name, **chosen.model_args)
    assert costs.num_params(model, CLASSIFY) == sum(p.numel() for p in theirs.parameters())
    shapes = {name: tensor.shape for name, tensor in in_timms_names(ours, model, family).items()}
    assert shapes == {name: parameter.shape for name, parameter in theirs.named_parameters()}
    assert shapes == {name: parameter.shape for name, parameter in exported.named_parameters()}


def test_published_sizes() -> None:
    sizes = {name: costs.num_params(named(name), CLASSIFY) for name in ("Swin-T", "PoolFormer-S12", "Mixer-S/16")}
    assert sizes == {"Swin-T": 28_288_354, "PoolFormer-S12": 11_915_176, "Mixer-S/16": 18_528_264}
    flops = {name: costs.forward_flops(named(name), CLASSIFY) / 2e9 for name in ("Swin-T", "PoolFormer-S12")}
    assert flops["Swin-T"] == pytest.approx(4.5, abs=0.05), "Liu et al. 2021, Table 1"
    assert flops["PoolFormer-S12"] == pytest.approx(1.8, abs=0.05), "Yu et al. 2022, Table 1"


@pytest.mark.parametrize("model", [swin(), poolformer(), mixer()], ids=["swin", "poolformer", "mixer"])
def test_weights_of_timm_carry_over_without_the_head(model: ModelSpec) -> None:
    given, family = noisy(model), family_of(model)
    assert family is not None
    theirs = in_timms_names(given.state_dict(), model, family)
    assert theirs.keys() != given.state_dict().keys()
    fewer = model.model_copy(update={"num_classes": 3})
    tensors, module = tensors_by_name(fewer, CLASSIFY), made(fewer)
    renamed = in_our_names(theirs, fewer, tensors)
    assert misfit({name: tuple(tensor.shape) for name, tensor in renamed.items()}, tensors) is None
    load_weights(module, renamed, tensors)
    x = images(model, 2)
    with torch.no_grad():
        torch.testing.assert_close(module.forward_features(x), given.forward_features(x))


FILE = """
name: pyramid
base:
  data: {{name: fake}}
  model: {model}
  train: {{steps: 1, batch_size: 8, lr: 1.0e-12, weight_decay: 0.0}}
seeds: 1
"""


def test_a_training_starts_from_timms_tensors(cli: Cli, tmp_path: Path) -> None:
    """Names and 1 x 1 convolutions are translated on the way; a step of 1e-12 moves nothing."""
    model = named("PoolFormer-Mu/2", 8, 7, in_chans=1)
    given, family = made(model, noise=0.1).state_dict(), family_of(model)
    assert family is not None
    theirs = {name: tensor.contiguous() for name, tensor in in_timms_names(given, model, family).items()}
    save_file(theirs, tmp_path / "theirs.safetensors")
    path = tmp_path / "x.yaml"
    path.write_text(FILE.format(model=f"{{name: PoolFormer-Mu/2, init_from: {tmp_path / 'theirs.safetensors'}}}"))
    answer = cli("run", path, "--results", tmp_path / "out", "-j", "1", "-q")
    assert answer.code == 0, answer.err
    store = Store(tmp_path / "out")
    (trial,) = (folder.name for folder in store.trials.iterdir())
    for name, tensor in load_file(store.weights(trial)).items():
        if not name.startswith("head."):
            torch.testing.assert_close(tensor, given[name], rtol=0, atol=1e-6)


def test_plan_says_where_windows_are_not_shifted(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(FILE.format(model="{name: Swin-Mu/2}"))
    answer = cli("plan", path)
    assert answer.code == 0, answer.err
    assert "note: shifted_window: a window is the whole grid of 2 x 2 patches" in answer.err


@torch.no_grad()
def test_a_merge_reads_two_by_two_patches_in_swins_order() -> None:
    """Down the first column, then down the second: rearranged the other way, the middle quarters swap."""
    merge = noisy(swin(norm_eps=1e-6)).blocks[2].merge
    merge.norm = torch.nn.Identity()
    merge.reduction.weight.copy_(torch.eye(128)[:64])
    x = torch.arange(16.0 * 16).view(1, 256, 1).expand(1, 256, 32)
    out = merge(x)[0]
    assert out.shape == (64, 64)
    assert out[0, ::32].tolist() == [0.0, 16.0], "first row of each: itself, the patch below"
    assert out[9, ::32].tolist() == [2.0 * 16 + 2, 3.0 * 16 + 2]


def test_a_shift_vanishes_where_a_window_is_the_grid() -> None:
    """Swin-T at 224 px: the grids are 56, 28, 14 and 7, and windows of 7 are shifted in the first three."""
    model = named("Swin-T")
    shifts = [token_mixer_of(model).shift(place.stage, place.layer) for place in blocks_of(model)]  # type: ignore[attr-defined]
    assert shifts == [0, 3, 0, 3, 0, 3, 0, 3, 0, 3, 0, 0]
    (note,) = token_mixer_of(model).notes(stage_models(model))
    assert "a window is the whole grid of 7 x 7 patches, so it is not shifted there" in note
    assert token_mixer_of(swin()).notes(stage_models(swin())) == []
    for img_size, expected in ((16, [False, True, False, False]), (32, [False, True, False, True])):
        blocks = made(swin(img_size=img_size)).blocks
        assert [block.attn.apart is not None for block in blocks] == expected


def test_tables_of_offsets_do_not_decay() -> None:
    tensors = [tensor for tensor in parameters(swin(), CLASSIFY) if "bias_table" in tensor.name]
    assert len(tensors) == 4
    assert not any(tensor.decays for tensor in tensors)


def test_layers_of_a_pyramid_are_numbered_through() -> None:
    """Stochastic depth grows over all blocks, and a merge belongs to the block that it precedes."""
    model = swin(drop_path_rate=0.3)
    assert [block.drop_path.rate for block in made(model).blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    merging = [tensor.name for tensor in parameters(model, CLASSIFY) if tensor.part == "stages"]
    assert merging == ["blocks.2.merge.norm.weight", "blocks.2.merge.norm.bias", "blocks.2.merge.reduction.weight"]


PYRAMID = {**TINY, "img_size": 16, "stages": "patch_merging", "global_pool": "avg", "class_token": False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_pool": "token", "class_token": True}, "has no place for a class token; set global_pool: avg or map"),
        ({"reg_tokens": 2}, "has no place for register tokens; set 0"),
        ({"pos_placement": "every_layer"}, "needs one grid, and patch_merging has several; stem"),
        ({"depth": 3}, "model.depth: 3, but patch_merging has 2 blocks; leave depth out"),
        ({"stages": "patch_merging(widths=[3, 4])"}, "needs 1 widths, those of the stages after the first"),
        (
            {"stages": "patch_merging(widths=[20])"},
            "with heads of width 8 gives no whole number of heads; use widths that are",
        ),
        ({"stages": 'patch_merging(mixers=["attention"])'}, "every stage of"),
        ({"stages": 'patch_merging(mixers=["pool", "attention"])'}, "needs 1 mixers, those of the stages after"),
        ({"stages": 'patch_merging(mixers=["window(window_size=3)"])'}, "windows of 3 do not divide 4 x 4 patches"),
        ({"stages": 'patch_merging(mixers=["pool(pool_size=4)"])'}, "pool needs an odd pool_size; it is 4"),
        (
            {"stages": 'patch_merging(mixers=["pool"])', "pos_embed": "relative_2d"},
            "relative_2d needs attention maps, which pool does not give",
        ),
        ({"img_size": 6}, "2 stages halve the grid 1 times, and 3 x 3 patches are not divisible by 2"),
        ({"token_mixer": "window(window_size=3)"}, "windows of 3 do not divide 8 x 8 patches; 1, 2, 4, 8 do"),
        ({"token_mixer": "window(window_size=16)"}, "windows of 16 are larger than 8 x 8 patches"),
        ({"token_mixer": "shifted_window"}, "on 8 x 8 and 4 x 4 patches in 1 and 1 blocks have no shift"),
        ({"stem": "frequency_tokens"}, "tokens of frequency_tokens have no neighbours to merge; set flat"),
        ({"stem": "overlap", "patch_size": 1}, "overlap with patch_size 1 sees one pixel, so this is patchify"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    problems = costs.check(ModelSpec(**{**PYRAMID, **changes}))
    assert [line for line in problems if message in line], problems
    assert not any("\n" in line for line in problems)


def test_an_unknown_mixer_of_a_later_stage_is_refused() -> None:
    with pytest.raises(InputError, match="'atention' is not allowed; allowed: attention, "):
        canonical("stages", {"name": "patch_merging", "mixers": ["atention"]})


def test_masked_patches_need_one_grid() -> None:
    masked = ObjectiveSpec(name="masked_patch")
    assert costs.check(ModelSpec(**PYRAMID), masked) == [
        "train.objective: masked_patch works on one grid; set model.stages: flat"
    ]


def test_a_hybrid_has_stages_already() -> None:
    hybrid = {"family": "hybrid", "patch_size": 1, "layers": (1, 1, 2), "width_factor": 0.25, "root": "small"}
    problems = costs.check(ModelSpec(**{**PYRAMID, **hybrid, "preact": False}))
    assert problems == ["model.stages: a hybrid has stages already; set flat, or family: vit"]


@pytest.mark.parametrize(
    ("written", "depth"),
    [({"name": "Swin-Mu/2"}, 4), ({"name": "Mu/2", "stages": "patch_merging(depths=[1, 2])", "global_pool": "avg"}, 3)],
)
def test_depth_follows_from_the_stages(written: dict[str, Any], depth: int) -> None:
    """Also over a name that says another depth; a resolved spec is resolved to itself."""
    from vitbench.data import DataOptions, facts

    spec = TrialSpec(model=ModelSpec(**written), data=DataSpec(name="fake"), train=TrainSpec(steps=1))
    once = resolve(spec, facts("fake", DataOptions()))
    assert once.model.depth == depth
    assert resolve(once, facts("fake", DataOptions())) == once


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"norm_eps": 1e-6}, "model.norm_eps 1e-06; its swin_tiny_patch4_window7_224 has 1e-05"),
        ({"stages": "patch_merging(depths=[2, 2], widths=[96])"}, "and doubles the width"),
        ({"stages": 'patch_merging(depths=[2, 2], mixers=["attention"])'}, "merges patches, has one mixer"),
        ({"img_size": (16, 32)}, "windows of 4 as high or as wide as a grid; its Swin treats each side by itself"),
        ({"token_mixer": "shifted_window(offset_bias=false, window_size=4)"}, "its Swin has an offset_bias"),
    ],
)
def test_what_timms_swin_lacks_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match="timm cannot hold this model: ") as raised:
        architecture(swin(**changes), CLASSIFY)
    assert reason in str(raised.value)


@pytest.mark.parametrize("model", [poolformer(), mixer()], ids=["poolformer", "mixer"])
def test_timm_fixes_the_sizes_of_other_families(model: ModelSpec) -> None:
    with pytest.raises(InputError, match=r"timm cannot hold this model: model\.(patch_size|embed_dim) "):
        architecture(model, CLASSIFY)
