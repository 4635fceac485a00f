"""What a trial leaves behind: one committed record in two parts, `result` (deterministic) and `run` (the rest)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveInt

from vitbench.spec import Frozen, Items

SCHEMA_VERSION = 1
ALGORITHM_VERSION = 1
"""Raised by hand when a number or a default changes; part of every trial_id."""

Status = Literal["ok", "diverged", "failed"]


class CurvePoint(Frozen):
    """One reading of the training curve."""

    step: int
    train_loss: float
    val_top1_percent: float | None = None
    val_loss: float | None = None


class Result(Frozen):
    """The deterministic part: bit-equal for the same device, versions and threads."""

    test_top1_percent: float | None = None
    test_top1_best_val_percent: float | None = None
    val_top1_percent: float | None = None
    test_loss: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict, description="few_shot_5_percent, linear_probe_percent, ...")
    curve: Items[CurvePoint] = ()
    num_params: int = 0
    forward_flops: int = 0
    train_flops: float = 0.0
    num_images: int = 0
    num_steps: int = 0
    num_train_images: int = 0
    num_test_images: int = 0
    predictions_sha256: str | None = None
    weights_sha256: str | None = None


class Run(Frozen):
    """The part that differs from one machine or attempt to the next."""

    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    images_per_second: float = 0.0
    peak_memory_mib: float | None = None
    attempt: PositiveInt = 1
    device: str = "cpu"
    engine: str = "local"
    threads: int = 1
    host: str = ""
    commit: str | None = None
    dirty: bool | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    started: str = ""
    finished: str = ""


class Record(Frozen):
    """The one committed outcome of a trial."""

    schema_version: int = SCHEMA_VERSION
    algorithm_version: int = ALGORITHM_VERSION
    trial_id: str
    status: Status
    reason: str | None = None
    seed: int
    parent: str | None = Field(None, description="trial_id of the stage this one starts from")
    data_fingerprint: str
    spec: dict[str, Any] = Field(description="The resolved TrialSpec, fields that differ from their defaults")
    result: Result
    run: Run
