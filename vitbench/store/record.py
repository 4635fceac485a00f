"""What a trial leaves behind: one committed record in two parts, `result` (deterministic) and `run` (the rest)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from vitbench.base.contained import read
from vitbench.base.errors import InputError, ResultsError, printable
from vitbench.spec.experiment import START
from vitbench.spec.trial import Frozen, Items, TrialSpec
from vitbench.store.bounds import (
    MAX_LINE_BYTES,
    Count,
    Digest,
    Fields,
    Float32,
    Flops,
    Identifier,
    Mebibytes,
    Name,
    Percent,
    Positive,
    Rate,
    Seconds,
    Seed,
    Text,
    Version,
    parse,
)

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


READINGS = frozenset({"val_loss"})
"""Metrics that only the readings of the training curve hold."""


class CurvePoint(Frozen):
    """One reading of the training curve."""

    step: Count
    train_loss: Float32
    val_top1_percent: Percent | None = None
    val_loss: Float32 | None = None


class Result(Frozen):
    """The deterministic part: bit-equal for the same device, versions and threads.

    A number outside its range (a percentage above 100, a loss that is not finite, a count below 0) is refused, where a
    record is made and where one is read.
    """

    test_top1_percent: Percent | None = None
    test_top1_best_val_percent: Percent | None = None
    val_top1_percent: Percent | None = None
    test_loss: Float32 | None = None
    metrics: dict[Name, Float32] = Field(
        default_factory=dict, max_length=1000, description="few_shot_5_percent, linear_probe_percent, ..."
    )
    curve: Items[CurvePoint] = Field((), max_length=100_000)
    num_params: Count = 0
    forward_flops: Count = 0
    train_flops: Flops = 0.0
    num_images: Count = 0
    num_steps: Count = 0
    num_train_images: Count = 0
    num_test_images: Count = 0
    predictions_sha256: Digest | None = None
    weights_sha256: Digest | None = None

    def validation(self, metric: str) -> float | None:
        """A metric of the validation images after the last step, by name: `val_top1_percent` or `val_loss`."""
        if metric in READINGS:
            return getattr(self.curve[-1], metric) if self.curve else None
        value: float | None = getattr(self, metric)
        return value

    @model_validator(mode="after")
    def _metrics_in_range(self) -> Result:
        for name, value in self.metrics.items():
            if name.endswith("_percent") and not 0.0 <= value <= 100.0:
                raise ValueError(f"metrics.{name} is {value:g}, a percentage lies between 0 and 100")
        return self


def metric_of(result: Mapping[str, Any], metric: str) -> float | None:
    """A metric of a result as JSON holds it, by name; None if there is no finite value.

    It is a key of the result, one of its `metrics`, or (READINGS) a key of the last reading of its curve.
    """
    value = result.get(metric, (result.get("metrics") or {}).get(metric))
    if metric in READINGS and result.get("curve"):
        value = result["curve"][-1].get(metric)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


class Run(Frozen):
    """The part that differs from one machine or attempt to the next."""

    train_seconds: Seconds = 0.0
    eval_seconds: Seconds = 0.0
    images_per_second: Rate = 0.0
    peak_memory_mib: Mebibytes | None = None
    attempt: Positive = 1
    device: Name = "cpu"
    engine: Name = "local"
    threads: Positive = 1
    micro_batches: Positive | None = Field(None, description="Per step, where memory was too small for the spec's")
    processes: Positive | None = Field(None, description="Processes that trained the trial together, if several")
    resumed_at_step: Count | None = Field(None, description="Step of the checkpoint that the last attempt began from")
    host: Name = ""
    commit: Name | None = None
    dirty: bool | None = None
    versions: dict[Name, Name] = Field(default_factory=dict, max_length=100)
    started: Name = ""
    finished: Name = ""


class Record(Frozen):
    """The one committed outcome of a trial."""

    schema_version: Version = SCHEMA_VERSION
    algorithm_version: Version = ALGORITHM_VERSION
    trial_id: Identifier
    status: Status
    reason: Text | None = None
    seed: Seed
    parent: Identifier | None = Field(None, description="trial_id of the stage that this trial starts from")
    networks: dict[Name, Identifier] | None = Field(
        None, max_length=20, description="trial_ids of the stages whose networks the objective reads, by role"
    )
    data_fingerprint: Digest
    spec: Fields = Field(description="The resolved TrialSpec, fields that differ from their defaults")
    result: Result
    run: Run

    @property
    def trial_spec(self) -> TrialSpec:
        """The resolved spec. Raises InputError if it names a mechanism whose code was not loaded."""
        try:
            return TrialSpec.model_validate(self.spec)
        except ValidationError as error:
            reason = first_problem(error).replace("Value error, ", "")
            raise InputError(f"trial {self.trial_id}: {reason}; --code FILE loads a mechanism of yours") from error

    def validation(self, metric: str) -> float | None:
        """A metric of the validation images after the last step, by name: `val_top1_percent` or `val_loss`."""
        return self.result.validation(metric)

    @property
    def parents(self) -> dict[str, str]:
        """The trials that this one needs, by role."""
        return parents_of({"parent": self.parent, "networks": self.networks})


def parents_of(row: Mapping[str, Any]) -> dict[str, str]:
    """{role: trial_id} of the trials that the trial of a record or row needs."""
    start = row.get("parent")
    return {**({START: start} if start else {}), **(row.get("networks") or {})}


def read_record(path: Path) -> Record:
    """The record in a file. Raises FileNotFoundError; ResultsError if it is damaged or out of range."""
    return parsed_record(read(path, MAX_LINE_BYTES), str(path))


def parsed_record(content: bytes, where: str) -> Record:
    """The record in the bytes of its file; `where` names them in the ResultsError if they are damaged."""
    try:
        return Record.model_validate(parse(content))
    except ValidationError as error:
        raise ResultsError(f"{where}: damaged, or from an incompatible version ({first_problem(error)})") from error
    except ValueError as error:
        raise ResultsError(f"{where}: damaged, or from an incompatible version ({error})") from error


def first_problem(error: ValidationError) -> str:
    """The first problem of a pydantic error: `result.test_loss: Input should be ...`."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(printable(str(part))[:80] for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])
