"""Against scipy and statsmodels, where they have the same test: to 1e-10, root-finding to 1e-6."""

from __future__ import annotations

import numpy as np
import pytest
from stats_rows import an_experiment, made_rows, the_claim

from vitbench.stats import compare_arms, judge, mean_interval, paired_interval
from vitbench.stats.decision import Noise, Region, estimate, part_p_values
from vitbench.stats.distributions import benjamini_hochberg, holm
from vitbench.stats.looks import (
    CALIBRATED,
    FIRST_EDITION,
    FIRST_EDITION_POWER,
    SPENDING_POWER,
    calibrate,
    fixed,
    schedule,
)
from vitbench.stats.power import equivalence_power, sd_range, smallest_difference, smallest_margin
from vitbench.stats.qualifiers import bootstrap_t, sign_flip_p

A = np.array([93.1, 94.2, 93.3, 92.6, 93.4, 93.9, 92.2])
B = np.array([92.7, 91.0, 93.5, 91.5, 92.2, 91.8, 92.9])
EXACT = {"abs": 1e-10, "rel": 0.0}


@pytest.mark.parametrize("level", [0.90, 0.95])
def test_paired_and_mean_intervals(level: float) -> None:
    from scipy import stats

    oracle = stats.ttest_rel(A, B).confidence_interval(level)
    found = paired_interval(A, B, level)
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), **EXACT)
    oracle = stats.ttest_1samp(A, 0.0).confidence_interval(level)
    found = mean_interval(A, level)
    assert (found.low, found.high, found.sd) == pytest.approx((oracle.low, oracle.high, A.std(ddof=1)), **EXACT)


def test_p_of_a_comparison_is_the_paired_t_test() -> None:
    from scipy import stats

    experiment = an_experiment({"form": "descriptive"})
    rows = [made_rows(experiment, {arm: list(scores)}) for arm, scores in (("avg", A), ("token", B))]
    assert compare_arms(*rows).p == pytest.approx(stats.ttest_rel(A, B).pvalue, **EXACT)


@pytest.mark.parametrize("margin", [0.5, 1.0, 2.5])
def test_equivalence_p_is_tost(margin: float) -> None:
    from statsmodels.stats.weightstats import ttost_paired

    data = (A - B)[:, None]
    p_false, _ = part_p_values(estimate(data, data, Noise.none(1)), [Region(-margin, margin, 0.90)])
    assert p_false[0] == pytest.approx(ttost_paired(A, B, -margin, margin)[0], **EXACT)


def test_difference_p_is_one_sided_t() -> None:
    from scipy import stats

    data = (A - B)[:, None]
    p_false, p_true = part_p_values(estimate(data, data, Noise.none(1)), [Region(low=0.3)])
    assert p_false[0] == pytest.approx(stats.ttest_1samp(A - B, 0.3, alternative="greater").pvalue, **EXACT)
    assert p_true[0] == pytest.approx(stats.ttest_1samp(A - B, 0.3, alternative="less").pvalue, **EXACT)


def test_interaction_is_the_f_test_of_a_two_by_two_anova() -> None:
    import pandas as pd
    from statsmodels.stats.anova import AnovaRM

    rng = np.random.default_rng(7)
    scores = {name: list(90.0 + rng.normal(0.0, 1.0, 6)) for name in ("token+1", "token+2", "avg+1", "avg+2")}
    pairs = [["avg+2", "token+2"], ["avg+1", "token+1"]]
    experiment = an_experiment(
        {"form": "interaction", "pairs": pairs, "above_points": 0.0},
        factors={"model.global_pool": ["token", "avg"], "model.depth": [1, 2]},
        seeds=6,
    )
    found = judge(the_claim(experiment), experiment, made_rows(experiment, scores)).interval
    frame = pd.DataFrame(
        [
            {"seed": seed, "pool": name.split("+")[0], "depth": name.split("+")[1], "score": score}
            for name, values in scores.items()
            for seed, score in enumerate(values)
        ]
    )
    f = AnovaRM(frame, "score", "seed", within=["pool", "depth"]).fit().anova_table["F Value"]["pool:depth"]
    t = found.mean / (found.sd / np.sqrt(6))
    assert t**2 == pytest.approx(f, rel=1e-9)


