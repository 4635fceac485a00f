"""The normal form of a spec: derived fields filled, idle ones reset, durations turned into steps."""

from __future__ import annotations

import re
from typing import Any

import pytest
from made_plans import facts_of

from vitbench.base.errors import InputError
from vitbench.model.costs import train_flops
from vitbench.plan.resolve import MIN_STEPS, default_patch, resolve
from vitbench.spec.trial import EvaluateSpec, TrialSpec


def made(model: dict[str, Any] | None = None, *, data: dict[str, Any] | None = None, **train: Any) -> TrialSpec:
    written = {
        "model": {"name": "Mu/2"} if model is None else model,
        "data": {"name": "fake", **(data or {})},
        "train": train or {"epochs": 2},
    }
    spec = TrialSpec.model_validate(written)
    return resolve(spec, facts_of(spec.data.name))


@pytest.mark.parametrize(
    ("img_size", "patch"), [(8, 2), (28, 4), (32, 4), (64, 8), (224, 16), (96, 8), (16, 2), (48, 6), (7, 7), (1, None)]
)
def test_default_patch(img_size: int, patch: int | None) -> None:
    assert default_patch(img_size) == patch


def test_what_follows_the_data() -> None:
    model = made(data={"name": "colour", "img_size": 16, "classes": [3, 0]}).model
    assert (model.img_size, model.in_chans, model.num_classes) == (16, 3, 2)
    assert made({"name": "Mu"}, data={"img_size": 32}).model.patch_size == 4


def test_a_name_and_the_fields_that_it_stands_for_are_one_spec() -> None:
    fields = {"embed_dim": 48, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0, "patch_size": 2}
    assert made({"name": "Mu/2"}) == made({"name": "ViT-Mu/2"}) == made({"family": "vit", **fields}) == made({})
    assert made({"name": "Mu/2", "depth": 3}).model.depth == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"pos_embed": "none", "no_embed_class": True},
        {"pos_embed": "none", "layers": (1, 1), "norm_layer": "batch"},
        {"global_pool": "token", "final_norm": "after_pool"},
        {"global_pool": "avg", "no_embed_class": True},
    ],
)
def test_fields_without_effect_change_nothing(changes: dict[str, Any]) -> None:
    effective = {k: v for k, v in changes.items() if k in ("pos_embed", "global_pool")}
    assert made({"name": "Mu/2", **changes}) == made({"name": "Mu/2", **effective})


@pytest.mark.parametrize(
    "changes",
    [
        {"no_embed_class": True},
        {"global_pool": "avg", "final_norm": "after_pool"},
        {"final_norm": "none"},
        {"pos_placement": "every_layer"},
    ],
)
def test_fields_with_effect_stay(changes: dict[str, Any]) -> None:
    assert made({"name": "Mu/2", **changes}) != made(
        {"name": "Mu/2", "global_pool": changes.get("global_pool", "token")}
    )


def test_training_fields_without_effect() -> None:
    assert made(epochs=2, momentum=0.5) == made(epochs=2)
    assert made(epochs=2, momentum=0.5, opt="sgd") != made(epochs=2, opt="sgd")
    masked = {"name": "masked_patch"}
    assert made(epochs=2, objective=masked, smoothing=0.1, mixup=0.5) == made(epochs=2, objective=masked)
    idle = {"name": "classify", "target": "pixels", "mask_ratio": 0.1}
    assert made(epochs=2, objective=idle) == made(epochs=2)
    assert made(epochs=2, augment="medium").train.mixup == 0.2
    assert made(epochs=2).train.mixup == 0.0


def test_how_probes_are_made_counts_where_there_are_some() -> None:
    def resolved(**evaluate: Any) -> EvaluateSpec:
        spec = TrialSpec.model_validate(
            {"data": {"name": "fake", "classes": [0, 1]}, "train": {"epochs": 2}, "evaluate": evaluate}
        )
        return resolve(spec, facts_of("fake")).evaluate

    assert resolved(few_shot_l2=10.0, few_shot_draws=9, few_shot_classes="held_out") == EvaluateSpec()
    assert resolved(few_shot_l2=10.0, knn=5, few_shot_classes="held_out").few_shot_classes == "held_out"
    assert resolved(few_shot_l2=10.0, knn=5) == EvaluateSpec(knn=5)
    assert resolved(few_shot_l2=10.0, few_shot=[5]).few_shot_l2 == 10.0


