"""What a run says while it goes on; the runner emits these, the live view and the plain log read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vitbench.record import Status

Role = Literal["stage", "tuning", "reporting"]


@dataclass(frozen=True)
class Planned:
    """The trials knowable now (a later round may add more)."""

    experiment: str
    num_trials: int
    num_done: int
    train_flops: float
    train_flops_done: float
    num_expected: int


@dataclass(frozen=True)
class Started:
    """A trial began."""

    trial_id: str
    arm: str
    setting: Mapping[str, Any]
    seed: int
    role: Role
    num_steps: int
    train_flops: float


@dataclass(frozen=True)
class Progress:
    """A trial's last reading; speed in training images per second; `loss` is None before the first reading."""

    trial_id: str
    step: int
    num_steps: int
    images_per_second: float
    loss: float | None


@dataclass(frozen=True)
class Finished:
    """A trial has a record; `metric` is the reported one (None where there is no value)."""

    trial_id: str
    arm: str
    setting: Mapping[str, Any]
    seed: int
    role: Role
    status: Status
    reason: str | None
    metric: float | None
    val_top1_percent: float | None
    train_flops: float
    train_seconds: float


@dataclass(frozen=True)
class Warned:
    """Something the user should know; shown once. `given_up` is the trial that this run leaves missing, if any."""

    message: str
    given_up: str | None = None


Event = Planned | Started | Progress | Finished | Warned
Listener = Callable[[Event], None]
