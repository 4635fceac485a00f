"""What a run says while it goes on; the runner emits these, the live view, the plain log, the journal that other shells
watch and the trackers listen."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vitbench.store.record import Role, Status


@dataclass(frozen=True)
class Work:
    """Trials that cost alike: of one arm, with the same training FLOPs each in the same number of steps."""

    arm: str
    train_flops: float
    num_steps: int
    num_trials: int


@dataclass(frozen=True)
class Began:
    """An experiment of a command began: the `number`th of `num_runs`; `ahead` is the work of those after it."""

    run: str
    number: int
    num_runs: int
    ahead: tuple[Work, ...]


@dataclass(frozen=True)
class Planned:
    """The trials knowable now, and the work that is done and left, trials that later rounds may add included."""

    experiment: str
    num_trials: int
    num_done: int
    num_expected: int
    done: tuple[Work, ...]
    left: tuple[Work, ...]


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
    num_steps: int
    train_seconds: float


@dataclass(frozen=True)
class Warned:
    """Something the user should know; shown once. `given_up` is the trial that this run leaves missing, if any."""

    message: str
    given_up: str | None = None


@dataclass(frozen=True)
class Ended:
    """The command came to its end."""

    exit_code: int


Event = Began | Planned | Started | Progress | Finished | Warned | Ended
Listener = Callable[[Event], None]

_KINDS: dict[str, type[Event]] = {
    kind.__name__: kind for kind in (Began, Planned, Started, Progress, Finished, Warned, Ended)
}
_WORK = ("ahead", "done", "left")


def to_line(event: Event, at: float) -> str:
    """An event as one line of JSON, `at` seconds since 1970."""
    return json.dumps({"at": at, "event": type(event).__name__, **asdict(event)})


def from_line(line: str) -> tuple[float, Event]:
    """(time, event) of a line of `to_line`; ValueError where it is none, a torn one for instance."""
    try:
        fields = json.loads(line)
        at, kind = float(fields.pop("at")), _KINDS[fields.pop("event")]
        for key in _WORK:
            if key in fields:
                fields[key] = tuple(Work(**work) for work in fields[key])
        return at, kind(**fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an event: {line[:80]}") from error
