"""`tune: {metric: val_loss}`: a race that the lowest validation loss wins, from the plan to the verdict's table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Cli
from made_plans import best, experiment, facts_of, record
from made_runs import TINY

from vitbench.base.errors import InputError
from vitbench.plan.rounds import expand
from vitbench.plan.run_table import rows
from vitbench.plan.trials import Builder, Trial
from vitbench.stats.table import tabulate
from vitbench.store.record import CurvePoint, Record

RACE = "tune: {metric: val_loss, train.lr: [5e-4, 1e-3, 2e-3, 4e-3], first: 2}\nseeds: 2\n"
LOSSES = {5e-4: 1.5, 1e-3: 0.9, 2e-3: 0.2, 4e-3: 0.5}


def scored(trial: Trial) -> Record:
    """A loss that is lowest at 2e-3, and an accuracy that is highest at 1e-3."""
    loss = LOSSES[trial.spec.train.lr] + 0.01 * trial.seed
    made = record(trial, 90.0 if trial.spec.train.lr == 1e-3 else 50.0)
    point = CurvePoint(step=1, train_loss=1.0, val_top1_percent=made.result.val_top1_percent, val_loss=loss)
    return made.model_copy(update={"result": made.result.model_copy(update={"curve": (point,)})})


@pytest.mark.parametrize(("text", "lr"), [(RACE, 2e-3), (RACE.replace("metric: val_loss, ", ""), 1e-3)])
def test_the_metric_decides_who_leads(text: str, lr: float) -> None:
    builder = Builder(experiment(text), facts_of)
    first = expand(builder, {}, best)
    records = {trial.trial_id: scored(trial) for trial in first.trials}
    plan = expand(builder, records, best)
    assert plan.choices["baseline"] == {"train.lr": lr}
    search = tabulate(rows(plan, records)).tuning["baseline"]
    assert search.choice is not None
    assert search.choice.setting == {"train.lr": lr}


def test_a_loss_is_a_race_only() -> None:
    with pytest.raises(InputError, match="`metric` belongs to `by: race`"):
        experiment("tune: {metric: val_loss, train.lr: [1e-3, 2e-3], seeds: 2}\n")
    with pytest.raises(InputError, match=r"tune\.metric"):
        experiment("tune: {metric: test_loss, train.lr: [1e-3, 2e-3]}\n")


@pytest.mark.slow
def test_masked_patches_are_tuned_by_their_loss(tmp_path: Path, cli: Cli) -> None:
    """By accuracy they cannot be tuned: they have none."""
    masked = TINY.replace("steps: 12", "steps: 4, objective: {name: masked_patch}")
    path = tmp_path / "tiny.yaml"
    path.write_text(masked + "tune: {train.lr: [1e-4, 1e-2], first: 2}\nseeds: 2\nreport: {metric: val_loss}\n")
    answer = cli("plan", path, "--results", tmp_path / "results")
    assert answer.code == 2
    assert "tune chooses by val_top1_percent; train.objective.name masked_patch has none" in answer.err
    path.write_text(path.read_text().replace("tune: {", "tune: {metric: val_loss, "))
    answer = cli("run", path, "--results", tmp_path / "results", "-j", "1")
    assert answer.code == 0, answer.err
    lines = [json.loads(line) for line in (tmp_path / "results/tiny/records.jsonl").read_text().splitlines()]
    means = {
        lr: sum(line["result"]["curve"][-1]["val_loss"] for line in lines if line["setting"] == {"train.lr": lr})
        for lr in {line["setting"]["train.lr"] for line in lines}
    }
    assert {line["setting"]["train.lr"] for line in lines if line["chosen"]} == {min(means, key=lambda lr: means[lr])}
    assert cli("report", "tiny", "--results", tmp_path / "results").code == 0
    page = (tmp_path / "results/tiny/index.html").read_text()
    assert "Mean validation loss over 2 seeds (n: fewer" in page
