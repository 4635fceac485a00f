"""A metric that no arm measures is refused before training."""

from __future__ import annotations

import pytest
from made_plans import experiment, facts_of

from vitbench.base.errors import InputError
from vitbench.plan.metric_check import check_metrics
from vitbench.plan.trials import Builder


def check(text: str) -> None:
    made = experiment(text)
    check_metrics(made, Builder(made, facts_of))


def test_the_reports_metric_must_be_measured() -> None:
    with pytest.raises(InputError, match=r"report\.metric: no arm measures 'test_f1'"):
        check("report: {metric: test_f1}")


def test_a_probe_is_measured_only_if_it_is_asked_for() -> None:
    with pytest.raises(InputError, match=r"report\.metric: no arm measures 'few_shot_5_percent'"):
        check("report: {metric: few_shot_5_percent}")
    check("report: {metric: few_shot_5_percent}\nfactors: {evaluate.few_shot: [[5], [1, 5]]}")


def test_a_claim_may_read_an_analysis_but_no_unknown_metric() -> None:
    claim = "claims: [{{id: A, form: difference, arms: [{{metric: {0}}}, {{metric: {0}}}], above_points: 0}}]"
    check(claim.format("attention_distance_last_percent"))
    with pytest.raises(InputError, match="claim A: no arm measures 'test_f1'"):
        check(claim.format("test_f1"))
