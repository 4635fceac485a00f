"""`model.parallel`: blocks side by side against timm's and against the formula; costs, ids, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_specs import CLASSIFY, TINY, images, made, resolved
from tiny_jobs import RESNET, VIT, assert_same_training, spec, trained
from torch import Tensor

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, facts
from vitbench.inspection.attention import readouts
from vitbench.inspection.export import architecture
from vitbench.inspection.hooks import tokens_of
from vitbench.inspection.network import Subject
from vitbench.model.costs import check, forward_flops, parameters
from vitbench.model.encoder_blocks import EncoderBlock
from vitbench.plan.resolve import resolve
from vitbench.spec.trial import EvaluateSpec, ModelSpec, ObjectiveSpec, TrialSpec

DEEP: dict[str, Any] = {**TINY, "depth": 4, "layer_scale": 0.5}
PARTS = {"norm1": "attns.{}.norm", "attn": "attns.{}.attn", "ls1": "attns.{}.ls"} | {
    "norm2": "ffns.{}.norm", "mlp": "ffns.{}.mlp", "ls2": "ffns.{}.ls"
}  # fmt: skip


def timms_name(name: str, width: int) -> str:
    """The name of one of our tensors in a ViT of timm's `ParallelThingsBlock`."""
    if not name.startswith("blocks."):
        return name
    _, number, part, rest = name.split(".", 3)
    return f"blocks.{int(number) // width}.{PARTS[part].format(int(number) % width)}.{rest}"


def beside(blocks: list[EncoderBlock], x: Tensor) -> Tensor:
    """Two blocks as the paper writes them."""
    first, second = blocks
    x = x + first.ls1(first.attn(first.norm1(x), None)) + second.ls1(second.attn(second.norm1(x), None))
    return x + first.ls2(first.mlp(first.norm2(x))) + second.ls2(second.mlp(second.norm2(x)))


@pytest.mark.parametrize("width", [2, 4])
@torch.no_grad()
def test_logits_are_timms(width: int) -> None:
    timm = pytest.importorskip("timm.models.vision_transformer")
    theirs = timm.VisionTransformer(
        img_size=8, in_chans=1, num_classes=5, patch_size=2, embed_dim=16, depth=4 // width, num_heads=2, mlp_ratio=2.0,
        init_values=0.5, block_fn=timm.ParallelThingsBlock if width == 2 else _four(timm.ParallelThingsBlock),
    ).eval()  # fmt: skip
    model = resolved(DEEP, parallel=width)
    ours = made(model, noise=0.3)
    theirs.load_state_dict({timms_name(name, width): tensor for name, tensor in ours.state_dict().items()})
    x = images(model)
    assert (ours(x) - theirs(x)).abs().max() < 1e-5
    in_order = made(resolved(DEEP), noise=0.3)
    in_order.load_state_dict(ours.state_dict())
    assert (in_order(x) - theirs(x)).abs().max() > 1e-2


def _four(block: Any) -> Any:
    return lambda **fields: block(num_parallel=4, **fields)


@torch.no_grad()
def test_pairs_are_the_formula() -> None:
    network = made(resolved(DEEP, parallel=2), noise=0.3)
    x = torch.randn(3, 17, 16, generator=torch.Generator().manual_seed(0))
    expected = network.norm(beside(network.blocks[2:], beside(network.blocks[:2], x)))
    torch.testing.assert_close(network.layers(x), expected)


def test_tensors_parameters_and_flops_are_those_of_blocks_in_order() -> None:
    plain, pairs = resolved(DEEP), resolved(DEEP, parallel=2)
    assert parameters(plain, CLASSIFY) == parameters(pairs, CLASSIFY)
    assert forward_flops(plain, CLASSIFY) == forward_flops(pairs, CLASSIFY)


def test_stochastic_depth_rises_from_pair_to_pair_as_in_timm() -> None:
    blocks = made(resolved(DEEP, parallel=2, drop_path_rate=0.3)).blocks
    assert [block.drop_path.rate for block in blocks] == [0.0, 0.0, 0.3, 0.3]


