"""Metrics: direction, unit, chance, and what a spec measures."""

from __future__ import annotations

import pytest

from vitbench.base.errors import InputError
from vitbench.spec.metrics import is_analysis, measured, metric_named, refuse_unmeasured
from vitbench.spec.trial import EvaluateSpec, TrialSpec


def test_accuracies_losses_and_costs_have_their_own_direction_and_unit() -> None:
    top1, loss, params = (metric_named(name) for name in ("test_top1_percent", "test_loss", "num_params"))
    assert (top1.better, top1.points, top1.sign, top1.chance(10)) == ("higher", "points", 1.0, 10.0)
    assert (loss.better, loss.points, loss.sign, loss.chance(10)) == ("lower", "nats", -1.0, None)
    assert (params.better, params.points) == (None, "parameters")


def test_only_scores_that_count_test_images_have_a_counting_step() -> None:
    names = ("test_top1_percent", "few_shot_5_percent", "val_top1_percent", "robust_clean_percent", "test_loss")
    assert [metric_named(name).counted for name in names] == [True, True, False, False, False]


def test_a_metric_of_an_analysis_is_ranked_only_if_it_is_an_accuracy() -> None:
    assert metric_named("robust_clean_percent").better == "higher"
    assert metric_named("pos_distance_spearman").better is None
    assert is_analysis("attention_distance_last_percent")
    assert not is_analysis("test_f1")


def test_a_spec_measures_what_its_probes_and_its_validation_images_allow() -> None:
    plain, probed = TrialSpec(), TrialSpec(evaluate=EvaluateSpec(few_shot=(5,), knn=3))
    assert "few_shot_5_percent" not in measured(plain, True)
    assert {"few_shot_5_percent", "knn_percent", "val_top1_percent"} <= set(measured(probed, True))
    assert "test_top1_percent" not in measured(plain, False)


def test_a_metric_that_nothing_measures_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"no arm measures 'test_top1'\. Did you mean 'test_top1_percent'"):
        refuse_unmeasured("x: report.metric", "test_top1", measured(TrialSpec(), True))
