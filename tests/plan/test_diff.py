"""Every way in which two arms differ, and the refusal of arms that differ in more than they declare."""

from __future__ import annotations

import pytest
from made_plans import experiment, facts_of

from vitbench.base.errors import InputError
from vitbench.plan.arm_diff import arm_difference, check_arms
from vitbench.plan.trials import Builder
from vitbench.spec.arms import find_arms
from vitbench.spec.experiment import Experiment


def check(made: Experiment) -> None:
    check_arms(made, Builder(made, facts_of))


def differences(made: Experiment, a: str, b: str) -> dict[str, tuple[str, str]]:
    found = arm_difference(Builder(made, facts_of), find_arms(made, a)[0], find_arms(made, b)[0])
    return {f"{d.kind} {d.key}": (d.a, d.b) for d in found}


def test_every_difference_is_listed() -> None:
    found = differences(experiment("factors: {model.global_pool: [token, avg]}"), "token", "avg")
    assert found["spec model.global_pool"] == ("token", "avg")
    assert found["spec model.class_token"] == ("True", "False")
    assert found["tensor cls_token"] == ("[1, 1, 48] " + found["tensor cls_token"][0].split("] ")[1], "absent")
    assert found["tensor pos_embed"][0].startswith("[1, 17, 48]")
    assert found["tensor pos_embed"][1].startswith("[1, 16, 48]")
    assert {"count parameters", "count forward FLOPs"} < found.keys()
    assert len(found) == 6


def test_an_initialisation_is_a_difference() -> None:
    found = differences(experiment("factors: {model.weight_init: [jax, timm]}"), "jax", "timm")
    assert any(key.startswith("tensor blocks.0") for key in found)
    assert "count parameters" not in found


@pytest.mark.parametrize(
    "factors",
    [
        "model.global_pool: [token, avg, map]",
        "model.pos_embed: [learned_1d, none, learned_2d, relative_1d, relative_2d, sincos_2d, rope_2d]",
        "model.pos_placement: [stem, every_layer, every_layer_shared]",
        "model.patch_size: [2, 4]",
        "model.depth: [2, 4]",
        "model.head: [linear, mlp_tanh]",
        "data.train_fraction: [1.0, 0.5]",
        "data.classes: [[0, 1, 2, 3], [0, 1]]",
        "train.lr: [1e-3, 2e-3]",
        "train.augment: [light, medium]",
        "train.batch_size: [64, 32]",
        "train.objective.name: [classify, masked_patch]",
        "data.name: [fake, colour]",
    ],
)
def test_one_factor_explains_what_follows_from_it(factors: str) -> None:
    check(experiment(f"factors:\n  {factors}\n"))


def test_named_arms_explain_what_they_set() -> None:
    check(experiment("arms:\n  a: {}\n  b: {model.depth: 4, train.lr: 2e-3}\n"))


def test_equal_arms_are_refused() -> None:
    with pytest.raises(InputError, match="arms a and b compute the same; drop one"):
        check(experiment("arms:\n  a: {model.patch_size: 2}\n  b: {}\n"))


def test_a_tensor_that_the_field_does_not_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were average pooling also to move the final norm, as timm's does, the arms would be refused."""
    from vitbench.plan import arm_diff

    made = experiment("factors: {model.global_pool: [token, avg]}")
    check(made)
    monkeypatch.setitem(arm_diff.TENSORS, "model.global_pool", frozenset({"class_token"}))
    with pytest.raises(InputError, match="arms token and avg differ in pos_embed") as error:
        check(made)
    assert "which model.global_pool does not explain; say why under differs:" in str(error.value)
    check(made.model_copy(update={"differs": {"pos_embed": "one token less"}}))


def test_a_key_that_the_field_does_not_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from vitbench.plan import arm_diff

    made = experiment("factors: {train.augment: [light, medium]}")
    monkeypatch.setattr(arm_diff, "DERIVED", {})
    with pytest.raises(InputError, match=r"differ in train\.mixup \(0\.0 and 0\.2\)"):
        check(made)
    check(made.model_copy(update={"differs": {"train.mixup": "medium means it"}}))


def test_every_arm_of_a_crossing_is_held_against_a_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pooling is crossed with two other factors; its two cells at the same depth and rate are compared."""
    from vitbench.plan import arm_diff

    made = experiment("factors:\n  model.depth: [2, 4]\n  model.global_pool: [token, avg]\n  train.lr: [1e-3, 2e-3]\n")
    check(made)
    monkeypatch.setitem(arm_diff.TENSORS, "model.global_pool", frozenset({"class_token"}))
    with pytest.raises(InputError, match="differ in pos_embed"):
        check(made)


@pytest.mark.parametrize("field", ["model.pos_embed: [learned_1d, none]", "model.pos_embed: [learned_1d, sincos_2d]"])
def test_a_field_that_the_other_arm_does_not_read_needs_no_reason(field: str) -> None:
    """`none` has no row for the class token, so `no_embed_class` goes back to its default there."""
    text = f"factors: {{{field}}}\nseeds: 1\n"
    made = experiment(text).model_copy(
        update={"base": {"data": {"name": "fake"}, "model": {"name": "Mu/2", "no_embed_class": True},
                         "train": {"epochs": 2}}}
    )  # fmt: skip
    builder = Builder(made, facts_of)
    check_arms(made, builder)
    assert "model.no_embed_class" in {d.key for d in arm_difference(builder, *builder.arms.values())}
