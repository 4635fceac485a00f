"""Which look an experiment has reached, told from the records that are there."""

from __future__ import annotations

from pathlib import Path

from made_plans import best, experiment, facts_of, record

from vitbench.engines.runner import look
from vitbench.plan.rounds import expand
from vitbench.plan.trials import Builder, Trial
from vitbench.store.record import Run
from vitbench.store.trials import Store

ASKED = experiment("factors: {model.global_pool: [token, avg]}\nseeds: {looks: [3, 4, 6]}\n")


def commit(store: Store, trial: Trial) -> None:
    made = record(trial).model_copy(update={"run": Run(attempt=1)})
    store.commit(made, store.begin_attempt(trial.trial_id), {})


def reached(store: Store) -> set[int]:
    plan, records = look(Builder(ASKED, facts_of), store, best)
    assert records.keys() <= plan.unique().keys()
    return {trial.seed for trial in plan.trials}


def test_a_look_is_reached_when_every_arm_has_run_for_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    trials = {(t.arm, t.seed): t for t in expand(Builder(ASKED, facts_of), {}, best, range(6)).trials}
    assert reached(store) == {0, 1, 2}
    for seed in (0, 1, 2):
        for arm in ("token", "avg"):
            commit(store, trials[arm, seed])
    assert reached(store) == {0, 1, 2}
    commit(store, trials["token", 3])
    assert reached(store) == {0, 1, 2}, "another experiment may have run this one"
    commit(store, trials["avg", 3])
    assert reached(store) == {0, 1, 2, 3}
    commit(store, trials["token", 5])
    commit(store, trials["avg", 4])
    assert reached(store) == {0, 1, 2, 3, 4, 5}, "one each is enough: what is missing is then said"
