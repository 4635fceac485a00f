"""Who is dropped from a race, and what the choice among the settings adds to the uncertainty of the arm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.anova import AnovaRM

from vitbench.stats.race import Race, residual_spread, survivors
from vitbench.stats.table import tabulate

SETTINGS = ({"train.lr": 1e-3}, {"train.lr": 2e-3}, {"train.lr": 4e-3})


def race(scores: list[list[float]], present: list[int] | None = None) -> Race:
    """A race of settings whose later seeds may be missing: `present` counts the seeds of each."""
    width = max(map(len, scores))
    table = np.array([[*row, *[0.0] * (width - len(row))] for row in scores])
    ran = np.array([[column < len(row) for column in range(width)] for row in scores])
    return Race(SETTINGS[: len(scores)], tuple(range(width)), table, ran, ran)


def test_the_residual_is_the_error_of_a_two_way_layout() -> None:
    """Of a whole table: the mean square of settings x seeds that statsmodels finds."""
    import pandas as pd

    scores = np.random.default_rng(1).normal(90, 1, (4, 6)) + np.arange(6)
    frame = pd.DataFrame([(k, s, scores[k, s]) for k in range(4) for s in range(6)], columns=["k", "s", "y"])
    found = AnovaRM(frame, "y", "s", within=["k"]).fit().anova_table
    means = scores.mean(axis=1)
    between = 6 * ((means - scores.mean()) ** 2).sum() / 3
    spread, df = residual_spread(scores, np.ones((4, 6), dtype=bool))
    assert df == int(found["Den DF"].iloc[0])
    assert between / spread**2 == pytest.approx(float(found["F Value"].iloc[0]))


def test_a_dropped_setting_adds_what_its_seeds_show() -> None:
    """k / (k + 1) times the squares of its gap to the mean of the racing settings, with one df less than its seeds."""
    scores = np.array([[90.0, 91.0, 92.0, 91.0], [90.5, 90.5, 92.5, 90.5], [80.0, 82.0, 0.0, 0.0]])
    ok = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]], dtype=bool)
    living = scores[:2]
    squares = ((living - living.mean(1, keepdims=True) - living.mean(0) + living.mean()) ** 2).sum()
    gap = scores[2, :2] - living[:, :2].mean(0)
    expected = (squares + 2 / 3 * ((gap - gap.mean()) ** 2).sum()) / (3 + 1)
    assert residual_spread(scores, ok) == (pytest.approx(expected**0.5), 4)


def test_a_setting_goes_exactly_beyond_its_threshold() -> None:
    rng = np.random.default_rng(2)
    base = rng.normal(90, 1, 5)
    scores = np.stack([base + rng.normal(0, 0.5, 5) for _ in range(3)])
    ok = np.ones((3, 5), dtype=bool)
    spread, df = residual_spread(scores, ok)
    threshold = scipy_stats.t.ppf(1 - 0.05 / 2, df) * spread * np.sqrt(2 / 5)
    for extra, stays in ((-1e-6, True), (1e-6, False)):
        moved = scores.copy()  # shifting a setting as a whole leaves the residual as it is
        moved[2] += scores[:2].mean(1).max() - threshold - extra - moved[2].mean()
        assert (2 in survivors(moved, ok, 0.05)) is stays


def test_nobody_is_dropped_without_degrees_of_freedom() -> None:
    assert survivors(np.array([[90.0], [10.0]]), np.ones((2, 1), dtype=bool), 0.05) == (0, 1)
    assert survivors(np.array([[90.0, 91.0]]), np.ones((1, 2), dtype=bool), 0.05) == (0,)


def test_an_unfinished_setting_is_not_a_dropped_one() -> None:
    rng = np.random.default_rng(5)
    close, far = 90 + rng.normal(0, 1, 6), 60 + rng.normal(0, 1, 6)
    points = (3, 6)
    assert race([close.tolist(), (close + rng.normal(0, 0.5, 6)).tolist(), far[:3].tolist()]).complete_at(
        6, points, 0.05
    )
    for num in (3, 5):
        unfinished = race([close.tolist(), (close[:num] + 0.1).tolist(), far[:3].tolist()])
        assert not unfinished.complete_at(6, points, 0.05)
    assert not race([close[:5].tolist(), far[:3].tolist()]).complete_at(6, points, 0.05)


def test_v_is_the_regret_of_drawing_again() -> None:
    """Two settings: the share of draws that pick the worse one is known, and each costs the squared gap."""
    rng = np.random.default_rng(3)
    scores = np.stack([90 + rng.normal(0, 1, 8), 89.6 + rng.normal(0, 1, 8)])
    found = race(scores.tolist())
    spread, _ = residual_spread(scores, np.ones((2, 8), dtype=bool))
    gap = abs(scores[0].mean() - scores[1].mean())
    wrong = scipy_stats.norm.sf(gap / (spread * np.sqrt(2 / 8)))
    assert found.variance == pytest.approx(wrong * gap**2, rel=0.1)


def test_v_shrinks_with_the_seeds() -> None:
    rng = np.random.default_rng(4)
    scores = rng.normal(90, 1, (3, 400))
    small = np.mean([race(scores[:, i : i + 5].tolist()).variance for i in range(0, 300, 5)])
    large = np.mean([race(scores[:, i : i + 20].tolist()).variance for i in range(0, 380, 20)])
    assert large == pytest.approx(small / 4, rel=0.35)


def test_a_dropped_setting_is_compared_at_its_own_seeds() -> None:
    found = race([[90.0, 91.0, 95.0, 95.0, 95.2], [90.1, 91.2, 94.9, 95.1, 95.0], [88.0, 89.0, 93.0]])
    assert found.picks is not None
    assert found.choice is not None
    assert found.choice.setting == {"train.lr": 2e-3}
    assert found.picks.gaps[2] == pytest.approx(np.mean([2.1, 2.2, 1.9]))
    assert found.dropped() == ((SETTINGS[2], 3, pytest.approx(np.mean([2.1, 2.2, 1.9]))),)
    assert found.racing() == SETTINGS[:2]


def test_one_setting_left_of_one_has_no_v() -> None:
    assert race([[90.0, 91.0]]).variance == 0.0


def test_another_quantity_has_v_in_its_own_unit() -> None:
    rng = np.random.default_rng(5)
    found = race((90 + rng.normal(0, 1, (2, 8))).tolist())
    assert found.picks is not None
    assert found.choice is not None
    shares = np.bincount(found.picks.picked, minlength=2) / len(found.picks.picked)
    leader = found.choice.index
    values = [np.full(8, 0.30), np.full(8, 0.34)]
    variance, _ = found.variance_of([v + rng.normal(0, 0.2, 8) * 0 for v in values])
    assert variance == pytest.approx(shares[1 - leader] * 0.04**2)


def test_a_quantity_that_moves_between_tied_settings_depends_on_the_setting() -> None:
    rng = np.random.default_rng(6)
    tied = 90 + np.tile(rng.normal(0, 1, 8), (2, 1)) + rng.normal(0, 0.5, (2, 8))
    tied[1] += tied[0].mean() - tied[1].mean() - 0.01
    found = race(tied.tolist())
    near, far = rng.normal(0.3, 0.01, (2, 8)), rng.normal(0.5, 0.01, 8)
    assert found.variance_of([near[0], far])[1]
    assert not found.variance_of([near[0], near[1]])[1]
    assert found.variance_of([near[0], None]) == (None, False)


def row(setting: float, seed: int, val: float, **changed: Any) -> dict[str, Any]:
    return {
        "arm": "a", "levels": {}, "setting": {"train.lr": setting}, "role": "trial", "seed": seed,
        "trial_id": f"{setting}-{seed}", "status": "ok", "num_classes": 10,
        "result": {"val_top1_percent": val, "test_top1_percent": val - 1}, **changed,
    }  # fmt: skip


def test_a_race_is_read_back_from_rows_in_any_order() -> None:
    rows = [row(rate, seed, 90 + 10 * rate + seed) for rate in (1e-3, 2e-3) for seed in range(6)]
    rows += [row(4e-3, seed, 80 + seed) for seed in range(3)]
    table, other = tabulate(rows), tabulate(rows[::-1])
    search, reverse = table.tuning["a"], other.tuning["a"]
    assert isinstance(search, Race)
    assert isinstance(reverse, Race)
    assert search.num_seeds == 6
    assert table.own_setting("a") == other.own_setting("a") == {"train.lr": 2e-3}
    assert np.array_equal(search.scores, reverse.scores)
    assert len(table.reporting["a", '{"train.lr": 0.002}']) == 6
    early = table.upto(3).tuning["a"]
    assert isinstance(early, Race)
    assert len(early.racing()) == 3


def test_a_setting_with_a_lost_trial_never_leads() -> None:
    rows = [row(1e-3, seed, 90.0 + seed % 2) for seed in range(3)]
    rows += [row(2e-3, 0, 99.0), row(2e-3, 1, 0.0, status="diverged", result={})]
    assert tabulate(rows).own_setting("a") == {"train.lr": 1e-3}
