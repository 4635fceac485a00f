"""How arms stand: right values by hand, error rates by drawing, and the choice for each aim."""

from __future__ import annotations

import numpy as np
import pytest

from vitbench.recommend.arm_gaps import arm_gaps, noise_of, pick, seeds_to_settle
from vitbench.recommend.questions import MARGIN
from vitbench.stats.distributions import t_quantile


def test_two_arms_are_a_paired_t_interval() -> None:
    a, b = [80.0, 82.0, 81.0, 83.0], [79.0, 80.0, 80.5, 81.0]
    leader, other = arm_gaps({"b": dict(enumerate(b)), "a": dict(enumerate(a))})
    differences = np.array(a) - np.array(b)
    assert (leader.arm, leader.state, other.arm) == ("a", "leads", "b")
    assert other.behind == pytest.approx(differences.mean())
    assert other.half == pytest.approx(float(t_quantile(0.95, 3)) * differences.std(ddof=1) / 2.0)


@pytest.mark.parametrize(
    ("gap", "noise", "state"), [(5.0, 0.1, "behind"), (0.1, 0.1, "equal"), (0.8, 1.0, "open"), (3.0, 0.0, "open")]
)
def test_what_a_gap_means(gap: float, noise: float, state: str) -> None:
    wiggle = (noise, -noise, noise, -noise)
    scores = {"a": dict.fromkeys(range(4), 80.0), "b": {s: 80.0 - gap + w for s, w in enumerate(wiggle)}}
    assert arm_gaps(scores)[1].state == state or noise == 0.0


def test_scores_that_are_equal_by_chance_have_the_floor_of_counting() -> None:
    scores = {"a": dict.fromkeys(range(2), 100.0), "b": dict.fromkeys(range(2), 100.0)}
    assert arm_gaps(scores)[1].state == "equal", "without a floor, two seeds would seem to be sure"
    assert arm_gaps(scores, floor=50.0 / 16)[1].state == "open"


def test_an_arm_without_scores_is_left_out_and_a_dropped_one_is_not() -> None:
    scores = {"a": {0: 80.0, 1: 81.0, 2: 80.5}, "b": {0: 70.0, 1: 70.5}, "c": {}}
    gaps = arm_gaps(scores)
    assert [gap.arm for gap in gaps] == ["a", "b"]
    assert (gaps[1].num_seeds, gaps[1].behind) == (2, pytest.approx(10.25))
    assert arm_gaps({}) == ()


def test_an_arm_that_was_dropped_never_leads() -> None:
    scores = {"lucky": {0: 99.0}, "steady": {0: 80.0, 1: 80.0}}
    assert arm_gaps(scores)[0].arm == "steady"


def test_the_best_arm_is_rarely_called_behind() -> None:
    """At most 5% of the time, and the control with a fifth of the width is wrong far more often."""
    rng = np.random.default_rng(0)
    called, control, runs = 0, 0, 600
    for _ in range(runs):
        scores = {f"arm{k}": dict(enumerate(80.0 + rng.standard_normal(4))) for k in range(4)}
        best = next(gap for gap in arm_gaps(scores) if gap.arm == "arm0")
        called += best.state == "behind"
        control += best.half is not None and best.behind > best.half / 5.0
    assert called / runs <= 0.05 + 2.0 * (0.05 * 0.95 / runs) ** 0.5
    assert control / runs > 0.25


def test_the_choice_for_each_aim() -> None:
    scores = {
        "a": dict.fromkeys(range(3), 80.0),
        "b": dict.fromkeys(range(3), 79.5),
        "c": dict.fromkeys(range(3), 60.0),
    }
    gaps = arm_gaps(scores)
    assert pick(gaps) == "a"
    assert pick(gaps, {"a": 3.0, "b": 2.0, "c": 1.0}) == "b", "the cheapest within the margin; c is far behind"
    assert pick(gaps, {"a": 1.0, "b": 1.0, "c": 1.0}) == "a", "a tie goes to the better one"
    assert MARGIN == 1.0


def test_seeds_to_settle_grow_with_the_noise() -> None:
    def needed(noise: float) -> int | None:
        wiggle = (noise, -noise, noise, -noise)
        scores = {"a": dict.fromkeys(range(4), 80.0), "b": {s: 79.7 + w for s, w in enumerate(wiggle)}}
        return seeds_to_settle(arm_gaps(scores)[1])

    few, many = needed(0.5), needed(2.0)
    assert few is not None
    assert many is None or many > few
    assert noise_of({"a": {0: 1.0}}) is None
