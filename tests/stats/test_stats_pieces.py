"""The pieces of the statistics package, each on numbers small enough to check by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from stats_rows import an_experiment, made_row, made_rows, the_claim, tuning_rows

from vitbench.base.errors import InputError
from vitbench.stats import (
    Facts,
    Verdict,
    calibration_error,
    churn,
    compare_arms,
    compare_to_baseline,
    judge,
    judge_all,
    mean_interval,
    paired_interval,
    per_class_differences,
    score_matrix,
    with_q,
)
from vitbench.stats.contrasts import Resolver, question
from vitbench.stats.curves import crossing, powers_of_two
from vitbench.stats.decision import OPEN, Noise, Region, estimate, settle
from vitbench.stats.forecast import forecast
from vitbench.stats.looks import DEFAULT_LOOKS, fixed, schedule
from vitbench.stats.table import tabulate

ABOVE = {"form": "difference", "arms": ["avg", "token"], "above_points": 0.0}


def weights_of(claim: dict, rows: list | None = None, **fields: object) -> list[dict[str, float]]:
    """The weights of each part by `arm@setting`."""
    experiment = an_experiment(claim, **fields)
    asked = question(the_claim(experiment), Resolver(experiment, tabulate(rows or [])))
    return [{f"{cell.arm}@{cell.setting}": weight for cell, weight in part.weights.items()} for part in asked.parts]


# ------------------------------------------------------------------ intervals and matrices
def test_an_interval_that_cannot_be_had_is_refused_with_a_reason() -> None:
    assert mean_interval([90.0]).reason == "n = 1: one seed shows no spread"
    assert mean_interval([]).reason == "no seeds"
    assert mean_interval([90.0, 90.0]).refused
    assert not mean_interval([90.0, 90.0], num_images=360).refused
    with pytest.raises(InputError, match="position 1"):
        mean_interval([90.0, float("nan")])
    with pytest.raises(InputError, match="same seeds"):
        paired_interval([1.0, 2.0], [1.0])


def test_float_noise_in_equal_differences_counts_as_none() -> None:
    a = np.array([0.1, 0.2, 0.3]) + 90.0
    assert paired_interval(a, a - 0.1).refused


def test_score_matrix_refuses_cells_that_are_not_ok() -> None:
    experiment = an_experiment(ABOVE)
    rows = made_rows(experiment, {"token": [90.0, "diverged", None], "avg": [91.0, 92.0, "failed"]})
    matrix = score_matrix(rows)
    assert matrix.status == (("ok", "diverged", "missing"), ("ok", "ok", "failed"))
    assert matrix.ok_seeds() == (0,)
    assert list(matrix.scores("avg", [0, 1])) == [91.0, 92.0]
    with pytest.raises(InputError, match="token, seed 1: no test_top1_percent, the trial token/1 is diverged"):
        matrix.scores("token")
    assert matrix.count("avg", "failed") == 1


def test_score_matrix_reads_each_arm_at_its_own_setting() -> None:
    experiment = an_experiment(ABOVE)
    rows = tuning_rows(experiment, "token", {1e-3: [80.0], 2e-3: [90.0]})
    for lr, score in ((1e-3, 70.0), (2e-3, 89.0)):
        rows += made_rows(experiment, {"token": [score]}, setting={"train.lr": lr})
    assert score_matrix(rows).scores("token")[0] == 89.0
    assert score_matrix(rows, at={"train.lr": 1e-3}).scores("token")[0] == 70.0


# ------------------------------------------------------------------ contrasts
CROSSED = {"factors": {"model.global_pool": ["token", "avg"], "model.head": ["linear", "mlp_tanh"]}}


def test_a_partial_reference_stands_at_the_baseline_and_over_averages() -> None:
    assert weights_of(ABOVE, **CROSSED) == [{"avg+linear@{}": 1.0, "token+linear@{}": -1.0}]
    over = [{"model.global_pool": pool, "over": ["model.head"]} for pool in ("avg", "token")]
    (weights,) = weights_of({**ABOVE, "arms": over}, **CROSSED)
    assert weights == {
        "avg+linear@{}": 0.5,
        "avg+mlp_tanh@{}": 0.5,
        "token+linear@{}": -0.5,
        "token+mlp_tanh@{}": -0.5,
    }


def test_a_share_of_a_gain_weighs_both_ends() -> None:
    arms = ["token+linear", "token+mlp_tanh", "avg+linear"]
    (weights,) = weights_of({"form": "share_of_gain", "arms": arms, "share": 0.2}, **CROSSED)
    assert weights == {"token+linear@{}": -0.8, "token+mlp_tanh@{}": 1.0, "avg+linear@{}": -0.2}


def test_at_fixes_a_factor() -> None:
    (weights,) = weights_of({**ABOVE, "at": {"model.head": "mlp_tanh"}}, **CROSSED)
    assert set(weights) == {"avg+mlp_tanh@{}", "token+mlp_tanh@{}"}


def test_pairs_of_an_interaction_may_stand_at_two_shared_settings() -> None:
    tune = {"tune": {"train.lr": [1e-3, 2e-3], "seeds": 3}}
    pairs = [["avg", "token"], ["avg", "token"]]
    claim = {"form": "interaction", "pairs": pairs, "above_points": 0.0, "at": {"train.lr": [1e-3, 2e-3]}}
    (listed,) = weights_of(claim, **tune)
    named = [[{"model.global_pool": pool, "train.lr": lr} for pool in ("avg", "token")] for lr in (1e-3, 2e-3)]
    (spelled,) = weights_of({"form": "interaction", "pairs": named, "above_points": 0.0}, **tune)
    assert listed == spelled
    assert listed['avg@{"train.lr": 0.001}'] == 1.0
    assert listed['avg@{"train.lr": 0.002}'] == -1.0


def test_best_of_names_the_other_arms_choice() -> None:
    experiment = an_experiment(ABOVE)
    rows = tuning_rows(experiment, "token", {1e-3: [80.0], 2e-3: [90.0]})
    rows += tuning_rows(experiment, "avg", {1e-3: [90.0], 2e-3: [80.0]})
    tune = {"tune": {"train.lr": [1e-3, 2e-3], "seeds": 1}}
    (own,) = weights_of(ABOVE, rows, **tune)
    (shared,) = weights_of({**ABOVE, "at": {"train.lr": "best_of(token)"}}, rows, **tune)
    assert set(own) == {'avg@{"train.lr": 0.001}', 'token@{"train.lr": 0.002}'}
    assert set(shared) == {'avg@{"train.lr": 0.002}', 'token@{"train.lr": 0.002}'}


def test_the_same_trials_on_both_sides_are_untested() -> None:
    experiment = an_experiment({**ABOVE, "arms": ["avg", "avg"]})
    rows = made_rows(experiment, {"token": [90.0] * 5, "avg": [91.0, 92.0, 91.5, 91.2, 90.9]})
    verdict = judge(the_claim(experiment), experiment, rows)
    assert (verdict.state, verdict.reason) == ("untested", "avg - avg: the same trials on both sides")


def test_arms_may_be_two_metrics_of_the_same_trials() -> None:
    arms = [{"metric": "trained_rho"}, {"metric": "untrained_rho"}]
    experiment = an_experiment({"form": "statistic", "arms": arms, "above_points": 0.0})
    values = [(31.0, 4.0), (29.0, 5.0), (30.0, 3.5), (33.0, 4.0), (31.5, 6.0)]
    rows = made_rows(experiment, {"token": [90.0] * 5})
    for row, (trained, untrained) in zip(rows, values, strict=True):
        row["result"]["metrics"] = {"trained_rho": trained, "untrained_rho": untrained}
    verdict = judge(the_claim(experiment), experiment, rows)
    assert verdict.effect == pytest.approx(26.4)
    assert verdict.state == "supported"


# ------------------------------------------------------------------ looks and forecast
def test_looks_must_rise_from_three() -> None:
    with pytest.raises(InputError, match="looks must rise"):
        schedule((5, 5, 8))
    with pytest.raises(InputError, match="from 3 seeds"):
        schedule((2, 5))
    assert schedule((7,)) == fixed(7)


def test_a_lost_seed_widens_the_boundary() -> None:
    plan = schedule(DEFAULT_LOOKS)
    assert plan.factor(0, 0.95, 5) == 3.64
    assert plan.factor(0, 0.95, 4) == pytest.approx(4.10, abs=0.01)
    assert fixed(5).factor(0, 0.95, 3) == pytest.approx(3.182, abs=1e-3)


def test_a_verdict_is_never_taken_back() -> None:
    low = np.concatenate([np.array([3.0, 3.1, 2.9, 3.05, 2.95, 3.02]), np.full(14, -4.0)])[:, None]
    plan = schedule(DEFAULT_LOOKS)
    looks = [estimate(low[:n], low[:n], Noise.none(1)) for n in plan.looks]
    settled = settle(looks, [Region(low=0.0)], plan)
    assert int(settled.state) == 1
    assert int(settled.settled_at) == 0


@pytest.mark.slow
def test_forecast_is_calibrated() -> None:
    rng = np.random.default_rng(12)
    plan, region = schedule(DEFAULT_LOOKS), [Region(low=0.0)]
    predicted, came = [], []
    for _ in range(150):
        data = rng.normal(rng.uniform(-1.5, 1.5), 1.0, (20, 1))
        looks = [estimate(data[:n], data[:n], Noise.none(1)) for n in plan.looks]
        if int(settle(looks[:1], region, plan).state) != OPEN:
            continue
        predicted.append([look.chance for look in forecast((data[:6], data[:6]), region, Noise.none(1), plan)])
        came.append([int(settle(looks[:k], region, plan).state) != OPEN for k in (2, 3, 4)])
    assert np.mean(predicted, axis=0) == pytest.approx(np.mean(came, axis=0), abs=0.13)
    assert (np.diff(np.mean(predicted, axis=0)) > 0.05).all()


def test_forecast_repeats_and_ends_at_the_last_look() -> None:
    data = np.array([[0.3], [-0.2], [0.9], [0.1], [-0.5]])
    plan = schedule(DEFAULT_LOOKS)
    first, second = (forecast((data, data), [Region(low=0.0)], Noise.none(1), plan) for _ in range(2))
    assert first == second
    full = np.repeat(data, 4, axis=0)
    assert forecast((full, full), [Region(low=0.0)], Noise.none(1), plan) == ()


# ------------------------------------------------------------------ curves
def test_crossing_of_a_straight_line() -> None:
    noise = np.array([-0.1, 0.1, 0.0, 0.05, -0.05])[:, None]
    data = np.array([-2.0, 0.0, 2.0]) + noise
    place = crossing(np.array([1.0, 2.0, 3.0]), data, fixed(5).c95[0])
    half = fixed(5).c95[0] * noise.std(ddof=1) / math.sqrt(5) / 2.0
    assert place.value == pytest.approx(2.0, abs=1e-9)
    assert (place.low, place.high) == pytest.approx((2.0 - half, 2.0 + half), abs=1e-3)
    assert powers_of_two(place).value == pytest.approx(4.0)


def test_a_crossing_at_the_end_of_the_range_is_one_sided() -> None:
    data = np.array([-0.05, 2.0]) + np.array([-0.1, 0.1, 0.0, 0.05, -0.05])[:, None]
    assert crossing(np.array([0.0, 1.0]), data, fixed(5).c95[0]).low is None


def test_a_tuned_choice_widens_a_crossing() -> None:
    data = np.array([-2.0, 2.0]) + np.array([-0.1, 0.1, 0.0, 0.05, -0.05])[:, None]
    x, c = np.array([0.0, 1.0]), fixed(5).c95[0]
    assert crossing(x, data, c, np.array([0.1, 0.1])).low < crossing(x, data, c).low


def test_no_compute_ratio_is_read_beyond_the_budgets() -> None:
    factors = {"train.train_flops": [1e12, 2e12]}
    families = {"vit": {"model.family": "vit"}, "resnet": {"model.family": "resnet"}}
    claim = {"form": "frontier_ratio", "arms": ["vit", "resnet"], "ratio": 4.0, "at": {"train.train_flops": 1e12}}
    experiment = an_experiment(claim, factors=factors, arms=families)
    rows = [
        made_row(
            f"{family}+{flops:g}", {"arm": family, "train.train_flops": flops}, seed, 80.0 + seed, train_flops=flops
        )
        for family in families
        for flops in (1e12, 2e12)
        for seed in range(5)
    ]
    assert "was not run at 4 times the compute" in judge(the_claim(experiment), experiment, rows).reason


# ------------------------------------------------------------------ images
def test_churn_classes_and_calibration_by_hand() -> None:
    right = np.array([[True, True, False, False], [True, False, False, True]])
    assert churn(right) == 0.5
    assert churn(right[:1]) is None
    other = np.zeros_like(right)
    assert per_class_differences(right, other, [0, 0, 1, 1]) == {0: 75.0, 1: 25.0}
    assert calibration_error([0.9, 0.9, 0.9, 0.9], [1, 1, 1, 0]) == pytest.approx(15.0)


def test_a_verdict_that_hangs_on_these_test_images_says_so() -> None:
    experiment = an_experiment(ABOVE)
    image = np.arange(60)
    correct = {f"token/{seed}": image < 54 for seed in range(5)} | {f"avg/{seed}": image < 56 for seed in range(5)}
    correct["avg/0"] = image < 57
    tops = {arm: [100.0 * correct[f"{arm}/{seed}"].mean() for seed in range(5)] for arm in ("token", "avg")}
    rows = made_rows(experiment, tops, num_test_images=60)
    verdict = judge(the_claim(experiment), experiment, rows, Facts(correct=correct))
    assert verdict.state == "supported"
    assert verdict.images_interval.low <= 0.0
    assert "on these test images" in verdict.notes


# ------------------------------------------------------------------ comparisons and scoreboard
def test_comparisons_adjust_p_and_name_what_they_leave_out() -> None:
    experiment = an_experiment(ABOVE, factors={"model.global_pool": ["token", "avg", "map"]})
    token = [90.0, 91.0, 90.5, 89.5, 90.2]
    rows = made_rows(
        experiment,
        {"token": token, "avg": [93.1, 94.0, 93.7, 92.2, 93.4], "map": [90.1, 91.3, 90.2, "diverged", 90.0]},
    )
    avg, attention = compare_to_baseline(experiment, rows)
    assert avg.p_holm == avg.p
    assert avg.variance_saved > 0.5
    assert attention.p is None
    assert attention.interval.n == 4
    assert attention.left_out == ("map, seed 3: diverged",)


def test_an_arm_without_trials_is_refused_in_the_table() -> None:
    experiment = an_experiment(ABOVE)
    (found,) = compare_to_baseline(experiment, made_rows(experiment, {"token": [90.0, 91.0, 92.0]}))
    assert found.interval.reason == "no seeds"
    assert found.p is None


def test_compare_arms_wants_one_arm_a_side() -> None:
    experiment = an_experiment(ABOVE)
    both = made_rows(experiment, {"token": [90.0, 91.0], "avg": [92.0, 92.5]})
    with pytest.raises(InputError, match="rows of one arm; it has token, avg"):
        compare_arms(both, both)


def test_q_is_a_column_and_leaves_untested_claims_out() -> None:
    verdicts = [Verdict("A", "difference", "supported", p=0.01), Verdict("B", "difference", "inconclusive", p=0.5)]
    verdicts.append(Verdict("C", "difference", "untested"))
    found = with_q(verdicts)
    assert [verdict.q for verdict in found] == [pytest.approx(0.02), pytest.approx(0.5), None]
    assert [verdict.state for verdict in found] == ["supported", "inconclusive", "untested"]


def test_a_claim_that_cannot_be_answered_does_not_cost_the_others() -> None:
    claims = [{"id": "A", **ABOVE, "metric": "few_shot_5_percent"}, {"id": "B", **ABOVE}]
    experiment = an_experiment(ABOVE, claims=claims)
    rows = made_rows(experiment, {"token": [90.0, 91.0, 90.5, 90.2, 90.1], "avg": [94.0, 95.1, 94.5, 94.4, 93.9]})
    first, second = judge_all(experiment, rows)
    assert "few_shot_5_percent" in first.reason
    assert (first.state, second.state) == ("untested", "supported")


def test_rival_claims_that_are_both_supported_say_so() -> None:
    claims = [{"id": "A", **ABOVE, "excludes": ["B"]}, {"id": "B", **ABOVE}]
    experiment = an_experiment(ABOVE, claims=claims)
    rows = made_rows(experiment, {"token": [90.0, 91.0, 90.5, 90.2, 90.1], "avg": [94.0, 95.1, 94.5, 94.4, 93.9]})
    assert "at odds with B, also supported" in judge_all(experiment, rows)[0].notes


# ------------------------------------------------------------------ metrics of which less is better
@pytest.mark.parametrize(
    ("metric", "better"), [("test_top1_percent", Region(low=0.5)), ("test_loss", Region(high=-0.5))]
)
def test_an_ordering_has_the_better_arm_first(metric: str, better: Region) -> None:
    claim = {"form": "ordering", "tiers": [["avg"], ["token"]], "gap_points": 0.5, "metric": metric}
    experiment = an_experiment(claim)
    (part,) = question(the_claim(experiment), Resolver(experiment, tabulate([]))).parts
    assert part.label == "avg - token"
    assert part.region == better
