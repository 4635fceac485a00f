"""`evaluate.test: false`: part of the id, no test metric, no probe; the default changes no id."""

from __future__ import annotations

import pytest

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, Facts, facts
from vitbench.plan.resolve import resolve
from vitbench.plan.trial_id import trial_id
from vitbench.spec.metrics import measured
from vitbench.spec.trial import EvaluateSpec, TrainSpec, TrialSpec


@pytest.fixture(scope="module")
def digits() -> Facts:
    return facts("digits", DataOptions())


def spec_with(evaluate: EvaluateSpec) -> TrialSpec:
    return TrialSpec(train=TrainSpec(steps=10), evaluate=evaluate)


def test_it_is_part_of_the_id_and_its_default_is_not(digits: Facts) -> None:
    unread, read = (resolve(spec_with(EvaluateSpec(test=test)), digits) for test in (False, True))
    ids = [trial_id(spec, 0, digits.fingerprint, {}, None) for spec in (unread, read)]
    assert ids[0] != ids[1]
    assert "evaluate" not in read.model_dump(exclude_defaults=True)


def test_no_test_metric_is_promised(digits: Facts) -> None:
    names = measured(resolve(spec_with(EvaluateSpec(test=False)), digits), classifies=True)
    assert "val_top1_percent" in names
    assert not [name for name in names if name.startswith("test_")]


@pytest.mark.parametrize("probe", [EvaluateSpec(test=False, knn=5), EvaluateSpec(test=False, few_shot=(1,))])
def test_probes_need_test_images(probe: EvaluateSpec, digits: Facts) -> None:
    with pytest.raises(InputError, match=r"evaluate\.test: probes are scored on test images"):
        resolve(spec_with(probe), digits)
