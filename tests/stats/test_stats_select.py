"""Choosing a tuned setting, and the noise of that choice."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vitbench.stats import choose, tuning_noise

SETTINGS = [{"train.lr": 1e-3}, {"train.lr": 2e-3}, {"train.lr": 4e-3}]


def test_choose_takes_the_best_mean_and_a_tie_goes_to_the_smaller_value() -> None:
    scores = [[90.0, 91.0], [91.0, 90.0], [80.0, 80.0]]
    found = choose(list(reversed(SETTINGS)), scores[::-1], np.ones((3, 2), dtype=bool))
    assert (found.setting, found.mean, found.at_edge, found.num_eligible) == ({"train.lr": 1e-3}, 90.5, True, 3)


def test_choose_leaves_out_a_setting_with_a_lost_seed() -> None:
    eligible = np.array([[True, True], [True, False], [True, True]])
    found = choose(SETTINGS, [[80.0, 80.0], [99.0, 99.0], [81.0, 81.0]], eligible)
    assert found.setting == {"train.lr": 4e-3}
    assert choose(SETTINGS, np.zeros((3, 2)), np.zeros((3, 2), dtype=bool)) is None


def test_choice_inside_the_grid_is_not_at_its_edge() -> None:
    assert not choose(SETTINGS, [[1.0], [2.0], [1.0]], np.ones((3, 1), dtype=bool)).at_edge


def test_tuning_noise_vanishes_with_a_clear_winner_and_grows_with_a_close_one() -> None:
    rng = np.random.default_rng(0)
    spread = np.array([[0.3, -0.2, -0.1], [-0.4, 0.1, 0.3], [0.1, 0.1, -0.2]])
    clear = tuning_noise(spread + np.array([[90.0], [80.0], [70.0]]), rng)
    close = tuning_noise(spread + np.array([[90.0], [89.9], [89.8]]), rng)
    assert clear.variance == clear.other_chosen == 0.0
    assert close.variance > 0.0
    assert close.optimism > 0.0
    assert 0.3 < close.other_chosen < 0.6
    assert tuning_noise([[90.0], [91.0]], rng) is None
    assert tuning_noise([[90.0, 91.0]], rng).variance == 0.0


def test_tuning_noise_of_two_settings_is_the_closed_form() -> None:
    scores = np.array([[90.4, 89.6, 90.0], [89.5, 89.9, 89.4]])
    gap = scores.mean(axis=1)[0] - scores.mean(axis=1)[1]
    residual = (scores[0] - scores[1] - gap) / 2.0
    step = np.sqrt(2.0 * (residual**2).sum() / 2.0) * np.sqrt(2.0 / 3.0)
    flipped = 0.5 * math.erfc(gap / step / math.sqrt(2.0))
    found = tuning_noise(scores, np.random.default_rng(1))
    assert found.other_chosen == pytest.approx(flipped, abs=0.02)
    assert found.variance == pytest.approx(gap**2 * flipped, rel=0.15)
