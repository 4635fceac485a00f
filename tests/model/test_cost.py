"""The closed form of cost against the paper's Table 1 and Table 6, and what `check` refuses. No torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from vitbench.model import costs
from vitbench.spec.model_names import variant
from vitbench.spec.trial import ModelSpec, ObjectiveSpec

CLASSIFY = ObjectiveSpec()
JFT_IMAGES = 303_000_000


def paper_model(name: str, **changes: Any) -> ModelSpec:
    """A model of the paper at 224 px with 1000 classes."""
    fields = {"root": "imagenet", **variant(name), "img_size": 224, "in_chans": 3, "num_classes": 1000}
    fields["preact"] = fields["family"] == "resnet"
    return ModelSpec(**{**fields, "class_token": True, **changes})


TIMM_PARAMS = {"ViT-B/16": 86_567_656, "ViT-L/16": 304_326_632, "ViT-H/14": 632_045_800}
TABLE_1 = {"ViT-B/16": 86e6, "ViT-L/16": 307e6, "ViT-H/14": 632e6}


@pytest.mark.parametrize("name", TABLE_1)
def test_table_1(name: str) -> None:
    """Source: Dosovitskiy et al. 2021, Table 1; the exact counts are timm's (its parity tests load its weights)."""
    count = costs.num_params(paper_model(name), CLASSIFY)
    assert count == TIMM_PARAMS[name]
    assert count == pytest.approx(TABLE_1[name], rel=0.015)


TABLE_6 = [
    ("ViT-B/32", 7, 55), ("ViT-B/16", 7, 224), ("ViT-L/32", 7, 196), ("ViT-L/16", 7, 783), ("ViT-L/16", 14, 1567),
    ("ViT-H/14", 14, 4262), ("R50x1", 7, 50), ("R50x2", 7, 199), ("R101x1", 7, 96), ("R152x1", 7, 141),
    ("R152x2", 7, 563), ("R152x2", 14, 1126), ("R200x3", 14, 3306), ("R50x1+ViT-B/32", 7, 106),
    ("R50x1+ViT-B/16", 7, 274), ("R50x1+ViT-L/32", 7, 246), ("R50x1+ViT-L/16", 7, 859), ("R50x1+ViT-L/16", 14, 1668),
]  # fmt: skip
"""Model, epochs of JFT, exaFLOPs. Source: Dosovitskiy et al. 2021, Table 6."""
TOLERANCE = {"vit": 0.025, "resnet": 0.05}


@pytest.mark.parametrize(("name", "epochs", "exaflops"), TABLE_6)
def test_table_6(name: str, epochs: int, exaflops: float) -> None:
    model = paper_model(name)
    ours = costs.train_flops(model, CLASSIFY, JFT_IMAGES * epochs) / 1e18
    print(f"{name} {epochs} epochs: {ours:.1f} exaFLOPs, the paper's {exaflops} ({ours / exaflops - 1:+.1%})")
    if model.family in TOLERANCE:
        assert ours == pytest.approx(exaflops, rel=TOLERANCE[model.family])


def test_macs_of_one_layer_by_hand() -> None:
    macs = costs.forward_macs(paper_model("ViT-B/16"), CLASSIFY)
    assert macs["patch_embed.proj"] == 196 * 768 * 768
    assert macs["blocks.0.attn.qkv"] == 197 * 768 * 3 * 768
    assert macs["blocks.11.attn.scores"] == 197 * 197 * 768
    assert macs["head"] == 768 * 1000
    assert costs.forward_flops(paper_model("ViT-B/16"), CLASSIFY) == 2 * sum(macs.values())


def test_train_flops_is_three_forward_passes() -> None:
    model = paper_model("R26x1")
    assert costs.train_flops(model, CLASSIFY, 10) == 30 * costs.forward_flops(model, CLASSIFY)


def test_masked_patches_have_a_mask_token_and_no_class_head() -> None:
    names = {p.name for p in costs.parameters(paper_model("ViT-Ti/16"), ObjectiveSpec(name="masked_patch"))}
    assert {"mask_token", "mpp_head.weight", "mpp_head.bias"} <= names
    assert "head.weight" not in names


