"""Distillation from the first stage to the record, in every engine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import Cli
from made_runs import TINY, Ran, options, results
from test_fused import assert_alike

from vitbench.engines.execute import execute_locked
from vitbench.plan.sources import record_contradictions
from vitbench.store.events import Warned
from vitbench.store.record import Record
from vitbench.store.trials import Store

DISTILLED = (
    TINY.replace("steps: 12", "steps: 6")
    + """
stages:
  - {name: teach, model: {depth: 1}}
  - {name: learn, uses: {teacher: teach}}
factors:
  learn.train.objective.name: [classify, distill, {name: distill, type: hard}]
seeds: 2
"""
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return Ran(DISTILLED, tmp_path_factory.mktemp("alone"))


def test_every_trial_has_its_record_with_its_parents(alone: Ran) -> None:
    assert {record.status for record in alone.records.values()} == {"ok"}
    assert len(alone.records) == 2 * 4
    for trial in alone.trials:
        record = alone.records[trial.trial_id]
        assert record.parents == dict(trial.parents)
        assert record.result.train_flops == trial.train_flops
        assert list(record_contradictions(record, alone.store)) == []
    arms = [trial for trial in alone.trials if trial.stage == "learn" and trial.seed == 0]
    assert len({alone.records[trial.trial_id].result.weights_sha256 for trial in arms}) == 3


def test_a_stack_gives_the_same_records(alone: Ran, tmp_path: Path) -> None:
    stacked = Ran(DISTILLED, tmp_path, engine="fused")
    assert {record.run.engine for record in stacked.records.values()} == {"fused"}
    for trial_id, record in stacked.records.items():
        assert_alike(record, alone.records[trial_id])
        assert record.networks == alone.records[trial_id].networks


@pytest.mark.slow
def test_workers_give_the_same_records_bit_for_bit(alone: Ran, tmp_path: Path) -> None:
    assert results(Ran(DISTILLED, tmp_path, workers=2, engine="workers")) == results(alone)


PSEUDO_LABELLED = (
    TINY.replace("steps: 12", "steps: 4")
    + """
stages:
  - {name: teach, data: {train_fraction: 0.25}}
  - {name: learn, uses: {teacher: teach}, train: {objective: {name: pseudo_label, labelled_fraction: 0.25}}}
seeds: 1
"""
)


def test_pseudo_labels_are_counted_and_recorded(tmp_path: Path) -> None:
    ran = Ran(PSEUDO_LABELLED, tmp_path)
    for trial in ran.trials:
        record = ran.records[trial.trial_id]
        assert (record.status, record.result.train_flops) == ("ok", trial.train_flops)
        assert list(record_contradictions(record, ran.store)) == []
    metrics = ran.records[ran.trials[-1].trial_id].result.metrics
    assert metrics["pseudo_labels_kept_percent"] == 100.0
    assert 0 < metrics["pseudo_labels_right_percent"] < 100


def test_a_student_waits_for_its_teacher(alone: Ran, tmp_path: Path) -> None:
    student = next(trial for trial in alone.trials if trial.parents)
    assert not execute_locked(student, options(tmp_path), lambda event: None)
    assert not (tmp_path / "trials" / student.trial_id).exists()


def test_a_teacher_whose_weights_were_not_kept_is_trained_again(alone: Ran, tmp_path: Path) -> None:
    shutil.copytree(alone.root, tmp_path / "results")
    student = next(trial for trial in alone.trials if trial.parents)
    teacher = student.parents["teacher"]
    record = alone.store.folder(student.trial_id) / "record.json"
    root = tmp_path / "results"
    (root / record.relative_to(alone.root)).unlink()
    kept = alone.store.weights(teacher).read_bytes()
    (root / alone.store.weights(teacher).relative_to(alone.root)).unlink()
    again = Ran(DISTILLED, root)
    assert f"trial {student.trial_id} needs {teacher}, whose weights" in again.heard(Warned)[0].message
    assert again.store.weights(teacher).read_bytes() == kept
    assert again.records[student.trial_id].result == Record.model_validate_json(record.read_bytes()).result


def test_a_teacher_that_diverged_is_said_in_the_students_record(alone: Ran, tmp_path: Path) -> None:
    lost = Ran(DISTILLED.replace("depth: 1}", "depth: 1}, train: {lr: 1e30, clip_grad: null}"), tmp_path)
    students = [lost.records[trial.trial_id] for trial in lost.trials if trial.parents]
    assert len(students) == 4
    assert {record.status for record in students} == {"diverged"}
    assert all("stage" in (record.reason or "") for record in students)


@pytest.mark.slow
def test_a_finished_run_is_consistent_and_its_teachers_are_kept(tmp_path: Path, cli: Cli) -> None:
    """`doctor` checks ids against rows, `clean` keeps the teachers, `export` writes the student for timm."""
    root = tmp_path / "results"
    (tmp_path / "tiny.yaml").write_text(DISTILLED)
    assert cli("run", tmp_path / "tiny.yaml", "--results", root, "-j", "1").code == 0
    answer = cli("doctor", "--results", root)
    assert answer.code == 0, answer.out
    assert cli("clean", "--yes", "--results", root).code == 0
    rows = [json.loads(line) for line in (root / "tiny" / "records.jsonl").read_text().splitlines()]
    student = next(row for row in rows if row.get("networks"))
    assert student["networks"] == {
        "teacher": next(r["trial_id"] for r in rows if r["stage"] == "teach" and r["seed"] == 0)
    }
    assert Store(root).weights(student["networks"]["teacher"]).is_file()
    assert cli("export", student["trial_id"], "--to", tmp_path / "student", "--results", root).code == 0
    line = (root / "tiny" / "records.jsonl").read_text().replace(student["networks"]["teacher"], "0123456789abcdef")
    (root / "tiny" / "records.jsonl").write_text(line)
    answer = cli("verdict", "--run", "tiny", "--results", root)
    assert (answer.code, "than its id says" in answer.err) == (5, True)
