"""Shorthand names."""

from __future__ import annotations

import pytest

from vitbench.base.errors import InputError
from vitbench.spec.model_names import variant


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (
            "ViT-B/16",
            {"family": "vit", "patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4.0},
        ),
        ("Ti/4", {"family": "vit", "patch_size": 4, "embed_dim": 192, "depth": 12, "num_heads": 3, "mlp_ratio": 4.0}),
        (
            "Axial-ViT-Ti/4",
            {
                "family": "vit",
                "patch_size": 4,
                "embed_dim": 192,
                "depth": 24,
                "num_heads": 3,
                "mlp_ratio": 4.0,
                "token_mixer": "axial_alternate",
                "global_pool": "avg",
            },
        ),
        ("Mu", {"family": "vit", "embed_dim": 48, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}),
        ("R26x1", {"family": "resnet", "layers": (2, 2, 2, 2), "width_factor": 1.0}),
        ("R14x0.25", {"family": "resnet", "layers": (1, 1, 1, 1), "width_factor": 0.25}),
        ("R200x3", {"family": "resnet", "layers": (3, 24, 36, 3), "width_factor": 3.0}),
    ],
)
def test_names(name: str, fields: dict[str, object]) -> None:
    assert variant(name) == fields


@pytest.mark.parametrize(
    ("stride", "root", "layers"),
    [(32, "imagenet", (3, 4, 6, 3)), (16, "imagenet", (3, 4, 9)), (8, "small", (3, 4, 6, 3)), (4, "small", (3, 4, 9))],
)
def test_a_hybrids_number_is_its_total_stride(stride: int, root: str, layers: tuple[int, ...]) -> None:
    fields = variant(f"R50x1+ViT-B/{stride}")
    assert fields["family"] == "hybrid"
    assert (fields["root"], fields["layers"], fields["patch_size"]) == (root, layers, 1)
    assert fields["embed_dim"] == 768


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-Tii/4", "Did you mean 'ViT-Ti/4'"),
        ("ti/4", "Did you mean 'Ti/4'"),
        ("Axial-ViT-Bb/32", "Did you mean 'Axial-ViT-B/32'"),
        ("vit-B/16", "Did you mean 'ViT-B/16'"),
        ("ViT-B/0", "at least 1"),
        ("R27x1", "one of 14, 20, 26, 50, 101, 152, 200"),
        ("R26x0", "above 0"),
        ("R50x1+ViT-B/12", "one of 4, 8, 16, 32"),
        ("R50x1+ViT-B", "one of 4, 8, 16, 32"),
        ("ResNet50", "not a model"),
        ("", "not a model"),
        ("R50x1+", "not a model"),
        ("ViT-B/16/2", "not a model"),
    ],
)
def test_bad_names_are_one_line(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        variant(name)
    assert "\n" not in str(raised.value)
    assert repr(name) in str(raised.value)


@pytest.mark.parametrize(
    ("timm_name", "name"),
    [
        ("vit_tiny_patch16_224", "ViT-Ti/16"),
        ("vit_small_patch32_384", "ViT-S/32"),
        ("deit_base_patch16_224", "ViT-B/16"),
        ("vit_large_patch14_224", "ViT-L/14"),
        ("vit_huge_patch14_224", "ViT-H/14"),
        ("vit_base_r50_s16_224", "R50x1+ViT-B/16"),
        ("vit_small_r26_s32_224", "R26x1+ViT-S/32"),
        ("resnetv2_101x3_bit", "R101x3"),
    ],
)
def test_timms_names_mean_the_same_models(timm_name: str, name: str) -> None:
    assert variant(timm_name) == variant(name)


def test_timms_names_have_timms_sizes() -> None:
    """Parameters of timm's model with 1000 classes at 224 px."""
    import timm
    import torch
    from model_specs import CLASSIFY, named

    from vitbench.model.costs import num_params

    with torch.device("meta"):
        theirs = timm.create_model("vit_tiny_patch16_224")
    assert num_params(named("vit_tiny_patch16_224"), CLASSIFY) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224.augreg_in21k", "resnetv2_50x1_bit.goog_in21k"])
def test_timms_weights_are_no_model_name(name: str) -> None:
    with pytest.raises(InputError, match=f"model.init_from: timm:{name}"):
        variant(name)


@pytest.mark.parametrize("name", ["vit_base_patch16_clip_224", "vit_medium_patch16_224", "swin_tiny_patch4"])
def test_timms_other_models_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="is not a model"):
        variant(name)
