"""Trackers, by stand-ins that note what they are told (tensorboard's own writer where it is installed). Under 5 s."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import Cli

from vitbench.base.errors import InputError
from vitbench.engines import trackers
from vitbench.store.events import Began, Event, Finished, Warned
from vitbench.store.record import CurvePoint, Record, Result, Run
from vitbench.store.trials import Store

TRIAL = "a1" * 8
CURVE = (CurvePoint(step=5, train_loss=2.0), CurvePoint(step=10, train_loss=1.0, val_top1_percent=80.0, val_loss=0.9))


def finished(root: Path, status: str = "ok") -> Finished:
    """A committed trial, and what is said of it."""
    result = Result(test_top1_percent=79.0, curve=CURVE, metrics={"few_shot_5_percent": 50.0}, num_params=7)
    record = Record(
        trial_id=TRIAL, status=status, reason=None, seed=3, data_fingerprint="d" * 64, spec={"model": {"depth": 2}},
        result=result if status == "ok" else Result(), run=Run(train_seconds=4.5),
    )  # fmt: skip
    store = Store(root)
    store.commit(record, store.begin_attempt(TRIAL), {})
    return Finished(TRIAL, "avg", {"train.lr": 0.004}, 3, "reporting", status, None, 79.0, 80.0, 1e9, 10, 4.5)


class Notes(ModuleType):
    """A tracker's package that writes down every call."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, Any]] = []

    def init(self, **fields: Any) -> Notes:
        print("noise")
        self.calls.append(("init", fields))
        return self

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.calls.append((f"log {step}", values))

    def finish(self) -> None:
        self.calls.append(("finish", None))

    def set_experiment(self, name: str) -> None:
        self.calls.append(("experiment", name))

    @contextmanager
    def start_run(self, **fields: Any) -> Any:
        self.calls.append(("run", fields))
        yield
        self.calls.append(("end", None))

    def log_params(self, params: Mapping[str, Any]) -> None:
        self.calls.append(("params", params))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.calls.append((f"metrics {step}", metrics))


PARAMS = {"arm": "avg", "seed": 3, "role": "reporting", "status": "ok", "model.depth": 2}
FINAL = {"final/test_top1_percent": 79.0, "final/few_shot_5_percent": 50.0, "final/train_seconds": 4.5}


def told(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[tuple[str, Any]], list[Event]]:
    """What a stand-in tracker was told of one trial, and what was warned."""
    package, warned = Notes(name), list[Event]()
    monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setattr(trackers, "find_spec", lambda _: package)
    listen = trackers.tracker(name, root, warned.append)
    listen(Began("mine", 1, 1, ()))
    listen(finished(root))
    return package.calls, warned


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_trial_is_one_run_with_its_curve(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls, warned = told(name, tmp_path, monkeypatch)
    assert [call for call, _ in calls] == ["init", "log 5", "log 10", "log 11", "finish"]
    begun = calls[0][1]
    assert begun["group"] == "mine"
    assert begun["name"] == "mine avg_train.lr=0.004_reporting-3"
    assert begun["config"] == PARAMS
    assert calls[1][1] == {"train_loss": 2.0}
    assert calls[2][1] == {"train_loss": 1.0, "val_top1_percent": 80.0, "val_loss": 0.9}
    assert FINAL.items() <= calls[3][1].items()
    assert not warned
    assert not capsys.readouterr().out


def test_mlflow_takes_parameters_curve_and_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, _ = told("mlflow", tmp_path, monkeypatch)
    assert [call for call, _ in calls] == [
        "experiment", "run", "params", "metrics 5", "metrics 10", "metrics None", "end",
    ]  # fmt: skip
    assert calls[0][1] == "mine"
    assert calls[1][1]["tags"] == {"trial_id": TRIAL}
    assert calls[2][1] == PARAMS
    assert FINAL.items() <= calls[5][1].items()


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    listen = trackers.tracker("tensorboard", tmp_path, lambda _: None)
    listen(Began("mine", 1, 1, ()))
    listen(finished(tmp_path))
    (folder,) = (tmp_path / "tensorboard" / "mine").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [(point.step, point.value) for point in events.Scalars("val_top1_percent")] == [(10, 80.0)]
    assert events.Scalars("final/test_top1_percent")[0].value == 79.0


def test_a_lost_trial_has_its_status_and_no_number(tmp_path: Path) -> None:
    event = finished(tmp_path, "diverged")
    record = Store(tmp_path).read(TRIAL)
    assert record is not None
    trial = trackers.tracked("mine", event, record)
    assert trial.params["status"] == "diverged"
    assert not trial.curve
    assert not {key for key in trial.metrics if "percent" in key}


def test_a_trackers_fault_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Notes, "log", lambda *_, **__: 1 / 0)
    _, warned = told("wandb", tmp_path, monkeypatch)
    assert warned == [Warned("--track wandb: trial not sent (ZeroDivisionError: division by zero)")]


def test_unknown_and_missing_trackers_are_one_line_before_anything_runs(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="allowed are tensorboard, wandb, mlflow, trackio"):
        trackers.tracker("comet", tmp_path, lambda _: None)
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    said = cli("run", "smoke", "--results", tmp_path, "--track", "mlflow")
    assert said.code == 2
    assert said.err.strip() == "error: --track mlflow: not installed; python -m pip install 'vitbench[track-mlflow]'"
    assert not list(tmp_path.glob("*/*"))
