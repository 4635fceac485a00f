"""Every edge case of a verdict: a clear state and reason, never NaN, never a trial left out in silence."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from pydantic import ValidationError
from stats_rows import Score, an_experiment, made_row, made_rows, the_claim, tuning_rows

from vitbench.base.errors import InputError
from vitbench.stats import Facts, Verdict, claim_problem, judge, judge_all, one_line

ABOVE = {"form": "difference", "arms": ["avg", "token"], "above_points": 0.0}
EQUAL = {"form": "equivalence", "arms": ["avg", "token"], "margin_points": 2.0}
TOKEN = [90.0, 91.0, 90.5, 89.5, 90.2]
AVG = [93.1, 94.2, 93.3, 92.6, 93.4]


def verdict_on(claim: dict[str, Any], token: list[Score], avg: list[Score], **more: Any) -> Verdict:
    experiment = an_experiment(claim, **more.pop("fields", {}))
    return judge(the_claim(experiment), experiment, made_rows(experiment, {"token": token, "avg": avg}, **more))


def has_nan(value: Any) -> bool:
    if isinstance(value, dict):
        return any(has_nan(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(has_nan(item) for item in value)
    return isinstance(value, float) and not math.isfinite(value)


def test_a_clear_difference_is_supported_and_its_mirror_contradicted() -> None:
    assert verdict_on(ABOVE, TOKEN, AVG).state == "supported"
    assert verdict_on(ABOVE, AVG, TOKEN).state == "contradicted"


def test_a_wide_interval_is_inconclusive_and_says_what_it_could_have_seen() -> None:
    verdict = verdict_on(ABOVE, TOKEN, [91.5, 89.0, 92.0, 88.0, 91.0])
    assert verdict.state == "inconclusive"
    assert verdict.mde == pytest.approx(1.682 * verdict.interval.sd, rel=1e-3)
    assert [look.n for look in verdict.forecast] == [8, 12, 20]
    assert "smallest effect this design sees" in one_line(verdict)


@pytest.mark.parametrize(("n", "state", "reason"), [
    (1, "untested", "n = 1, needs 3"),
    (2, "untested", "n = 2, needs 3"),
    (3, "inconclusive", "n = 3, a verdict needs 5"),
    (4, "inconclusive", "n = 4, a verdict needs 5"),
    (5, "supported", ""),
])  # fmt: skip
def test_few_seeds(n: int, state: str, reason: str) -> None:
    verdict = verdict_on(ABOVE, TOKEN[:n], AVG[:n], fields={"seeds": n})
    assert (verdict.state, verdict.reason) == (state, reason)
    assert (verdict.interval is not None) == (n >= 3)
    assert not has_nan(dataclasses.asdict(verdict))


def test_seeds_min_may_be_three() -> None:
    assert verdict_on({**ABOVE, "seeds_min": 3}, TOKEN[:3], AVG[:3], fields={"seeds": 3}).state == "supported"


def test_no_trials_is_untested() -> None:
    experiment = an_experiment(ABOVE)
    verdict = judge(the_claim(experiment), experiment, [])
    assert verdict.state == "untested"
    assert verdict.reason == "avg: no trials yet"
    assert not has_nan(dataclasses.asdict(verdict))


@pytest.mark.parametrize("hole", ["failed", None, float("nan"), float("inf")])
def test_a_hole_leaves_the_verdict_provisional_and_named(hole: Score) -> None:
    verdict = verdict_on({**ABOVE, "seeds_min": 3}, [*TOKEN[:3], hole, TOKEN[4]], AVG)
    assert verdict.n == 4
    assert verdict.provisional == (("token, seed 3",) if hole is None else ("token/3",))
    assert "provisional" in one_line(verdict)
    assert not has_nan(dataclasses.asdict(verdict))


def test_a_hole_in_five_seeds_is_too_few_for_a_verdict() -> None:
    assert verdict_on(ABOVE, ["failed", *TOKEN[1:]], AVG).reason == "n = 4, a verdict needs 5"


@pytest.mark.parametrize("margin", [0.0, -1.0])
def test_a_margin_must_be_positive(margin: float) -> None:
    with pytest.raises(ValidationError, match="margin_points"):
        an_experiment({**EQUAL, "margin_points": margin})


def test_a_margin_under_two_counting_steps_is_refused() -> None:
    claim = the_claim(an_experiment({**EQUAL, "margin_points": 0.5}))
    assert "0.5 on 360 test images is 1.8 images" in (claim_problem(claim, 360) or "")
    assert claim_problem(claim, 400) is None
    verdict = verdict_on({**EQUAL, "margin_points": 0.5}, TOKEN, TOKEN, num_test_images=360)
    assert verdict.state == "untested"
    assert "1.8 images" in verdict.reason


def test_equal_differences_get_the_floor() -> None:
    verdict = verdict_on(EQUAL, TOKEN, [score + 0.5 for score in TOKEN], num_test_images=360)
    half = 2.1318467863266495 * (50 / 360) / math.sqrt(5)
    assert verdict.interval.low == pytest.approx(0.5 - half, abs=1e-10)
    assert verdict.state == "supported"


def test_equal_differences_on_unknown_images_are_inconclusive() -> None:
    verdict = verdict_on(EQUAL, TOKEN, [score + 0.5 for score in TOKEN], num_test_images=0)
    assert verdict.state == "inconclusive"
    assert "number of test images is unknown" in verdict.reason
    assert verdict.interval is None
    assert not has_nan(dataclasses.asdict(verdict))


@pytest.mark.parametrize("images", [0, 360])
def test_scores_that_never_vary_are_inconclusive(images: int) -> None:
    verdict = verdict_on(ABOVE, [90.0] * 5, [95.0] * 5, num_test_images=images)
    assert verdict.state == "inconclusive"
    assert "no arm varies" in verdict.reason


def test_a_diverged_seed_in_the_winner_undoes_support() -> None:
    verdict = verdict_on(ABOVE, TOKEN, [*AVG[:4], "diverged"])
    assert verdict.n == 5
    assert verdict.state == "inconclusive"
    assert verdict.interval.low < -20
    assert verdict.finished_interval.n == 4
    assert verdict.finished_interval.low > 0
    assert "given that training finishes" in one_line(verdict)


def test_a_diverged_seed_in_the_loser_widens_the_envelope() -> None:
    verdict = verdict_on(ABOVE, [*TOKEN[:4], "diverged"], AVG)
    least = [a - t for a, t in zip(AVG, [*TOKEN[:4], 91.0], strict=True)]
    most = [a - t for a, t in zip(AVG, [*TOKEN[:4], 10.0], strict=True)]
    assert verdict.interval.low == pytest.approx(_t_limits(least)[0], abs=1e-9)
    assert verdict.interval.high == pytest.approx(_t_limits(most)[1], abs=1e-9)
    assert verdict.state == "supported"


def _t_limits(values: list[float]) -> tuple[float, float]:
    from scipy import stats

    return tuple(stats.ttest_1samp(values, 0.0).confidence_interval(0.95))


def test_an_arm_that_diverges_often_is_unfit() -> None:
    verdict = verdict_on(ABOVE, [*TOKEN[:3], "diverged", "diverged"], AVG)
    assert verdict.state == "inconclusive"
    assert "2 of 5 seeds diverged" in verdict.reason


def test_a_diverged_trial_of_a_statistic_cannot_be_scored() -> None:
    claim = {"form": "statistic", "arms": ["avg", "token"], "above_points": 0.0, "metric": "rho"}
    assert "diverged" in verdict_on(claim, [*TOKEN[:4], "diverged"], AVG, metric="rho").reason


def test_picked_seeds_are_exploratory() -> None:
    picked = [TOKEN[0], None, None, *TOKEN[1:3], None, None, *TOKEN[3:]]
    other = [AVG[0], None, None, *AVG[1:3], None, None, *AVG[3:]]
    verdict = verdict_on(ABOVE, picked, other, fields={"seeds": [0, 3, 4, 7, 8]})
    assert verdict.state == "supported"
    assert any("exploratory" in note for note in verdict.notes)


def test_a_fixed_design_that_grew_is_judged_by_looks() -> None:
    token, avg = TOKEN + TOKEN[:3], [score + 0.02 * seed for seed, score in enumerate(AVG + AVG[:3])]
    six = verdict_on(ABOVE, token[:6], avg[:6], fields={"seeds": 5})
    eight = verdict_on(ABOVE, token, avg, fields={"seeds": 5})
    assert six.n == 5
    assert eight.n == 8
    assert any("extended after a verdict" in note for note in eight.notes)


def test_seeds_between_looks_wait_and_a_verdict_is_not_taken_back() -> None:
    looks = {"seeds": {"looks": [5, 8]}}
    avg = [*AVG, 80.0, 80.0, 80.0]
    token = [*TOKEN, 90.0, 91.0, 90.0]
    assert verdict_on(ABOVE, token[:7], avg[:7], fields=looks).n == 5
    assert verdict_on(ABOVE, token[:7], avg[:7], fields=looks).state == "supported"
    later = verdict_on(ABOVE, token, avg, fields=looks)
    assert (later.n, later.state) == (8, "supported")
    assert any("settled at n = 5" in note for note in later.notes)


def test_an_untested_or_descriptive_claim_says_why() -> None:
    assert verdict_on({"form": "descriptive"}, TOKEN, AVG).reason == "descriptive: shown, never decided"
    assert verdict_on({**ABOVE, "untested": "needs 1M images"}, TOKEN, AVG).reason == "needs 1M images"


def test_unknown_arm_and_metric_are_one_clear_line() -> None:
    with pytest.raises(InputError, match="avgg"):
        verdict_on({**ABOVE, "arms": ["avgg", "token"]}, TOKEN, AVG)
    with pytest.raises(InputError, match=r"no trial has the metric 'test_top5'.*test_top1_percent"):
        verdict_on({**ABOVE, "metric": "test_top5"}, TOKEN, AVG)


def test_an_experiment_without_claims_or_rows_has_no_verdicts() -> None:
    assert judge_all(an_experiment(ABOVE, claims=[]), []) == []


TUNED = {"tune": {"train.lr": [1e-3, 2e-3, 4e-3], "seeds": 3}}
CLOSE = {1e-3: [88.0, 90.0, 89.0], 2e-3: [90.0, 89.0, 90.0], 4e-3: [89.0, 90.0, 90.5]}


def tuned_verdict(
    claim: dict[str, Any], grid: dict[float, list[Score]], lr: float, metric: str = "test_top1_percent"
) -> Verdict:
    experiment = an_experiment(claim, **TUNED)
    rows = [*tuning_rows(experiment, "token", grid), *tuning_rows(experiment, "avg", grid)]
    rows += made_rows(experiment, {"token": TOKEN, "avg": AVG}, setting={"train.lr": lr}, metric=metric)
    return judge(the_claim(experiment), experiment, rows)


def test_tuned_arms_carry_the_variance_of_the_choice_and_shared_settings_do_not() -> None:
    own = tuned_verdict(ABOVE, CLOSE, 4e-3)
    shared = tuned_verdict({**ABOVE, "at": {"train.lr": "best_of(token)"}}, CLOSE, 4e-3)
    assert own.tuning_variance > 0.0
    assert shared.tuning_variance == 0.0
    assert own.interval.low < shared.interval.low
    assert any("edge of its grid" in note for note in own.notes)


def test_the_noise_of_a_choice_is_known_for_accuracies_only() -> None:
    name = "pos_distance_spearman"
    own = tuned_verdict({**ABOVE, "metric": name}, CLOSE, 4e-3, name)
    assert (own.state, own.tuning_variance) == ("inconclusive", 0.0)
    assert "noise of its tuned choice is unknown" in own.reason
    assert f"{name} is no accuracy" in own.reason
    shared = tuned_verdict({**ABOVE, "metric": name, "at": {"train.lr": "best_of(token)"}}, CLOSE, 4e-3, name)
    assert "tuned choice" not in (shared.reason or "")


def test_tuned_on_one_seed_is_inconclusive() -> None:
    verdict = tuned_verdict(ABOVE, {lr: values[:1] for lr, values in CLOSE.items()}, 2e-3)
    assert verdict.state == "inconclusive"
    assert "tuned choice" in verdict.reason


def test_an_arm_without_an_eligible_setting_is_untested() -> None:
    lost: dict[float, list[Score]] = {lr: ["diverged", *values[1:]] for lr, values in CLOSE.items()}
    assert "no setting of the grid finished" in tuned_verdict(ABOVE, lost, 2e-3).reason


def test_a_missing_shared_setting_is_untested() -> None:
    verdict = tuned_verdict({**ABOVE, "at": {"train.lr": 1e-3}}, CLOSE, 4e-3)
    assert (verdict.state, verdict.reason) == ("untested", 'avg: no trials yet at {"train.lr": 0.001}')


def test_poor_evidence_is_said() -> None:
    rising = [{"step": step, "val_top1_percent": 50.0 + 0.3 * step} for step in range(0, 101, 10)]
    experiment = an_experiment(ABOVE)
    rows = made_rows(experiment, {"token": TOKEN, "avg": AVG}, curve=rising)
    notes = judge(the_claim(experiment), experiment, rows, Facts(baseline_floor_percent=95.0)).notes
    assert "under-trained: the baseline reaches 90.2%, a sane model 95.0%" in notes
    assert "under-trained: validation rose 3.0 points over the last 10% of the steps" in notes
    flat = made_rows(experiment, {"token": TOKEN, "avg": AVG}, curve=rising[:1] * 11)
    assert not judge(the_claim(experiment), experiment, flat, Facts(baseline_floor_percent=90.0)).notes


def test_parts_that_stand_alone_get_a_verdict_each() -> None:
    parts = [{"id": "MADE-01a", "above_points": 0.0}, {"id": "MADE-01b", "above_points": 50.0}]
    experiment = an_experiment({"form": "difference", "arms": ["avg", "token"], "parts": parts, "all_parts": False})
    rows = made_rows(experiment, {"token": TOKEN, "avg": AVG})
    assert [(v.claim, v.state) for v in judge_all(experiment, rows)] == [
        ("MADE-01a", "supported"),
        ("MADE-01b", "contradicted"),
    ]
    with pytest.raises(InputError, match="is judged by its parts"):
        judge(the_claim(experiment), experiment, rows)


def test_stage_rows_are_no_scores() -> None:
    experiment = an_experiment(ABOVE)
    stage = made_row("token", {"model.global_pool": "token"}, 0, 10.0, role="stage")
    rows = [stage, *made_rows(experiment, {"token": TOKEN, "avg": AVG})]
    assert judge(the_claim(experiment), experiment, rows).state == "supported"


def test_an_early_look_without_spread_decides_nothing() -> None:
    token = [*TOKEN, 90.0, 91.0, 90.0]
    avg = [score + 1.0 for score in token[:5]] + [87.0, 95.0, 88.0]
    verdict = verdict_on(ABOVE, token, avg, fields={"seeds": {"looks": [5, 8]}}, num_test_images=0)
    assert verdict.n == 8
    assert verdict.state == "inconclusive"
    assert not has_nan(dataclasses.asdict(verdict))


def test_looks_below_the_least_number_of_seeds_decide_nothing() -> None:
    looks = {"seeds": {"looks": [3, 4]}}
    verdict = verdict_on(ABOVE, TOKEN[:3], AVG[:3], fields=looks)
    assert (verdict.state, verdict.reason, verdict.forecast) == ("inconclusive", "n = 3, a verdict needs 5", ())


def test_a_refused_case_has_neither_forecast_nor_smallest_effect() -> None:
    verdict = verdict_on(ABOVE, [*TOKEN[:3], "diverged", "diverged"], AVG)
    assert verdict.forecast == ()
    assert verdict.mde is None
