"""Rows: one a trial and arm, complete, and written in one step."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_plans import Score, best, experiment, facts_of, record, rounds, top

from vitbench.plan.rounds import expand
from vitbench.plan.run_table import rows, with_read_answers, write_predictions, write_rows
from vitbench.plan.trials import Builder, Plan
from vitbench.store.record import Record, Result, Run, metric_of
from vitbench.store.trials import Store

TUNED = """
factors: {model.global_pool: [token, avg]}
tune: {train.lr: [1e-3, 2e-3, 4e-3], seeds: 2}
seeds: 3
report: {also_at: {train.lr: [best_of(token)]}}
"""


def planned(text: str, score: Score = record) -> tuple[Plan, dict[str, Record]]:
    plan = rounds(experiment(text), score)[-1]
    return plan, {trial.trial_id: score(trial) for trial in plan.trials}


def test_a_row_for_every_trial_with_a_record_in_the_plans_order() -> None:
    plan, records = planned(TUNED, top({"token": 4e-3, "avg": 2e-3}))
    found = rows(plan, records)
    assert [row["trial_id"] for row in found] == [trial.trial_id for trial in plan.trials]
    chosen = {(row["arm"], row["setting"]["train.lr"]) for row in found if row["chosen"]}
    assert chosen == {("token", 4e-3), ("avg", 2e-3)}
    assert {row["role"] for row in found if row["chosen"]} == {"reporting"}
    lost = found[0]["trial_id"]
    assert len(rows(plan, {i: r for i, r in records.items() if i != lost})) == len(found) - 1


def test_equal_trials_of_two_arms_are_a_row_each() -> None:
    text = "arms:\n  a: {train.lr: 1e-3}\n  b: {train.lr: 2e-3}\nseeds: 1\n"
    plan, records = planned(text)
    twin = Plan((*plan.trials, replace(plan.trials[0], arm="b")), plan.arms)
    assert [row["arm"] for row in rows(twin, records)] == ["a", "b", "b"]


def test_what_tables_read() -> None:
    plan, records = planned("seeds: 1\n")
    (row,) = rows(plan, records)
    assert row["levels"] == row["setting"] == {}
    assert (row["data"], row["num_classes"], row["grid_side"], row["depth"]) == ("fake", 4, 4, 2)
    assert row["result"]["val_top1_percent"] == 50.0


def test_rows_survive_their_file_and_hold_no_nan(tmp_path: Path) -> None:
    plan, records = planned("seeds: 2\n")
    found = rows(plan, records)
    write_rows(tmp_path / "run", found)
    text = (tmp_path / "run" / "records.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == found
    write_rows(tmp_path / "run", found[:1])
    assert len((tmp_path / "run" / "records.jsonl").read_text().splitlines()) == 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["records.jsonl"]
    with pytest.raises(ValueError, match="Out of range float"):
        write_rows(tmp_path / "run", [{"x": float("nan")}])


def test_metrics_by_name() -> None:
    made = record(planned("seeds: 1\n")[0].trials[0]).model_copy(
        update={"result": Result(test_top1_percent=80.0, num_steps=5, metrics={"few_shot_5_percent": 30.0})}
    )
    assert metric_of(made.result.model_dump(), "test_top1_percent") == 80.0
    assert metric_of(made.result.model_dump(), "few_shot_5_percent") == 30.0
    assert metric_of(made.result.model_dump(), "val_top1_percent") is None
    assert metric_of(made.result.model_dump(), "nothing") is None


def answers(index: list[int], predicted: list[int]) -> bytes:
    buffer = io.BytesIO()
    label, confidence = np.zeros(len(index), np.uint8), np.full(len(index), 0.257, np.float16)
    np.savez_compressed(
        buffer, index=index, label=label, predicted=np.array(predicted, np.uint8), confidence=confidence
    )
    return buffer.getvalue()


def test_predictions_of_reporting_trials_on_the_same_images(tmp_path: Path) -> None:
    plan = expand(Builder(experiment("seeds: 4\n"), facts_of), {}, best)
    store, records = Store(tmp_path / "root"), {}
    images = ([0, 1, 2], [0, 1, 2], [0, 2], [0, 1, 2])
    for k, (trial, index) in enumerate(zip(plan.trials, images, strict=True)):
        made = record(trial, status="diverged" if k == 3 else "ok").model_copy(update={"run": Run(attempt=1)})
        store.commit(made, store.begin_attempt(trial.trial_id), {"predictions.npz": answers(index, [k] * len(index))})
        records[trial.trial_id] = made
    write_predictions(tmp_path / "run", rows(plan, records), store)
    with np.load(tmp_path / "run" / "predictions.npz", allow_pickle=False) as found:
        assert found["trial_id"].tolist() == [trial.trial_id for trial in plan.trials[:2]]
        assert found["predicted"].tolist() == [[0, 0, 0], [1, 1, 1]]
        assert found["confidence"].tolist() == [[26, 26, 26]] * 2
        assert found["index"].tolist() == [0, 1, 2]


def test_of_a_race_answers_are_kept_where_a_page_reads_them() -> None:
    made = [("a", "trial", True), ("a", "trial", False), ("b", "trial", False), ("b", "reporting", False)]
    found = [{"arm": arm, "role": role, "chosen": chosen} for arm, role, chosen in made]
    tune = "tune: {grid: {train.lr: [1e-3, 2e-3]}, by: race}\nseeds: {looks: [6, 9]}\n"
    kept = with_read_answers(experiment(tune), found)
    assert [(row["arm"], row["role"], row["chosen"]) for row in kept] == [made[0], made[3]]
    assert with_read_answers(experiment(f"{tune}report: {{also_at: {{train.lr: [1e-3]}}}}\n"), found) == found


def test_without_predictions_no_file(tmp_path: Path) -> None:
    plan, records = planned("seeds: 1\n")
    write_predictions(tmp_path / "run", rows(plan, records), Store(tmp_path))
    assert not (tmp_path / "run").exists()
