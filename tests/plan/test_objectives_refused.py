"""Objectives that the plan refuses: another network that no stage gives, a column that the data lack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import pytest
from made_plans import experiment, facts_of
from model_specs import TINY, resolved

from vitbench.base.errors import InputError
from vitbench.model.costs import forward_flops, train_flops
from vitbench.model.objective import FROZEN
from vitbench.plan.trials import Builder
from vitbench.spec import mechanism as registry
from vitbench.spec.trial import ObjectiveSpec
from vitbench.train.objectives.classify import Classify


class Distill(Classify):
    name: ClassVar[str] = "distill_of_this_test"
    networks: ClassVar[Mapping[str, str]] = {"teacher": FROZEN}


class Boxes(Classify):
    name: ClassVar[str] = "boxes_of_this_test"
    columns: ClassVar[frozenset[str]] = frozenset({"image", "boxes"})


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    for cls in (Distill, Boxes):
        registry._REGISTRY["objective", cls.name] = cls
    yield
    for cls in (Distill, Boxes):
        registry._REGISTRY.pop(("objective", cls.name), None)
    registry._NAMED.clear()


for _cls in (Distill, Boxes):
    registry._REGISTRY.pop(("objective", _cls.name))


def resolve(name: str) -> None:
    made = experiment(f"factors: {{train.objective.name: [classify, {name}]}}")
    builder = Builder(made, facts_of)
    for arm in builder.arms.values():
        builder.stages(arm, {})


def test_an_objective_that_needs_another_network_is_refused_by_the_plan() -> None:
    with pytest.raises(
        InputError, match=r"distill_of_this_test needs another network \(teacher\) from an earlier stage"
    ):
        resolve(Distill.name)


def test_a_column_that_the_data_lack_is_refused_by_the_plan() -> None:
    with pytest.raises(InputError, match="boxes_of_this_test reads boxes; fake has no such column"):
        resolve(Boxes.name)


def test_another_networks_forward_pass_is_in_the_flops() -> None:
    model = resolved(TINY)
    forward = forward_flops(model, ObjectiveSpec())
    assert train_flops(model, ObjectiveSpec(name=Distill.name), 2, {"teacher": 40}) == 2 * (3 * forward + 40)
    assert train_flops(model, ObjectiveSpec(), 2) == 6 * forward
