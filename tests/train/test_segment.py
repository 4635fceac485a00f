"""Segmentation: decoders against a functional rewrite of SETR's, scores against scikit-learn, with faults planted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from model_specs import TINY, images, made, resolved
from sklearn.metrics import jaccard_score

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, facts
from vitbench.engines.trial_result import final_answers
from vitbench.inspection.specimen import spec_with, trained
from vitbench.model.costs import num_params
from vitbench.model.segmentation import enlarged, level_factors, pixel_loss
from vitbench.plan.resolve import resolve
from vitbench.spec.trial import DataSpec, ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec
from vitbench.train.objectives.segment import Segment, intersection_over_union

DECODERS = ("naive", "pup", "mla")


def objective(decoder: str) -> ObjectiveSpec:
    return ObjectiveSpec(name="segment", **{"decoder": decoder, "width": 16})  # type: ignore[arg-type]


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_enlarging_is_torchs(factor: int) -> None:
    x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarged(x, factor), expected, rtol=1e-5, atol=1e-6)
    if factor > 1:
        other = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=True)
        assert not torch.allclose(enlarged(x, factor), other, atol=1e-2)


def rewritten(state: dict[str, torch.Tensor], maps: list[torch.Tensor], decoder: str, patch: int) -> torch.Tensor:
    """SETR's heads as functions of the tensors, from the paper's Figure 1 and section 3.2."""

    def conv(x: torch.Tensor, name: str) -> torch.Tensor:
        weight = state[f"decode_head.{name}.conv.weight"]
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        groups = len(weight) // 2
        return F.relu(
            F.group_norm(x, groups, state[f"decode_head.{name}.norm.weight"], state[f"decode_head.{name}.norm.bias"])
        )

    def up(x: torch.Tensor, by: int) -> torch.Tensor:
        return F.interpolate(x, scale_factor=by, mode="bilinear", align_corners=False) if by > 1 else x

    def classes(x: torch.Tensor) -> torch.Tensor:
        weight = state["decode_head.classes.weight"]
        return F.conv2d(x, weight, state["decode_head.classes.bias"], padding=weight.shape[-1] // 2)

    if decoder == "naive":
        return up(classes(conv(maps[-1], "conv")), patch)
    if decoder == "pup":
        x = conv(maps[-1], "convs.0")
        for i in range(1, int(np.log2(patch))):
            x = conv(up(x, 2), f"convs.{i}")
        return up(classes(x), 2)
    normed = []
    for i, x in enumerate(maps):
        tokens = x.permute(0, 2, 3, 1)
        norm = (state[f"decode_head.norms.{i}.{kind}"] for kind in ("weight", "bias"))
        normed.append(F.layer_norm(tokens, tokens.shape[-1:], *norm, eps=1e-6).permute(0, 3, 1, 2))
    summed = [
        torch.stack([conv(normed[j], f"reduce.{j}") for j in range(i, len(maps))]).sum(0) for i in range(len(maps))
    ]
    first = {2: 2, 4: 2, 8: 4, 16: 4}[patch]
    branches = [conv(conv(conv(x, f"smooth.{i}"), f"branches.{i}.0"), f"branches.{i}.1") for i, x in enumerate(summed)]
    return up(classes(torch.cat([up(x, first) for x in branches], dim=1)), patch // first)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("patch", [2, 4, 8])
def test_the_decoders_are_setrs(decoder: str, patch: int) -> None:
    model = resolved(TINY, img_size=32, patch_size=patch)
    module: Any = made(model, objective(decoder), noise=0.1)
    x = images(model, 2)
    with torch.no_grad():
        logits, maps = module(x), module.maps(x)
        expected = rewritten(module.state_dict(), maps, decoder, patch)
    assert logits.shape == (2, 6, 32, 32)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    tokens = module.forward_features(x)[:, 1:]
    torch.testing.assert_close(maps[-1].flatten(2).transpose(1, 2), tokens, rtol=1e-5, atol=1e-5)
    if decoder == "mla":
        wrong = rewritten(module.state_dict(), maps[::-1], decoder, patch)
        assert not torch.allclose(logits, wrong, atol=1e-2)


def test_parameters_are_counted_by_the_formula() -> None:
    """W channels, D wide, K outputs, P pixels per patch: the head's weights in closed form."""
    model, w, k = resolved(TINY, img_size=32, patch_size=4), 16, 6
    d = model.embed_dim or 0
    norms = {"naive": 1, "pup": 2}
    expected = {
        "naive": d * w + 2 * w * norms["naive"] + w * k + k,
        "pup": 9 * d * w + 9 * w * w + 2 * w * norms["pup"] + w * k + k,
        "mla": 2 * (2 * d + d * w + 9 * w * w + 9 * w * w // 2 + 9 * w * w // 4 + 2 * (w + w + w // 2 + w // 2))
        + 9 * w * k + k,
    }  # fmt: skip
    encoder = num_params(model, ObjectiveSpec()) - (d * 5 + 5)
    assert {name: num_params(model, objective(name)) - encoder for name in DECODERS} == expected


def test_levels_divide_the_depth_and_the_patch() -> None:
    mla, naive = Segment(decoder="mla"), Segment()
    assert mla.taps(resolved(TINY, depth=24)) == (6, 12, 18, 24), "SETR's"
    assert mla.taps(resolved(TINY, depth=2)) == (1, 2)
    assert naive.taps(resolved(TINY, depth=24)) == (24,)
    assert [level_factors(side) for side in (2, 4, 8, 16)] == [(2, 1), (2, 2), (4, 2), (4, 4)]


def test_the_loss_is_the_mean_over_pixels() -> None:
    logits = torch.randn(2, 3, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    masks = torch.randint(0, 5, (2, 3, 4, 4), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    expected = torch.stack([F.cross_entropy(a, b.long()) for a, b in zip(logits, masks, strict=True)])
    torch.testing.assert_close(pixel_loss(logits, masks), expected)


def test_scores_are_of_one_matrix_over_the_whole_set() -> None:
    draw = np.random.default_rng(0)
    masks = draw.integers(0, 4, (6, 5, 5)).astype(np.uint8)
    masks[:4][masks[:4] == 3] = 0
    predicted = np.where(draw.random(masks.shape) < 0.6, masks, draw.integers(0, 4, masks.shape)).astype(np.uint8)
    each = intersection_over_union(predicted, masks)
    np.testing.assert_allclose(each, jaccard_score(masks.ravel(), predicted.ravel(), average=None))
    by_image = np.mean([intersection_over_union(p, m).mean() for p, m in zip(predicted, masks, strict=True)])
    assert abs(by_image - each.mean()) > 0.01, "the mean of images is a planted fault"
    scores = Segment().scores(predicted, {"masks": masks})
    assert scores["foreground_miou_percent"] == pytest.approx(100 * each[1:].mean())
    background = Segment().scores(np.zeros_like(masks), {"masks": masks})
    assert background["foreground_miou_percent"] == 0
    assert background["miou_percent"] == pytest.approx(100 * float((masks == 0).mean()) / 4)


def test_a_trained_stack_is_scored_and_its_masks_pair_with_its_images() -> None:
    trainer = trained(spec_with("objective", "segment"), (0, 1))
    for scores in final_answers(trainer, []).measured:
        assert scores.keys() == set(Segment.scores_named)
    order = trainer.orders[1].batch(2)
    drawn = trainer._drawn([each.batch(2) for each in trainer.orders])["masks"]
    assert np.array_equal(drawn[1].numpy(), trainer.images.train_columns["masks"][order.index])
    read = next(trainer.images.read("train", order.index[None], 64))[0, :, 0]
    assert (read[drawn[1] > 0] > 0.25).all()
    assert (read[drawn[1] == 0] > 0.25).float().mean() < 0.01


def written(data: dict[str, Any], text: str = "segment", patch_size: int = 4, **train: Any) -> TrialSpec:
    fields = {"steps": 3, "augment": "none", "objective": ObjectiveSpec(name=text), **train}
    sizes = {key: TINY[key] for key in ("family", "embed_dim", "depth", "num_heads", "mlp_ratio")}
    model = ModelSpec(patch_size=patch_size, **sizes)
    return TrialSpec(model=model, data=DataSpec(**data), train=TrainSpec(**fields))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (written({"name": "digits"}), "segment reads masks; digits has no such column"),
        (written({"name": "scenes"}, augment="medium"), "train.augment: medium moves the pixels, and masks would"),
        (written({"name": "scenes", "img_size": 16}), "data.img_size: 16 x 16 px, and masks are for images of 32 x 32"),
        (written({"name": "scenes", "classes": [0, 1]}), "data.classes: masks show all classes of an image"),
        (written({"name": "scenes"}, patch_size=1), "segment enlarges by 2, so model.patch_size must be 2, 4, 8, ..."),
    ],
)
def test_what_it_refuses(spec: TrialSpec, message: str) -> None:
    with pytest.raises(InputError) as error:
        resolve(spec, facts(spec.data.name, DataOptions()))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
