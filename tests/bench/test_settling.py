"""The acceptance table of raced claims at reduced size, and that the simulated race is the product's."""

from __future__ import annotations

import numpy as np
import pytest

from vitbench.bench.settling import acceptance, table
from vitbench.bench.simulated_race import ALPHA, FIRST, race, regret_variance, residual
from vitbench.bench.simulated_worlds import FASHION, SHAPES, ArmScores, deficits, draw
from vitbench.stats.looks import DEFAULT_LOOKS
from vitbench.stats.race import Race, residual_spread, survivors

RUNS = 500
DRAWS = 10_000
"""Draws of the product's V."""


def test_the_simulated_race_is_the_products() -> None:
    """Of single runs: the same residual, the same rates dropped, the same V (the product draws, here is quadrature)."""
    rng = np.random.default_rng(1)
    lost = deficits(FASHION, SHAPES["typical"][0])
    arm = draw(FASHION, lost, rng.standard_normal((40, 20)), rng)
    looks = race(arm, (FIRST, *DEFAULT_LOOKS), (9,))[9]
    variances = []
    for run in range(40):
        val, ok = arm.val[run], np.ones(arm.val[run].shape, dtype=bool)
        for point, end in ((3, 6), (6, 9)):
            kept = survivors(val[:, :point], ok[:, :point], ALPHA)
            ok[[row for row in range(len(val)) if row not in kept], point:] = False
            ok[:, end:] &= ok[:, end - 1 : end]
        mine = Race(tuple({"r": float(k)} for k in range(len(val))), tuple(range(9)), val[:, :9], ok[:, :9], ok[:, :9])
        assert int(ok[:, :9].sum()) == looks.trainings[run]
        assert mine.choice is not None
        assert np.array_equal(looks.scores[run], arm.test[run, mine.choice.index, :9])
        error = lost.max() * np.sqrt(looks.variance[run] / DRAWS)  # At most: the standard error of the product's draws.
        assert mine.variance == pytest.approx(looks.variance[run], rel=0.02, abs=4 * error + 1e-5)
        variances.append(mine.variance)
    assert np.mean(variances) == pytest.approx(looks.variance.mean(), rel=0.05)


def test_the_residual_of_many_runs_is_that_of_each() -> None:
    rng = np.random.default_rng(2)
    val = rng.standard_normal((5, 3, 6))
    racing = np.array([[True, True, False]] * 5)
    counts = np.array([[6, 6, 3]] * 5)
    s, df = residual(val, racing, counts)
    for run in range(5):
        ok = np.arange(6) < counts[run][:, None]
        spread, degrees = residual_spread(np.where(ok, val[run], 0.0), ok)
        assert s[run] == pytest.approx(spread)
        assert df[run] == degrees


def test_regret_of_two_settings_has_a_closed_form() -> None:
    """P(the worse one leads) x gap^2, for two normal means."""
    from scipy.stats import norm

    found = regret_variance(np.array([[0.0, 0.4]]), np.array([[0.3, 0.5]]))
    assert found[0] == pytest.approx(norm.sf(0.4 / np.hypot(0.3, 0.5)) * 0.16, rel=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_best_setting_of_each_world_loses_nothing(shape: str) -> None:
    for curve in SHAPES[shape]:
        lost = deficits(FASHION, curve)
        assert lost.min() == 0.0
        assert (lost >= 0.0).all()
    assert (deficits(FASHION, ("tie", 0.5)) == 0.0).sum() == 2


def test_the_acceptance_table_at_reduced_size() -> None:
    """Every line holds within four standard errors of so few runs, and every control fails."""
    lines = list(acceptance(RUNS, (FASHION,)))
    for line in lines:
        if line.limit > 1.0:
            assert line.holds, line
            continue
        slack = 4.0 * np.sqrt(line.limit * (1.0 - line.limit) / RUNS)
        if line.control:
            assert line.holds, line
        elif line.at_least:
            assert line.value >= line.limit - slack, line
        else:
            assert line.value <= line.limit + slack, line
    assert sum(line.control for line in lines) == 10
    assert "DOES NOT HOLD" not in table([line for line in lines if line.holds], RUNS)


def test_a_line_that_does_not_hold_is_said() -> None:
    line = next(acceptance(40, (FASHION,)))
    broken = type(line)(line.name, 0.5, 0.95, True, line.where)
    assert not broken.holds
    assert "DOES NOT HOLD" in table([broken], 40)


def test_a_race_of_one_look_has_its_trainings() -> None:
    flat = ArmScores(np.zeros((2, 3, 6)), np.zeros((2, 3, 6)))
    assert race(flat, (3,), (6,))[6].trainings.tolist() == [18, 18], "nobody is behind where nothing varies"
