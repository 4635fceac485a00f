"""Power laws: right numbers, numpy's straight line, scipy's curve_fit, and coverage of the interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit

from vitbench.base.errors import InputError
from vitbench.stats import power_law

X = np.array([1e9, 2e9, 4e9, 8e9, 1.6e10])


def errors(scale: float, exponent: float, floor: float, noise: float, num_seeds: int, seed: int = 0) -> np.ndarray:
    draws = np.random.default_rng(seed).normal(size=(num_seeds, len(X)))
    return (scale * (X / X[0]) ** -exponent + floor) * np.exp(noise * draws)


@pytest.mark.parametrize(("floor", "exponent"), [(0.0, 0.35), (5.0, 0.35), (5.0, 1.2)])
def test_numbers_without_noise_are_found(floor: float, exponent: float) -> None:
    law = power_law(X, errors(30.0, exponent, floor, 1e-9, 3), floor=floor > 0)
    np.testing.assert_allclose(law.fits, [[30.0, exponent, floor]] * 3, rtol=1e-4, atol=1e-6)
    assert (law.floor is None) == (floor == 0)


def test_without_a_floor_it_is_a_straight_line_in_logarithms() -> None:
    noisy = errors(30.0, 0.35, 0.0, 0.05, 4)
    slopes = [np.linalg.lstsq(np.stack([np.log(X), np.ones(5)], 1), np.log(row), rcond=None)[0][0] for row in noisy]
    law = power_law(X, noisy)
    np.testing.assert_allclose(law.fits[:, 1], -np.array(slopes), rtol=1e-9)
    half = 3.182446 * np.std(slopes, ddof=1) / 2  # t with 3 degrees of freedom, root of 4 seeds
    assert (law.exponent.low, law.exponent.high) == pytest.approx((-np.mean(slopes) - half, -np.mean(slopes) + half))


def test_with_a_floor_it_is_scipys_fit() -> None:
    noisy = errors(30.0, 0.8, 5.0, 0.01, 3)
    for row, ours in zip(noisy, power_law(X, noisy, floor=True).fits, strict=True):
        theirs, _ = curve_fit(lambda x, a, b, c: np.log(a * x**-b + c), X / X[0], np.log(row), p0=(30.0, 0.8, 5.0))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)


@pytest.mark.parametrize(("floor", "least"), [(0.0, 0.92), (5.0, 0.88)])
def test_intervals_cover_the_exponent(floor: float, least: float) -> None:
    """95% intervals of five seeds, in 200 and 60 made-up studies; two standard errors of the study below 95%."""
    num_studies = 60 if floor else 200
    laws = [power_law(X, errors(30.0, 0.8, floor, 0.01, 5, seed), floor=floor > 0) for seed in range(num_studies)]
    covered = [law.exponent.low <= 0.8 <= law.exponent.high for law in laws]
    assert np.mean(covered) >= least


@pytest.mark.parametrize(
    ("sizes", "values", "message"),
    [
        ([1, 2, 4], [[1.0, 2.0]], "one error per size"),
        ([1, 2, 2], [[3.0, 2.0, 1.0]], "at least 3 sizes"),
        ([1, 2, 4], [[3.0, 0.0, 1.0]], "above 0"),
    ],
)
def test_what_is_refused(sizes: list[float], values: list[list[float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        power_law(sizes, values)
