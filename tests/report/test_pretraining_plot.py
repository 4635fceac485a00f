"""A probe of pre-trained features against the FLOPs of the pre-training: the figure, and the slope of a claim."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from sample_rows import row

from vitbench.report.plots.arm_plots import plots_for
from vitbench.report.plots.scale import points_by
from vitbench.report.row_values import series_of
from vitbench.report.summaries import own_best_summaries
from vitbench.spec.arms import arms
from vitbench.spec.experiment import Experiment
from vitbench.spec.load import load
from vitbench.stats.table import total_train_flops, total_train_seconds, with_pretraining
from vitbench.stats.verdict_list import judge_all
from vitbench.stats.verdict_types import Context
from vitbench.store.record import REPORTS

BUDGET = "pretrain.train.train_flops"
GAINS = {"masked_patch": 1.0, "mae": 2.0, "dino": 3.0, "moco_v3": 4.0, "supervised": -1.0, "untrained": 0.0}
"""Points of the probe that twice the pre-training FLOPs gain, by arm."""


def budget_experiment() -> Experiment:
    experiment = load(Path(__file__).parents[2] / "experiments/pretraining_budget.yaml")
    assert isinstance(experiment, Experiment)
    return experiment


def budget_rows(experiment: Experiment, num_seeds: int = 6) -> list[dict[str, Any]]:
    """A pre-training and a transfer for each arm and seed; the transfer takes one and the same number of FLOPs."""
    rows = []
    for arm in arms(experiment):
        name, budget = arm.levels["arm"], arm.levels[BUDGET]
        for seed in range(num_seeds):
            probe = 60.0 + GAINS[name] * math.log2(budget / 6.25e10) + 0.3 * math.sin(7 * seed + len(rows))
            spec = {"evaluate": {"features": "start"}}
            transfer = row(arm.name, dict(arm.levels), seed, 10.0, train_flops=2e9, spec=spec)
            transfer["result"]["metrics"] = {"linear_probe_percent": probe}
            if name != "untrained":
                stage = row(arm.name, dict(arm.levels), seed, 10.0, train_flops=budget, role="stage")
                stage |= {"trial_id": f"pretrain-{arm.name}-{seed}", "stage": "pretrain"}
                rows.append(stage)
                transfer["parent"] = stage["trial_id"]
            rows.append(transfer | {"trial_id": f"transfer-{arm.name}-{seed}"})
    return rows


def test_probes_stand_at_the_flops_of_their_pretraining_and_untrained_features_are_a_line() -> None:
    experiment = budget_experiment()
    figures = plots_for(experiment, budget_rows(experiment))
    assert "pretraining" in figures
    assert "compute" not in figures, "the FLOPs of the transfer did not make the features"
    (axes,) = figures["pretraining"].axes
    lines = {str(line.get_label()): line for line in axes.lines if not str(line.get_label()).startswith("_")}
    assert list(lines) == ["untrained", "masked_patch", "mae", "dino", "moco_v3", "supervised"]
    for name, line in lines.items():
        if name != "untrained":
            assert list(line.get_xdata()) == pytest.approx([62.5, 125.0, 250.0, 500.0])
    assert axes.get_xlabel() == "Compute of the pre-training (gigaFLOPs)"
    assert axes.get_ylabel() == "Linear probe (%)"


def test_a_score_after_training_has_no_such_figure() -> None:
    experiment = budget_experiment()
    trained = experiment.model_copy(update={"report": experiment.report.model_copy(update={"metric": "val_loss"})})
    assert "pretraining" not in plots_for(trained, budget_rows(experiment))


def test_the_slope_of_a_claim_is_per_doubling_of_the_pretraining() -> None:
    experiment = budget_experiment()
    (claim,) = experiment.claims
    verdicts = {v.claim: v for v in judge_all(experiment, budget_rows(experiment), Context())}
    for part, name in zip(claim.part_claims(), ("masked_patch", "mae", "dino", "moco_v3", "supervised"), strict=True):
        verdict = verdicts[part.id]
        assert verdict.effect == pytest.approx(GAINS[name], abs=0.3)
        assert verdict.state == ("contradicted" if name == "supervised" else "supported")


def test_a_probe_of_what_was_pretrained_is_not_under_trained_by_a_short_last_stage() -> None:
    """The last stage is one step, far below the floor; its own accuracy is the evidence of another metric only."""
    experiment, facts = budget_experiment(), Context(baseline_floor_percent=82.8)
    rows = [{**r, "result": {**r["result"], "test_top1_percent": 18.5}} for r in budget_rows(experiment)]
    assert not [note for v in judge_all(experiment, rows, facts) for note in v.notes if "under-trained" in note]
    (claim,) = experiment.claims
    fine_tuned = claim.model_copy(update={"metric": "test_top1_percent"})
    changed = experiment.model_copy(update={"claims": (fine_tuned,)})
    assert [note for v in judge_all(changed, rows, facts) for note in v.notes if "under-trained" in note]


def test_flops_of_earlier_stages_count_teachers_once_and_are_absent_with_a_stage() -> None:
    def trial(trial_id: str, flops: float, **more: Any) -> dict[str, Any]:
        return {"trial_id": trial_id, "result": {"train_flops": flops}, "run": {"train_seconds": 10 * flops}, **more}

    teacher, start = trial("teacher", 5.0), trial("start", 2.0, networks={"teacher": "teacher"})
    last = trial("last", 1.0, parent="start", networks={"teacher": "teacher"})
    whole = with_pretraining([teacher, start, last])
    assert [row.get("pretrain_flops") for row in whole] == [None, 5.0, 7.0]
    assert [total_train_flops(row) for row in whole] == [5.0, 7.0, 8.0]
    assert [total_train_seconds(row) for row in whole] == [50.0, 70.0, 80.0]
    assert [row.get("pretrain_flops") for row in with_pretraining([start, last])] == [None, None]


def test_tables_and_plots_show_the_flops_of_all_stages() -> None:
    experiment = budget_experiment()
    rows = budget_rows(experiment)
    costs = {arm.arm: arm.train_flops for arm in own_best_summaries(experiment, rows)}
    trained = [row for row in with_pretraining(rows) if row.get("pretrain_flops") and row["role"] in REPORTS]
    assert trained
    for trial in trained:
        assert costs[trial["arm"]] == trial["pretrain_flops"] + trial["result"]["train_flops"]
    xs = {name: point.x for name, point in points_by(experiment, rows, "train_flops").items()}
    assert xs == costs


def test_budgets_of_a_stage_are_one_series() -> None:
    series = series_of(budget_experiment())
    assert {series[f"mae+{budget:g}"] for budget in (6.25e10, 1.25e11, 2.5e11, 5e11)} == {"mae"}