@pytest.mark.parametrize("name", [row[0] for row in TABLE_6])
def test_the_papers_models_can_be_built(name: str) -> None:
    assert costs.check(paper_model(name)) == []


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("ViT-Ti/5", {"img_size": 8}, "model.patch_size: 5 does not divide images of 8 px; 1, 2, 4, 8 do"),
        ("ViT-Ti/16", {"img_size": 8}, "model.patch_size: 16 does not divide images of 8 px"),
        ("ViT-Ti/16", {"num_heads": 5}, "model.num_heads: 5 does not divide embed_dim 192; 1, 2, 3, 4, 6"),
        ("ViT-Ti/16", {"mlp_ratio": 0.001}, "less than one unit"),
        ("ViT-Ti/16", {"class_token": False}, "token reads the class token"),
        ("ViT-Ti/16", {"pos_embed": "rope_2d", "num_heads": 32}, "divisible by 4; it is 6"),
        ("ViT-Ti/16", {"pos_embed": "learned_2d", "embed_dim": 15}, "divisible by 2; it is 15"),
        ("ViT-Ti/16", {"pos_embed": "sincos_2d", "embed_dim": 18}, "divisible by 4; it is 18"),
        ("ViT-Ti/16", {"pos_embed": "relative_2d", "relative_clip": 14}, "the largest offset of this grid, 13"),
        ("ViT-Ti/16", {"relative_clip": 3}, "learned_1d has no relative offsets"),
        ("ViT-Ti/16", {"pos_embed": "none", "pos_placement": "every_layer"}, "none has only stem"),
        ("ViT-Ti/16", {"pos_embed": "sincos_2d", "pos_placement": "every_layer"}, "every_layer_shared"),
        ("ViT-Ti/7", {"stem": "conv"}, "must be 2, 4, 8, ...; it is 7"),
        ("ViT-Ti/16", {"stem": "conv", "embed_dim": 24}, "divisible by 16; it is 24"),
        ("R26x1+ViT-Ti/16", {"img_size": 8}, "the feature map is empty: images of 8 px under a total stride of 16"),
        ("R26x1+ViT-Ti/16", {"patch_size": 3}, "does not divide the feature map of 14 cells; 1, 2, 7, 14 do"),
        ("R26x1+ViT-Ti/16", {"stem": "conv"}, "a hybrid's stem is its backbone"),
        ("R26x1", {"img_size": 16}, "the feature map is empty"),
        ("R26x1", {"layers": (1, 1, 1, 1, 1)}, "at most 4"),
        ("R26x1", {"head": "mlp_tanh"}, "a ResNet's is linear"),
    ],
)
def test_what_cannot_be_built_is_said(name: str, changes: dict[str, Any], message: str) -> None:
    heads = {"num_heads": 3} if "embed_dim" in changes else {}
    problems = costs.check(paper_model(name, **{**heads, **changes}))
    assert len(problems) == 1
    assert message in problems[0]


def test_all_problems_come_at_once() -> None:
    assert len(costs.check(paper_model("ViT-Ti/5", img_size=8, num_heads=5))) == 2


@pytest.mark.parametrize(
    ("name", "changes", "target"),
    [
        ("R26x1", {}, "mean_colour"),
        ("R26x1+ViT-Ti/16", {}, "mean_colour"),
        ("ViT-Ti/16", {"stem": "conv"}, "mean_colour"),
        ("ViT-Ti/1", {"img_size": 8}, "downsampled"),
    ],
)
def test_masked_patches_need_patches(name: str, changes: dict[str, Any], target: Any) -> None:
    model = paper_model(name, **changes)
    problems = costs.check(model, ObjectiveSpec(name="masked_patch", target=target))
    assert len(problems) == 1
    assert costs.check(model) == []


def test_the_closed_form_needs_no_torch() -> None:
    code = "import sys, vitbench.model.costs, vitbench.spec.model_names; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