def test_a_stack_trains_as_its_members() -> None:
    one = spec({**VIT, "depth": 4, "parallel": 2}, layer_decay=0.5)
    for member, alone in zip(trained([one, one], [0, 1]), (trained([one], [seed])[0] for seed in (0, 1)), strict=True):
        assert_same_training(member, alone)


def test_one_block_at_a_time_is_in_no_id() -> None:
    pairs = {**VIT, "parallel": 2}
    assert spec({**VIT, "parallel": 1}) == spec(VIT) != spec(pairs)
    assert "parallel" not in spec(VIT).model.model_dump(exclude_defaults=True)


PYRAMID = {"stages": "patch_merging(depths=[2, 2])", "depth": 4, "global_pool": "avg"}
STEM = "needs whole blocks on one grid that see their positions at the stem, and"


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"depth": 3}, "model.parallel: 2 does not divide model.depth, which is 3"),
        (PYRAMID, f"model.parallel: 2 {STEM} model.stages is patch_merging(depths=[2,2]); set flat"),
        ({"without": "mlp"}, f"model.parallel: 2 {STEM} model.without is mlp; set null"),
        ({"pos_placement": "every_layer"}, f"model.parallel: 2 {STEM} model.pos_placement is every_layer; set stem"),
        (RESNET, "model.parallel: 2 blocks of a transformer; a ResNet has none; set 1"),
    ],
)
def test_models_without_pairs_of_blocks_are_refused(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as error:
        spec({**VIT, **fields, "parallel": 2})
    assert str(error.value).replace(", ", ",") == line.replace(", ", ",")


@pytest.mark.parametrize(
    ("objective", "line"),
    [
        ("segment", "model.parallel: segment reads the tokens of single blocks; set 1"),
        ("diffuse", "model.parallel: diffuse has no place for 2; set 1"),
    ],
)
def test_objectives_that_run_the_blocks_themselves_refuse(objective: str, line: str) -> None:
    model = {**TINY, "global_pool": "avg", "class_token": False, "pos_embed": "sincos_2d", "parallel": 2}
    assert check(ModelSpec(**model), ObjectiveSpec(name=objective)) == [line]


@pytest.mark.parametrize("objective", ["mae", "dino", "moco_v3", "masked_patch"])
def test_other_objectives_train_pairs(objective: str) -> None:
    def weights(width: int) -> dict[str, Tensor]:
        train = spec(VIT).train.model_copy(update={"objective": ObjectiveSpec(name=objective), "steps": 2})
        written = spec(VIT).model_copy(update={"model": ModelSpec(**VIT, parallel=width), "train": train})
        return trained([resolve(written, facts("fake", DataOptions()))], [0])[0].state

    plain, pairs = weights(1), weights(2)
    assert plain.keys() == pairs.keys()
    assert not torch.equal(plain["blocks.0.norm1.weight"], pairs["blocks.0.norm1.weight"])
    assert all(tensor.isfinite().all() for tensor in pairs.values())


def test_probes_of_layers_are_refused() -> None:
    one = spec({**VIT, "parallel": 2})
    with pytest.raises(InputError, match=r"evaluate\.probe_layers: blocks side by side have no tokens of their own"):
        resolve(one.model_copy(update={"evaluate": EvaluateSpec(probe_layers=True)}), facts("fake", DataOptions()))


def test_looking_at_single_blocks_is_refused() -> None:
    model = resolved(TINY, parallel=2)
    subject = Subject(
        name="trial x", module=made(model), untrained=None, img_size=8, in_chans=1, patch_px=2,
        mean=torch.zeros(1, 1, 1), std=torch.ones(1, 1, 1), resizes=False, spec=TrialSpec(model=model),
    )  # fmt: skip
    for look in (readouts, tokens_of):
        with pytest.raises(
            InputError, match=r"trial x: its blocks run side by side \(model.parallel: 2\), so"
        ) as error:
            look(subject, torch.rand(2, 1, 8, 8))
        assert "\n" not in str(error.value)


def test_export_refuses_in_one_line() -> None:
    with pytest.raises(InputError, match=r"timm cannot hold this model: model\.parallel 2; its vits have 1") as error:
        architecture(resolved(TINY, parallel=2), CLASSIFY)
    assert "\n" not in str(error.value)