def test_a_stage_without_labels_has_no_head_to_choose() -> None:
    masked = {"objective": {"name": "masked_patch"}, "epochs": 2}
    assert made({"name": "Mu/2", "head": "mlp_tanh"}, **masked) == made({"name": "Mu/2"}, **masked)


def test_resolving_twice_changes_nothing() -> None:
    for model in ({"name": "Mu/2"}, {"name": "R14x0.25"}, {"name": "R14x0.25+Mu/4"}):
        once = made(model, data={"img_size": 32})
        assert resolve(once, facts_of("fake")) == once


def test_every_unit_of_duration() -> None:
    """435 of 512 images are trained on (15% of each 128 are 19), in batches of 64."""
    num_train = 4 * (128 - 19)
    assert made(epochs=5).train.steps == round(5 * num_train / 64)
    assert made(epochs=0.001).train.steps == 1
    assert made(images=1000).train.steps == 16
    assert made(steps=7).train.steps == 7
    spec = made(steps=1)
    step = train_flops(spec.model, spec.train.objective, 64)
    assert made(train_flops=step * 60.9).train.steps == 60, "a budget is never exceeded"
    same = [made(**{unit: value}) for unit, value in (("steps", 34), ("epochs", 5.0), ("images", 34 * 64))]
    assert same[0] == same[1] == same[2]


def test_equal_compute_is_equal() -> None:
    """Training FLOPs of unlike models lie within one step of the budget, or 2%."""
    for model in ({"name": "Mu/2"}, {"name": "Mu/4"}, {"name": "R14x0.25"}, {"name": "R14x0.25+Mu/4"}):
        spec = made(model, data={"img_size": 32}, train_flops=2e12)
        assert spec.train.steps is not None
        spent = train_flops(spec.model, spec.train.objective, spec.train.steps * 64)
        step = spent / spec.train.steps
        assert 0 <= 2e12 - spent <= step
        assert spec.train.steps >= MIN_STEPS


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": {"patch_size": 5}}, "model.patch_size: 5 does not divide images of 8 px; 1, 2, 4, 8 do"),
        ({"model": {"num_classes": 10}}, "model.num_classes: 10 does not fit the data fake, which have 4"),
        ({"model": {"in_chans": 3}}, "model.in_chans: 3 does not fit"),
        ({"model": {"img_size": 16}}, "model.img_size: 16 does not fit"),
        ({"model": {"name": "R26x1+Mu/32"}}, "the feature map is empty: images of 8 px"),
        ({"model": {"name": "Mu/2", "num_heads": 5}}, "model.num_heads: 5 does not divide embed_dim 48"),
        ({"data": {"name": "uneven"}}, "data uneven: images of unequal size; set data.img_size"),
        ({"data": {"train_fraction": 0.001}, "steps": 9}, "data.train_fraction: 0.001 of the 109 training images"),
        ({"data": {"classes": [1]}}, "data.classes: [1] is one class, and at least two are needed"),
        ({"data": {"classes": [1, 9]}}, "data.classes: no class 9; names are a, b, c, d, positions 0 to 3"),
        ({"data": {"train_fraction": 0.001}}, "data.train_fraction: 0.001 of the 109 training images of class 0"),
        ({"epochs": 1, "steps": 2}, "exactly one of epochs, steps, images, train_flops must be given; found"),
        ({"lr": 1e-3}, "found none of them"),
        ({"train_flops": 1e9}, f"needs at least {MIN_STEPS}"),
        ({"objective": {"name": "masked_patch"}, "steps": 1, "model": {"name": "R14x1"}}, "masked_patch needs patches"),
    ],
)  # fmt: skip
def test_clashes_are_one_clear_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as error:
        made(**given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("patch", "target"), [(2, "mean_colour"), (4, "downsampled")])
def test_a_down_sampled_target_of_one_cell_is_the_mean_colour(patch: int, target: str) -> None:
    spec = made({"name": f"Mu/{patch}"}, epochs=2, objective={"name": "masked_patch", "target": "downsampled"})
    assert spec.train.objective.target == target


def test_fields_that_no_part_reads_are_left_out() -> None:
    """A mixer without heads has no number of heads; attention pooling reads it again."""
    mixer = {"name": "Mu/2", "token_mixer": "depthwise", "global_pool": "avg"}
    plain, heads = (made({**mixer, **more}) for more in ({}, {"num_heads": 4, "qkv_bias": False}))
    assert plain == heads
    assert plain.model.num_heads is None
    pooled, other = (made({**mixer, "global_pool": "map", **m}) for m in ({}, {"num_heads": 4}))
    assert pooled != other