def test_slope_is_the_mean_of_per_seed_regressions() -> None:
    from scipy import stats

    rng = np.random.default_rng(8)
    depths = [1, 2, 4, 8]
    scores = {str(depth): list(80.0 + depth + rng.normal(0.0, 1.0, 5)) for depth in depths}
    experiment = an_experiment(
        {"form": "slope", "arms": [{}], "x": "depth", "levels": {"model.depth": depths}, "above_points": 0.0},
        factors={"model.depth": depths},
    )
    rows = [row for arm in scores for row in made_rows(experiment, {arm: scores[arm]}, depth=int(arm))]
    found = judge(the_claim(experiment), experiment, rows).interval
    slopes = [stats.linregress(depths, [scores[str(d)][seed] for d in depths]).slope for seed in range(5)]
    oracle = stats.ttest_1samp(slopes, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), **EXACT)


def test_holm_and_benjamini_hochberg() -> None:
    from scipy import stats
    from statsmodels.stats.multitest import multipletests

    p = [*np.random.default_rng(3).uniform(0.0, 0.2, 15), 0.04, 0.04, 1.0]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], **EXACT)
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p), **EXACT)
    assert holm([]) == benjamini_hochberg([]) == []


@pytest.mark.parametrize("n", [3, 5, 10, 20])
def test_power_of_a_difference(n: int) -> None:
    from statsmodels.stats.power import TTestPower

    oracle = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
    assert smallest_difference(n, fixed(n).c95[0]) == pytest.approx(oracle, abs=1e-6)


@pytest.mark.parametrize(("n", "margin"), [(3, 2.66), (4, 1.94), (5, 1.60), (8, 1.15), (12, 0.90), (20, 0.68)])
def test_power_of_equivalence_is_the_tabled_one(n: int, margin: float) -> None:
    assert smallest_margin(n, fixed(n).c90[0]) == pytest.approx(margin, abs=0.006)
    assert equivalence_power(margin, n, 2.0 * fixed(n).c90[0]) < 0.5


def test_range_of_the_true_spread_is_the_tabled_one() -> None:
    assert sd_range(5) == pytest.approx((0.72, 1.94), abs=0.005)


@pytest.mark.parametrize("n", [6, 10])
def test_sign_flip(n: int) -> None:
    from scipy import stats

    d = np.random.default_rng(n).normal(0.4, 1.0, n)
    oracle = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip_p(d) == pytest.approx(oracle, **EXACT)


def test_sign_flip_and_bootstrap_refuse_what_they_cannot_say() -> None:
    assert sign_flip_p(np.arange(5.0)) is None
    assert sign_flip_p(np.ones(8)) is None
    assert bootstrap_t(np.arange(9.0), 0.95, np.random.default_rng(0)) is None
    assert bootstrap_t(np.ones(12), 0.95, np.random.default_rng(0)) is None


def test_bootstrap_t_is_near_t_for_normal_data() -> None:
    from scipy import stats

    d = np.random.default_rng(5).normal(0.0, 1.0, 20)
    low, high = bootstrap_t(d, 0.95, np.random.default_rng(0))
    oracle = stats.ttest_1samp(d, 0.0).confidence_interval(0.95)
    assert high - low == pytest.approx(oracle.high - oracle.low, rel=0.15)


@pytest.mark.parametrize(
    ("looks", "power"),
    [*((looks, FIRST_EDITION_POWER) for looks in FIRST_EDITION), *((looks, SPENDING_POWER) for looks in CALIBRATED)],
)
def test_stored_boundaries_are_those_that_calibration_finds(looks: tuple[int, ...], power: float) -> None:
    found, stored = calibrate(looks, power=power), schedule(looks, power=power)
    assert found.c95 == pytest.approx(stored.c95, abs=0.0251)
    assert found.c90 == pytest.approx(stored.c90, abs=0.0251)
    assert sum(stored.shares) == pytest.approx(1.0)
