"""Arms in file order, and what a reference to one means."""

from __future__ import annotations

from typing import Any

import pytest
from made_plans import experiment

from vitbench.base.errors import InputError
from vitbench.spec.arms import arms, find_arms, level_name

CROSSED = experiment("""
factors:
  model.global_pool: [token, avg, map]
  model.head: [linear, mlp_tanh]
  train.opt: [adamw, sgd]
exclude:
  - {model.global_pool: map, model.head: mlp_tanh}
""")
NAMED = experiment("""
arms:
  wide: {model.embed_dim: 64}
  deep: {model.depth: 4}
factors:
  model.global_pool: [token, avg]
""")


def names(made: Any) -> list[str]:
    return [arm.name for arm in arms(made)]


def test_arms_are_crossed_in_file_order_less_what_is_excluded() -> None:
    assert names(CROSSED) == [
        f"{pool}+{head}+{opt}"
        for pool in ("token", "avg", "map") for head in ("linear", "mlp_tanh") for opt in ("adamw", "sgd")
        if (pool, head) != ("map", "mlp_tanh")
    ]  # fmt: skip


def test_named_arms_are_levels_of_one_more_factor() -> None:
    assert names(NAMED) == ["wide+token", "wide+avg", "deep+token", "deep+avg"]
    assert dict(arms(NAMED)[3].assignment) == {"model.depth": 4, "model.global_pool": "avg"}
    assert dict(arms(NAMED)[3].levels) == {"arm": "deep", "model.global_pool": "avg"}


def test_without_factors_there_is_one_arm() -> None:
    assert names(experiment("")) == ["baseline"]


@pytest.mark.parametrize(
    ("level", "name"), [(True, "true"), (1e-3, "0.001"), (8, "8"), ("avg", "avg"), ((3, 4, 6), "3x4x6"), (None, "None")]
)
def test_names_of_levels(level: Any, name: str) -> None:
    assert level_name(level) == name


@pytest.mark.parametrize(
    ("ref", "found"),
    [
        ("avg", ["avg+linear+adamw"]),
        ("sgd", ["token+linear+sgd"]),
        ("avg+mlp_tanh+sgd", ["avg+mlp_tanh+sgd"]),
        ({"model.global_pool": "map", "train.opt": "sgd"}, ["map+linear+sgd"]),
        ({"train.opt": "sgd", "over": ["model.head"]}, ["token+linear+sgd", "token+mlp_tanh+sgd"]),
        ({"model.global_pool": "map", "over": ["model.head"]}, ["map+linear+adamw"]),
        ({}, ["token+linear+adamw"]),
    ],
)
def test_what_a_reference_means(ref: Any, found: list[str]) -> None:
    assert [arm.name for arm in find_arms(CROSSED, ref)] == found


def test_factors_that_are_not_named_stand_where_the_claim_says() -> None:
    assert find_arms(CROSSED, "avg", where={"train.opt": "sgd"})[0].name == "avg+linear+sgd"


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("avgg", "'avgg': no such arm or level. Did you mean 'avg'"),
        ({"model.depth": 2}, "model.depth is not a factor; factors are model.global_pool, model.head, train.opt"),
        ({"model.head": "linear", "over": ["model.width"]}, "model.width is not a factor"),
        ({"model.global_pool": "map", "model.head": "mlp_tanh"}, "no such arm"),
    ],
)
def test_bad_references(ref: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        find_arms(CROSSED, ref)
    assert "\n" not in str(error.value)


def test_a_level_of_two_factors_must_be_told_apart() -> None:
    both = experiment("factors:\n  model.depth: [2, 4]\n  model.num_heads: [2, 4]\n")
    with pytest.raises(InputError, match=r"a level of model.* and of model.*; write"):
        find_arms(both, "4")
