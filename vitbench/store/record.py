"""What a trial leaves behind: one committed record in two parts, `result` (deterministic) and `run` (the rest)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from vitbench.spec.trial import Frozen, Items

SCHEMA_VERSION = 1
ALGORITHM_VERSION = 1
"""Raised by hand when a number or a default changes; part of every trial_id."""

Status = Literal["ok", "diverged", "failed"]
Role = Literal["stage", "tuning", "reporting", "trial"]
"""A trial of a race has the role `trial`: it both tunes and reports."""
TUNES: frozenset[Role] = frozenset({"tuning", "trial"})
"""Roles whose validation score may choose a setting."""
REPORTS: frozenset[Role] = frozenset({"reporting", "trial"})
"""Roles whose test score may be reported."""
Percent = Annotated[float, Field(ge=0.0, le=100.0)]


class CurvePoint(Frozen):
    """One reading of the training curve."""

    step: NonNegativeInt
    train_loss: float
    val_top1_percent: Percent | None = None
    val_loss: float | None = None


class Result(Frozen):
    """The deterministic part: bit-equal for the same device, versions and threads.

    A number outside its range (a percentage above 100, a loss that is not finite, a count below 0) is refused, where a
    record is made and where one is read.
    """

    test_top1_percent: Percent | None = None
    test_top1_best_val_percent: Percent | None = None
    val_top1_percent: Percent | None = None
    test_loss: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict, description="few_shot_5_percent, linear_probe_percent, ...")
    curve: Items[CurvePoint] = ()
    num_params: NonNegativeInt = 0
    forward_flops: NonNegativeInt = 0
    train_flops: NonNegativeFloat = 0.0
    num_images: NonNegativeInt = 0
    num_steps: NonNegativeInt = 0
    num_train_images: NonNegativeInt = 0
    num_test_images: NonNegativeInt = 0
    predictions_sha256: str | None = None
    weights_sha256: str | None = None

    @model_validator(mode="after")
    def _metrics_in_range(self) -> Result:
        for name, value in self.metrics.items():
            if name.endswith("_percent") and not 0.0 <= value <= 100.0:
                raise ValueError(f"metrics.{name} is {value:g}, which is no percentage")
        return self


def metric_of(result: Mapping[str, Any], metric: str) -> float | None:
    """A metric of a result as JSON holds it, by name: its own key or one of its `metrics`; None where there is no
    finite value."""
    value = result.get(metric, (result.get("metrics") or {}).get(metric))
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


class Run(Frozen):
    """The part that differs from one machine or attempt to the next."""

    train_seconds: NonNegativeFloat = 0.0
    eval_seconds: NonNegativeFloat = 0.0
    images_per_second: NonNegativeFloat = 0.0
    peak_memory_mib: float | None = None
    attempt: PositiveInt = 1
    device: str = "cpu"
    engine: str = "local"
    threads: int = 1
    micro_batches: PositiveInt | None = Field(None, description="Of a step, where memory did not hold the spec's")
    resumed_at_step: NonNegativeInt | None = Field(None, description="Of the checkpoint that the last attempt had")
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
