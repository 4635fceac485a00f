"""Error rates by simulation: each must be what it should, and a broken variant must not.

Fixed generators; 20,000 copies unless said; a rate is held to four standard errors of its nominal value.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import nct

from vitbench.stats.curves import crossing
from vitbench.stats.decision import CONTRADICTED, OPEN, SUPPORTED, Noise, Region, estimate, limits, settle
from vitbench.stats.distributions import benjamini_hochberg, t_quantile, t_upper
from vitbench.stats.images import images_interval
from vitbench.stats.intervals import counting_floor, paired_interval
from vitbench.stats.looks import DEFAULT_LOOKS, FIRST_EDITION_LOOKS, FIRST_EDITION_POWER, Schedule, fixed, schedule
from vitbench.stats.tuning import tuning_noise

Floats = npt.NDArray[np.float64]
COPIES = 20_000


def generator(name: str) -> np.random.Generator:
    return np.random.default_rng([ord(letter) for letter in name])


def band(p: float, copies: int = COPIES) -> float:
    return 4.0 * float(np.sqrt(p * (1.0 - p) / copies))


def covered(data: Floats, truth: float, c: float, noise: Noise | None = None) -> float:
    """The share of copies [R, n] whose interval, c standard errors wide, holds the truth."""
    found = estimate(data[..., None], data[..., None], noise or Noise.none(1))
    low, high = limits(found, np.array([c]))
    return float(np.mean((low <= truth) & (truth <= high)))


def states(data: Floats, regions: list[Region], plan: Schedule) -> npt.NDArray[np.int64]:
    """The verdict on each copy [R, n, P], judged at the looks of `plan`."""
    estimates = [estimate(data[:, :look], data[:, :look], Noise.none(len(regions))) for look in plan.looks]
    return settle(estimates, regions, plan).state


@pytest.mark.parametrize(("n", "with_z", "with_ddof_0"), [(3, 0.81, 0.928), (5, 0.88, 0.932), (10, 0.92, 0.938)])
def test_t_interval_covers_normal_differences(n: int, with_z: float, with_ddof_0: float) -> None:
    data = generator("normal").standard_normal((COPIES, n))
    c = fixed(n).c95[0]
    assert covered(data, 0.0, c) == pytest.approx(0.95, abs=band(0.95))
    assert covered(data, 0.0, 1.96) == pytest.approx(with_z, abs=0.01)
    assert covered(data, 0.0, 1.96) < 0.95 - band(0.95)
    biased = covered(data, 0.0, c * np.sqrt((n - 1) / n))
    assert biased < 0.95 - band(0.95)
    assert biased == pytest.approx(with_ddof_0, abs=band(with_ddof_0))


def test_counted_scores_need_the_floor() -> None:
    rng = generator("counts")
    base = rng.uniform(0.0, 100.0 / 360, (COPIES, 1))
    arms = base + rng.normal(0.0, 0.27 / np.sqrt(2.0), (2, COPIES, 3)) + np.array([0.5, 0.0])[:, None, None]
    counted = np.round(arms * 3.6) / 3.6
    data = counted[0] - counted[1]
    floor = Noise(np.array([counting_floor(360)]), np.zeros(1))
    assert covered(data, 0.5, fixed(3).c95[0], floor) >= 0.95
    assert covered(data, 0.5, fixed(3).c95[0]) == pytest.approx(0.904, abs=0.02)


def test_skew_is_a_known_limit() -> None:
    data = generator("skew").gamma(4.0, 0.5, (COPIES, 5)) - 2.0
    assert covered(data, 0.0, fixed(5).c95[0]) == pytest.approx(0.933, abs=band(0.933))


def test_pairing_is_honest_and_narrower_than_an_unpaired_test() -> None:
    rng = generator("pairing")
    shared = np.sqrt(0.6) * rng.standard_normal((COPIES, 5))
    a, b = (shared + np.sqrt(0.4) * rng.standard_normal((COPIES, 5)) for _ in range(2))
    assert covered(a - b, 0.0, fixed(5).c95[0]) == pytest.approx(0.95, abs=band(0.95))
    unpaired = t_quantile(0.975, 8) * np.sqrt(a.var(axis=1, ddof=1) / 5 + b.var(axis=1, ddof=1) / 5)
    paired = fixed(5).c95[0] * (a - b).std(axis=1, ddof=1) / np.sqrt(5)
    assert np.mean(np.abs((a - b).mean(axis=1)) <= unpaired) == pytest.approx(0.991, abs=band(0.991))
    assert unpaired.mean() / paired.mean() == pytest.approx(1.34, abs=0.02)


def test_equivalence_at_the_margin_is_rarely_supported() -> None:
    region = Region(-1.0, 1.0, 0.90)
    data = generator("margin").normal(1.0, 0.7, (COPIES, 5, 1))
    assert np.mean(states(data, [region], fixed(5)) == SUPPORTED) == pytest.approx(0.05, abs=band(0.05))
    t = np.abs(data.mean(axis=1) / (data.std(axis=1, ddof=1) / np.sqrt(5)))[:, 0]
    not_significant = np.mean(2 * t_upper(t, 4) > 0.05)
    assert not_significant == pytest.approx(0.33, abs=0.02)


def test_equivalence_power_at_zero() -> None:
    data = generator("power").standard_normal((COPIES, 10, 1))
    at_90 = np.mean(states(data, [Region(-1.0, 1.0, 0.90)], fixed(10)) == SUPPORTED)
    at_95 = np.mean(states(data, [Region(-1.0, 1.0, 0.95)], fixed(10)) == SUPPORTED)
    assert at_90 == pytest.approx(0.795, abs=band(0.795))
    assert at_95 == pytest.approx(0.614, abs=band(0.614))


def test_an_ordering_of_equal_arms_is_rarely_contradicted() -> None:
    arms = generator("order").standard_normal((COPIES, 10, 5))
    steps = arms[..., :-1] - arms[..., 1:]
    regions = [Region(low=0.0)] * 4
    assert np.mean(states(steps, regions, fixed(10)) == CONTRADICTED) <= 0.025 + band(0.025)
    single = [states(steps[..., [part]], regions[:1], fixed(10)) == CONTRADICTED for part in range(4)]
    assert np.mean(np.any(single, axis=0)) == pytest.approx(0.097, abs=0.01)


def test_a_set_is_equal_only_if_every_pair_is() -> None:
    arms = generator("set").normal([0.0, 0.5, 1.0], 0.4 / np.sqrt(2.0), (COPIES, 10, 3))
    pairs = arms[..., [0, 0, 1]] - arms[..., [1, 2, 2]]
    region = Region(-1.0, 1.0, 0.90)
    assert np.mean(states(pairs, [region] * 3, fixed(10)) == SUPPORTED) <= 0.05 + band(0.05)
    neighbours = states(pairs[..., [0, 2]], [region] * 2, fixed(10))
    assert np.mean(neighbours == SUPPORTED) == pytest.approx(0.95, abs=0.02)


def test_looks_together_hold_their_level() -> None:
    data = generator("looks").standard_normal((COPIES, 20, 1))
    plan, each = schedule(DEFAULT_LOOKS), [fixed(look) for look in DEFAULT_LOOKS]
    careless = Schedule(plan.looks, *(tuple(getattr(e, c)[0] for e in each) for c in ("c95", "c90")), plan.shares)
    for name, region, fault in (("zero", Region(0.0, 0.0), 0.136), ("margin", Region(-1.0, 1.0, 0.90), 0.123)):
        wrong = CONTRADICTED if name == "zero" else SUPPORTED
        shifted = data if name == "zero" else data + 1.0
        assert np.mean(states(shifted, [region], plan) == wrong) <= 0.05 + band(0.05)
        assert np.mean(states(shifted, [region], careless) == wrong) == pytest.approx(fault, abs=0.012)


def test_p_over_looks_is_conservative_and_plain_p_is_not() -> None:
    data = generator("p").standard_normal((COPIES, 20, 1))
    plan = schedule(DEFAULT_LOOKS)
    estimates = [estimate(data[:, :look], data[:, :look], Noise.none(1)) for look in plan.looks]
    settled = settle(estimates, [Region(low=0.0)], plan)
    assert np.mean(np.minimum(settled.p_false, settled.p_true) <= 0.025) <= 0.05 + band(0.05)
    greedy = Schedule(plan.looks, plan.c95, plan.c90, (1.0,) * 4)
    plain = settle(estimates, [Region(low=0.0)], greedy)
    assert np.mean(np.minimum(plain.p_false, plain.p_true) <= 0.025) > 0.10


@pytest.mark.slow
def test_the_crossing_is_covered_by_inversion_and_not_by_bootstrap() -> None:
    copies, n, x = 2_000, 5, np.array([0.0, 1.0, 2.0, 3.0])
    rng = generator("crossing")
    truth = np.array([-3.0, -1.0, 1.5, 4.0])
    where = 1.0 + 1.0 / 2.5
    data = truth + rng.normal(0.0, 0.8, (copies, n, 1)) + rng.normal(0.0, 0.6, (copies, n, 4))
    places = [crossing(x, copy, fixed(n).c95[0]) for copy in data]
    inside = [
        (place.low is None or place.low <= where) and (place.high is None or where <= place.high) for place in places
    ]
    assert np.mean(inside) == pytest.approx(0.95, abs=band(0.95, copies))
    picks = rng.integers(0, n, (400, n))
    means = data[:, picks].mean(axis=2)
    roots = 1.0 - means[..., 1] / (means[..., 2] - means[..., 1])
    low, high = np.quantile(roots, [0.025, 0.975], axis=1)
    assert np.mean((low <= where) & (where <= high)) == pytest.approx(0.825, abs=0.03)


@pytest.mark.slow
def test_the_compute_ratio_is_covered_by_inversion_and_not_by_bootstrap() -> None:
    copies, n, x = 2_000, 5, np.array([0.0, 1.0, 2.0])
    rng = generator("ratio")
    where = 0.6
    anchor = 74.0 + where * 6.0 + rng.normal(0.0, 0.8, (copies, n))
    curve = np.array([74.0, 80.0, 83.0]) + rng.normal(0.0, 0.8, (copies, n, 3))
    gap = anchor[..., None] - curve
    places = [crossing(x, copy, fixed(n).c95[0]) for copy in gap]
    inside = [
        (place.low is None or place.low <= where) and (place.high is None or where <= place.high) for place in places
    ]
    assert np.mean(inside) == pytest.approx(0.95, abs=band(0.95, copies))
    means = gap[:, rng.integers(0, n, (400, n))].mean(axis=2)
    roots = means[..., 0] / (means[..., 0] - means[..., 1])
    low, high = np.quantile(roots, [0.025, 0.975], axis=1)
    assert np.mean((low <= where) & (where <= high)) == pytest.approx(0.825, abs=0.03)


@pytest.mark.slow
def test_tuned_arms_need_the_variance_of_the_choice() -> None:
    copies, grid, n, num_tuning = 1_500, np.arange(5.0) - 2.0, 20, 3
    rng = generator("tuned")
    covers, plain = [], []
    for _ in range(copies):
        gap, extra, best = np.zeros(n), 0.0, 0.0
        for sign in (1.0, -1.0):
            means = -0.5 * (grid - rng.uniform(-0.5, 0.5)) ** 2
            scores = means[:, None] + rng.normal(0.0, 0.7, (5, num_tuning))
            noise = tuning_noise(scores, rng)
            assert noise is not None
            gap += sign * (means[scores.mean(axis=1).argmax()] + rng.normal(0.0, 0.7, n))
            extra, best = extra + noise.variance, best + sign * means.max()
        found = estimate(gap[:, None], gap[:, None], Noise(np.zeros(1), np.array([extra])))
        half = fixed(n).c95[0]
        covers.append(abs(gap.mean() - best) <= half * found.se_low[0])
        plain.append(abs(gap.mean() - best) <= half * gap.std(ddof=1) / np.sqrt(n))
    assert np.mean(covers) >= 0.93 - band(0.93, copies) / 2
    assert np.mean(plain) == pytest.approx(0.82, abs=band(0.82, copies))


def test_new_images_need_the_images_interval_and_mcnemar_is_no_test_of_arms() -> None:
    copies, n, m = 1_000, 10, 360
    rng = generator("images")
    covers, seed_only, mcnemar = [], [], []
    for _ in range(copies):
        item = rng.normal(2.8, 1.6, m)
        arm = item + rng.normal(0.0, 0.7, (2, 1, m))
        right = arm + rng.normal(0.0, 0.15, (2, n, 1)) + rng.standard_normal((2, n, m)) > 0.0
        points = 100.0 * (right[0].astype(float) - right[1])
        found, seeds = images_interval(points), paired_interval(*(100.0 * right.mean(axis=2)))
        covers.append(found.low <= 0.0 <= found.high)
        seed_only.append(seeds.low <= 0.0 <= seeds.high)
        only_a, only_b = (right[0, 0] & ~right[1, 0]).sum(), (right[1, 0] & ~right[0, 0]).sum()
        mcnemar.append((only_a - only_b) ** 2 > 3.841 * max(only_a + only_b, 1))
    assert np.mean(covers) >= 0.95 - band(0.95, copies) / 2
    assert np.mean(seed_only) < 0.90
    assert np.mean(mcnemar) > 0.09


def test_benjamini_hochberg_over_nulls_that_share_a_baseline() -> None:
    copies = 4_000
    rng = generator("bh")
    arms = rng.standard_normal((copies, 21, 5))
    data = arms[:, 1:] - arms[:, :1]
    t = np.abs(data.mean(axis=2) / (data.std(axis=2, ddof=1) / np.sqrt(5)))
    p = 2.0 * t_upper(t, 4)
    any_false = np.mean([min(benjamini_hochberg(list(row))) <= 0.05 for row in p])
    assert any_false <= 0.05 + band(0.05, copies)
    assert np.mean((p <= 0.05).any(axis=1)) == pytest.approx(0.48, abs=0.05)


def test_looks_reach_the_power_that_was_tabled() -> None:
    """Of the first edition's looks the tabled shares; of the default looks the first against the noncentral t."""
    data = generator("reach").normal(1.0, 1.0, (COPIES, 20, 1))
    first = states(data[:, :6], [Region(low=0.0)], Schedule((6,), (3.64,), (3.01,), (1.0,)))
    assert np.mean(first == SUPPORTED) == pytest.approx(nct.sf(3.64, 5, np.sqrt(6.0)), abs=0.012)
    plan = schedule(FIRST_EDITION_LOOKS, power=FIRST_EDITION_POWER)
    estimates = [estimate(data[:, :look], data[:, :look], Noise.none(1)) for look in plan.looks]
    settled = settle(estimates, [Region(low=0.0)], plan)
    by = [np.mean((settled.state != OPEN) & (settled.settled_at <= index)) for index in range(4)]
    assert by == pytest.approx([0.09, 0.32, 0.71, 0.98], abs=0.012)
