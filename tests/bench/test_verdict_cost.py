"""Core time of a verdict: the stopping rules, the error rates that they keep or break, and the products on the page."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vitbench.bench.simulated_race import ArmLook
from vitbench.bench.verdict_cost import (
    BEFORE,
    MOST,
    PLAIN,
    QUESTIONS,
    RULES,
    THIS,
    StoppingRule,
    bonferroni,
    costs_of,
    every_seed,
    judged,
    settled_at,
    simulated,
    table,
)

EQUALITY, DIFFERENCE = QUESTIONS


def looks(scores: np.ndarray) -> dict[int, tuple[ArmLook, ArmLook]]:
    """An arm of these scores [R, 20] against an arm of zeros, at every seed."""
    none = np.zeros(len(scores))
    count = np.zeros(len(scores), dtype=np.int64)
    return {
        n: (ArmLook(scores[:, :n], none, count), ArmLook(np.zeros_like(scores[:, :n]), none, count))
        for n in range(3, MOST + 1)
    }


def test_a_test_after_every_seed_is_scipys_until_it_settles() -> None:
    """An equality by two one-sided tests at 5%; below it, the same test at the other side of the margin."""
    scores = np.random.default_rng(3).normal(0.9, 0.9, (40, MOST))
    at, supported = settled_at(looks(scores), every_seed(), EQUALITY, 0.0, PLAIN)
    assert 0 < supported.sum() < len(scores)
    for row, n, yes in zip(scores, at, supported, strict=True):
        inside = [k for k in range(3, MOST + 1) if _limits(row, k)[0] > -1.0 and _limits(row, k)[1] < 1.0]
        outside = [k for k in range(3, MOST + 1) if _limits(row, k)[0] > 1.0 or _limits(row, k)[1] < -1.0]
        first = min(inside + outside, default=0)
        assert (n, yes) == (first, first in inside)


def _limits(row: np.ndarray, n: int) -> tuple[float, float]:
    found = stats.ttest_1samp(row[:n], 0.0).confidence_interval(0.90)
    return found.low, found.high


def test_bonferroni_shares_the_error() -> None:
    plan = bonferroni((6, 20))
    assert plan.c95 == pytest.approx((stats.t.ppf(1 - 0.025 / 2, 5), stats.t.ppf(1 - 0.025 / 2, 19)))
    assert plan.c90 == pytest.approx((stats.t.ppf(1 - 0.05 / 2, 5), stats.t.ppf(1 - 0.05 / 2, 19)))


def test_the_race_keeps_its_error_rates_and_the_careless_rule_does_not() -> None:
    race, old, every = RULES[0], RULES[1], RULES[3]
    assert (race.who, old.who, every.who, every.every) == (THIS, BEFORE, PLAIN, True)
    assert judged(race, EQUALITY, 1000)["holds"]
    assert not judged(every, EQUALITY, 1000)["holds"]
    assert not judged(every, DIFFERENCE, 1000)["holds"]
    assert simulated(race, 0, DIFFERENCE, "typical", 1000)["supported"] > 0.95


def test_a_rule_that_must_hold_takes_more_tuning_seeds() -> None:
    held = judged(StoppingRule("held", BEFORE, None), EQUALITY, 1000)
    assert held["holds"]
    assert held["tuning_seeds"] > 2
    shipped = judged(StoppingRule("held", BEFORE, 2), EQUALITY, 1000)
    assert shipped["trainings"] < held["trainings"]


def test_a_cost_is_a_start_and_trainings_of_two_kinds() -> None:
    seconds = {"start": 3.0, "tuning": [1.0, 1.5], "training": [2.0, 2.5]}
    careful = costs_of(StoppingRule("", PLAIN, 5), 4, {"trainings": 50.0, "tuning_seeds": 5}, seconds)
    assert careful == [3.0 + 40 * 1.0 + 10 * 2.0, 3.0 + 40 * 1.5 + 10 * 2.5]
    raced = costs_of(StoppingRule("", THIS, 0), 4, {"trainings": 50.0, "tuning_seeds": 0}, seconds)
    assert raced == [3.0 + 50 * 2.0, 3.0 + 50 * 2.5]


def test_the_page_says_which_rule_errs_too_often() -> None:
    seconds = {"start": 3.0, "tuning": [1.0, 1.0], "training": [2.0, 2.0]}
    counts = {"trainings": 50.0, "seeds": 6.0, "settled": 1.0, "supported": 1.0, "wrong": 0.026, "tuning_seeds": 0}
    careless = {**counts, "wrong": 0.264, "holds": False, "tuning_seeds": 5}
    found = {
        "simulated": {RULES[0].name: {**counts, "holds": True}, RULES[3].name: careless},
        "core_seconds": {RULES[0].name: [100.0, 110.0], RULES[3].name: [200.0, 220.0]},
    }
    measured = {"trials": 3, "runs": 100, "steps": 300, "load": 1.0, "seconds": {THIS: seconds, PLAIN: seconds}}
    text = table({**measured, "claims": {"CLS-01": found}})
    assert "| this build | 3.00 | 1.00 | 2.00 |" in text
    assert f"| {RULES[0].name} | - | 50.0 | 6.0 | 100.0% | 2.6% | 105 | 1 |" in text
    assert f"| {RULES[3].name} | 5 | 50.0 | 6.0 | 100.0% | 26.4%, too often | 210 | 2.00 [2.00, 2.00] |" in text
