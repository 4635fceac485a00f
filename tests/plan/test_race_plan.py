"""The race as trials: which seeds train which settings, as a pure function of the experiment and the records."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from made_plans import experiment, facts_of, record

from vitbench.base.errors import InputError
from vitbench.base.seeding import derive_seed
from vitbench.plan.race_trials import beyond
from vitbench.plan.rounds import expand
from vitbench.plan.trials import Builder, Plan, Trial
from vitbench.spec.experiment import Experiment
from vitbench.stats.race import CHOOSER
from vitbench.store.record import Record

RACE = """
factors: {model.global_pool: [token, avg]}
tune: {train.lr: [1e-3, 2e-3, 4e-3]}
seeds: {looks: [6, 9]}
"""
THREE = RACE.replace("[token, avg]", "[token, avg, map]")
Score = Callable[[Trial], Record]


def noise(trial: Trial) -> float:
    """A number in [-1, 1] that depends on arm, setting and seed alone."""
    return derive_seed(0, f"{trial.arm}/{trial.spec.train.lr}/{trial.seed}") % 2001 / 1000.0 - 1.0


def curve(best: float, drop: float = 8.0) -> Score:
    """Scores that fall by `drop` points per octave from the best rate, with noise."""

    def score(trial: Trial) -> Record:
        octaves = abs(math.log2(trial.spec.train.lr / best))
        return record(trial, 80.0 - drop * octaves + noise(trial))

    return score


def finish(made: Experiment, score: Score, seeds: int = 6, pick: Callable[[list[Trial]], list[Trial]] = list) -> Plan:
    """The plan once nothing is missing; `pick` says which of the missing trials a round runs."""
    builder, records = Builder(made, facts_of), dict[str, Record]()
    while True:
        plan = expand(builder, records, CHOOSER, range(seeds))
        missing = plan.missing(records)
        if not missing:
            assert plan.complete
            return plan
        records |= {trial.trial_id: score(trial) for trial in pick(missing)}


def cells(plan: Plan, arm: str) -> set[tuple[float, int]]:
    return {(trial.spec.train.lr, trial.seed) for trial in plan.trials if trial.arm == arm}


def test_the_first_seeds_train_every_setting_and_the_rest_those_still_racing() -> None:
    plan = finish(experiment(RACE), curve(2e-3))
    every = {(rate, seed) for rate in (1e-3, 2e-3, 4e-3) for seed in range(3)}
    assert cells(plan, "token") == every | {(2e-3, seed) for seed in range(3, 6)}
    assert {trial.role for trial in plan.trials} == {"trial"}
    assert plan.choices["token"] == {"train.lr": 2e-3}


def test_tied_settings_go_on() -> None:
    plan = finish(
        experiment(RACE), lambda trial: record(trial, 80.0 + noise(trial) - 30 * (trial.spec.train.lr > 3e-3))
    )
    assert {(rate, 5) for rate in (1e-3, 2e-3)} <= cells(plan, "avg")


@pytest.mark.parametrize("shuffle", range(12))
def test_any_order_and_any_subset_first_give_one_plan(shuffle: int) -> None:
    """Records that arrive one by one, in pairs or a random half first lead to the same trials."""
    rng = random.Random(shuffle)

    def some(missing: list[Trial]) -> list[Trial]:
        return rng.sample(missing, rng.randint(1, len(missing)))

    made, score = experiment(RACE), curve(rng.choice([1e-3, 2e-3, 4e-3, 1.6e-2]), drop=rng.choice([0.3, 1.0, 8.0]))
    whole, parts = finish(made, score, 9), finish(made, score, 9, some)
    assert {t.trial_id for t in whole.trials} == {t.trial_id for t in parts.trials}
    assert whole.choices == parts.choices


def test_the_pooled_order_could_be_seen() -> None:
    """The control: a plan that depends on what arrived first differs between two orders."""
    made, builder = experiment(RACE), Builder(experiment(RACE), facts_of)
    first = expand(builder, {}, CHOOSER, range(6)).trials
    partial = {trial.trial_id: curve(2e-3)(trial) for trial in first[:7]}
    assert expand(builder, partial, CHOOSER, range(6)).trials == first, "a stage is planned whole"
    assert {t.trial_id for t in finish(made, curve(2e-3)).trials} != {
        t.trial_id for t in finish(made, curve(4e-3)).trials
    }


@pytest.mark.parametrize("best", [1e-3, 2e-3, 8e-3])
def test_an_added_arm_changes_no_other_arms_trials(best: float) -> None:
    two, three = finish(experiment(RACE), curve(best, 1.0)), finish(experiment(THREE), curve(best, 1.0))
    for arm in ("token", "avg"):
        assert {t.trial_id for t in two.trials if t.arm == arm} == {t.trial_id for t in three.trials if t.arm == arm}


def test_a_longer_race_begins_with_the_shorter_one() -> None:
    """What nine seeds ask for at the first six is what six seeds ask for."""
    made = experiment(RACE)
    six, nine = finish(made, curve(2e-3, 1.0)), finish(made, curve(2e-3, 1.0), 9)
    assert cells(six, "token") == {cell for cell in cells(nine, "token") if cell[1] < 6}


def test_a_leader_at_an_end_extends_the_grid_twice_at_most() -> None:
    plan = finish(experiment(RACE), curve(8e-3))
    assert sorted({rate for rate, _ in cells(plan, "token")}) == pytest.approx([1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2])
    assert plan.choices["token"]["train.lr"] == pytest.approx(8e-3)
    far = finish(experiment(RACE), curve(1.0, 6.0))
    assert max(rate for rate, _ in cells(far, "token")) == pytest.approx(1.6e-2)
    none = finish(experiment(RACE.replace("4e-3]}", "4e-3], extend: 0}")), curve(8e-3))
    assert {rate for rate, _ in cells(none, "token")} == {1e-3, 2e-3, 4e-3}


def test_a_step_beyond_the_grid_moves_one_path() -> None:
    grid = [{"a": a, "b": b} for a in (1.0, 2.0) for b in ("x", "y")]
    assert beyond(grid, 0) == [{"a": 0.5, "b": "x"}]
    assert beyond(grid, 3) == [{"a": 4.0, "b": "y"}]
    assert beyond([{"a": 0.0}, {"a": 1.0}], 1) == []


def test_an_extension_that_cannot_be_trained_is_left_out() -> None:
    made = experiment(RACE.replace("train.lr: [1e-3, 2e-3, 4e-3]", "model.drop_rate: [0.2, 0.4, 0.8]"))
    plan = finish(made, lambda trial: record(trial, 50.0 + trial.spec.model.drop_rate * 20 + noise(trial) / 10))
    assert {trial.spec.model.drop_rate for trial in plan.trials} == {0.2, 0.4, 0.8}


def test_a_diverged_trial_drops_its_setting_at_once() -> None:
    def score(trial: Trial) -> Record:
        bad = trial.spec.train.lr > 3e-3 and trial.seed == 1
        return record(trial, 80.0 + noise(trial), status="diverged" if bad else "ok")

    one_by_one = finish(experiment(RACE), score, 6, lambda missing: missing[:1])
    assert {seed for rate, seed in cells(one_by_one, "token") if rate == 4e-3} == {0, 1}
    assert {t.trial_id for t in one_by_one.trials} == {t.trial_id for t in finish(experiment(RACE), score).trials}


def test_the_last_setting_goes_on_although_it_diverged() -> None:
    def score(trial: Trial) -> Record:
        lasts = 1 if trial.spec.train.lr < 3e-3 else 2
        return record(trial, 80.0, status="diverged" if trial.seed >= lasts else "ok")

    plan = finish(experiment(RACE), score)
    assert {seed for rate, seed in cells(plan, "avg") if rate == 4e-3} == set(range(6))
    assert {seed for rate, seed in cells(plan, "avg") if rate == 1e-3} == {0, 1}


def test_shared_settings_are_kept_alive_beside_the_race() -> None:
    made = experiment(RACE + "report: {also_at: {train.lr: [best_of(token), 1e-3]}}\n")

    def score(trial: Trial) -> Record:
        return curve(2e-3 if trial.arm == "token" else 4e-3)(trial)

    plan = finish(made, score)
    assert {(rate, seed) for rate in (1e-3, 2e-3, 4e-3) for seed in range(6)} <= cells(plan, "avg")
    extra = [t for t in plan.trials if t.role == "reporting"]
    assert {(t.arm, t.spec.train.lr) for t in extra} == {("avg", 2e-3), ("avg", 1e-3), ("token", 1e-3)}
    assert {t.seed for t in extra} == {3, 4, 5}, "the first seeds are the race's"


def test_a_claim_at_a_fixed_rate_keeps_that_rate_alive_in_its_arms() -> None:
    claim = "{id: A, form: difference, arms: [avg, token], at: {train.lr: 4e-3}, above_points: 0}"
    made = experiment(THREE + f"claims: [{claim}]\n")
    plan = finish(made, curve(1e-3))
    kept = {(t.arm, t.spec.train.lr) for t in plan.trials if t.role == "reporting"}
    assert kept == {("avg", 4e-3), ("token", 4e-3)}
    assert {(4e-3, seed) for seed in range(6)} <= cells(plan, "avg")
    before = experiment(THREE.replace("4e-3]}", "4e-3], seeds: 2}") + f"claims: [{claim}]\n")
    assert {t.spec.train.lr for t in finish(before, curve(1e-3)).trials if t.role == "reporting"} == {1e-3}


def test_the_plan_says_least_likely_and_most() -> None:
    builder = Builder(experiment(RACE), facts_of)
    assert expand(builder, {}, CHOOSER).bounds() == (2 * (9 + 3), 30, 2 * 5 * 6)
    done = finish(experiment(RACE), curve(2e-3))
    assert done.bounds() == (24, 24, 24)


@pytest.mark.parametrize("shared", ["[best_of(token)]", "[grid]", "[3e-3, best_of(avg)]"])
@pytest.mark.parametrize("best", [1e-3, 2e-3, 1.6e-2])
def test_the_bounds_hold_at_every_round_with_shared_settings(shared: str, best: float) -> None:
    made = experiment(RACE + f"report: {{also_at: {{train.lr: {shared}}}}}\n")
    builder, records, bounds = Builder(made, facts_of), dict[str, Record](), list[tuple[int, int, int]]()
    while True:
        plan = expand(builder, records, CHOOSER, range(6))
        bounds.append(plan.bounds())
        if plan.complete and not plan.missing(records):
            break
        records |= {
            trial.trial_id: curve(best if trial.arm == "avg" else 2e-3)(trial) for trial in plan.missing(records)
        }
    total = len(plan.unique())
    assert bounds[-1] == (total, total, total)
    assert all(least <= total <= most and least <= likely <= most for least, likely, most in bounds), (bounds, total)
    assert bounds[0][1] > expand(Builder(experiment(RACE), facts_of), {}, CHOOSER).bounds()[1], "likely counts them"


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ("{train.lr: [1e-3, 2e-3], by: race, seeds: 3}", "a race has no tuning seeds of its own"),
        ("{train.lr: [1e-3]}", "a race needs two settings or more"),
        ("{train.lr: [1e-3, 2e-3], by: seeds, first: 3}", "`first` belongs to `by: race`"),
        ("{train.lr: [1e-3, 2e-3], by: rcae}", "race"),
    ],
)
def test_a_race_that_cannot_be_is_refused_in_one_line(tune: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        experiment(f"tune: {tune}\n")
    assert "\n" not in str(refused.value)


def test_files_of_the_first_edition_keep_their_tuning_seeds() -> None:
    """Flat with `seeds`, and the copy that a run left: it writes no `seeds: 3`, which was the default."""
    for tune in ("{train.lr: [1e-3, 2e-3], seeds: 2}", "{grid: {train.lr: [1e-3, 2e-3]}}"):
        made = experiment(f"tune: {tune}\n")
        assert made.tune is not None
        assert made.tune.by == "seeds"
    assert experiment("tune: {train.lr: [1e-3, 2e-3]}\n").tune.by == "race"  # type: ignore[union-attr]
