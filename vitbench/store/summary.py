"""The few numbers of a record that plans, counts and times read: a hundredth of its memory."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from vitbench.store.record import Record, Status


class FinishedTrial(Protocol):
    """What a plan asks of a finished trial; a `Record` and a `Summary` answer alike."""

    @property
    def status(self) -> Status: ...

    def validation(self, metric: str) -> float | None:
        """A metric of the validation images after the last step: `val_top1_percent` or `val_loss`."""


class Summary(NamedTuple):
    """A committed record in short; `seconds` of training and evaluation."""

    status: Status
    val_top1_percent: float | None
    val_loss: float | None
    seconds: float

    def validation(self, metric: str) -> float | None:
        """A metric of the validation images after the last step: `val_top1_percent` or `val_loss`."""
        value: float | None = getattr(self, metric)
        return value


def summary_of(record: Record) -> Summary:
    """The summary of a record."""
    result, run = record.result, record.run
    seconds = run.train_seconds + run.eval_seconds
    return Summary(record.status, result.val_top1_percent, result.validation("val_loss"), seconds)
