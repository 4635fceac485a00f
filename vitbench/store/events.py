"""The events of a run: the runner emits them; the live view, the plain log, the event log that other shells watch, and
the trackers listen."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from vitbench.store.bounds import check_size, parse
from vitbench.store.record import Role, Status


@dataclass(frozen=True)
class Work:
    """Trials of equal cost: of one arm, each with the same training FLOPs in the same number of steps."""

    arm: str
    train_flops: float
    num_steps: int
    num_trials: int


@dataclass(frozen=True)
class Began:
    """An experiment of a command began: the `number`th of `num_runs`; `ahead` is the work of the later ones."""

    run: str
    number: int
    num_runs: int
    ahead: tuple[Work, ...]


@dataclass(frozen=True)
class ArmStanding:
    """Where one arm's race stands after `num_seeds` seeds: settings still racing, and settings that were dropped."""

    arm: str
    num_seeds: int
    racing: tuple[Mapping[str, Any], ...]
    dropped: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Planned:
    """The trials that are known now, and the work that is done and left, including what later rounds may add.

    `standings`: one per arm of a race; empty if nothing races.
    """

    experiment: str
    num_trials: int
    num_done: int
    num_expected: int
    done: tuple[Work, ...]
    left: tuple[Work, ...]
    standings: tuple[ArmStanding, ...] = ()


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
    """A trial's newest reading; `loss` is None before the first one."""

    trial_id: str
    step: int
    num_steps: int
    images_per_second: float
    loss: float | None


@dataclass(frozen=True)
class Finished:
    """A trial has a record; `metric` is the value of the reported metric, or None.

    `validation` is the value of the validation metric that chooses a setting, or None.
    """

    trial_id: str
    arm: str
    setting: Mapping[str, Any]
    seed: int
    role: Role
    status: Status
    reason: str | None
    metric: float | None
    validation: float | None
    train_flops: float
    num_steps: int
    train_seconds: float


@dataclass(frozen=True)
class Warned:
    """A message for the user, shown once. `given_up` is the trial that this run leaves missing, if any."""

    message: str
    given_up: str | None = None


@dataclass(frozen=True)
class Ended:
    """The command ended."""

    exit_code: int


Event = Began | Planned | Started | Progress | Finished | Warned | Ended
Listener = Callable[[Event], None]

_KINDS: dict[str, type[Event]] = {
    kind.__name__: kind for kind in (Began, Planned, Started, Progress, Finished, Warned, Ended)
}
_PARSERS: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(kind) for name, kind in _KINDS.items()}


def to_line(event: Event, at: float) -> str:
    """An event as one line of JSON, `at` seconds since 1970."""
    return json.dumps({"at": at, "event": type(event).__name__, **asdict(event)})


def from_line(line: str) -> tuple[float, Event]:
    """(time, event) of a line of `to_line`. Raises ValueError for any other text, an incomplete line included."""
    fields = parse(line)
    if not isinstance(fields, dict):
        raise ValueError(f"not an event: {line[:80]}")
    check_size(fields)
    at, kind = fields.pop("at", None), fields.pop("event", None)
    if kind not in _PARSERS or not isinstance(at, (int, float)):
        raise ValueError(f"not an event: {line[:80]}")
    return float(at), _PARSERS[kind].validate_python(fields)
