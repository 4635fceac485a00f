"""Train a stack from the first step, or from a checkpoint, to the last step.

E stacked trials, P parameters of one model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from vitbench.base.fault_injection import fault
from vitbench.base.signals import Terminated, ask, held
from vitbench.store.record import CurvePoint
from vitbench.train.checkpoint import Checkpoints, Snapshot, Standing
from vitbench.train.image_source import Members
from vitbench.train.trainer import Trainer

NUM_READINGS, FEWEST_READINGS, READ_SHARE = 10, 2, 2
"""Readings of a training curve, at most 10 and at least 2, with at most 2 validation images per training image."""
TICK_SECONDS = 0.5

Tick = Callable[[int, float, float | None], None]
"""Called with (step, images per second of one member, last loss read)."""


@dataclass
class Trained:
    """One member after training; `diverged_at` is the first step whose loss was not finite."""

    members: Members
    state: dict[str, Tensor]
    best_state: dict[str, Tensor]
    curve: list[CurvePoint] = field(default_factory=list)
    best_val: float = -1.0
    diverged_at: int | None = None
    seconds: float = 0.0


@dataclass
class Saves:
    """The checkpoints of a stack's members (none: nothing is saved), the interval, and the snapshots to start from."""

    places: Sequence[Checkpoints] = ()
    starts: Sequence[Snapshot | None] = ()
    interval_seconds: float = math.inf
    begun: bool = False
    last: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """True if the interval has passed since the last save."""
        return time.monotonic() - self.last >= self.interval_seconds

    def write(self, training: TrainingState) -> None:
        """Write one checkpoint per member, all at the same step."""
        for e, place in enumerate(self.places):
            place.write(training.snapshot(e, place))
        self.begun, self.last = True, time.monotonic()


def reading_steps(num_steps: int, num_images: int, num_val: int) -> set[int]:
    """The steps (1-based) after which the curve is read: evenly spaced to the last step, and at nine tenths.

    Training takes `num_images`, each reading takes `num_val`; so a short training spends little time on validation.
    """
    count = max(FEWEST_READINGS, min(NUM_READINGS, READ_SHARE * num_images // max(1, num_val)))
    return {-(-num_steps * k // count) for k in range(1, count + 1)} | {-(-num_steps * 9 // 10)}


def train_stack(trainer: Trainer, tick: Tick, saves: Saves | None = None) -> list[Trained]:
    """Train to the last step and return every member. A diverged member is frozen at its step; the others continue.

    A request to stop is raised after the current step is finished and saved; several processes agree on that step, and
    each of them raises.
    """
    saves = saves or Saves()
    training = TrainingState(trainer, saves.starts)
    try:
        with held() as stop_requested:
            stops = _agreed(trainer, stop_requested)
            training.look(tick)  # An earlier stop may have come before the reading of its step.
            while not training.over and not stops():
                trainer.step(training.step)
                fault("step.mid")
                training.step += 1
                if saves.due():
                    saves.write(training)
                if not stops():
                    training.look(tick)
            if trainer.group.any(stop_requested()) and not stop_requested():
                ask(Terminated())  # Another process of this trial was asked.
            if saves.begun or stop_requested():
                saves.write(training)
    finally:
        trainer.feed.close()
    return training.finish()


def _agreed(trainer: Trainer, stop_requested: Callable[[], bool]) -> Callable[[], bool]:
    """Whether to stop, with the same answer in every process that trains the trial."""
    sums = trainer.sums
    if sums is None:
        return stop_requested
    sums.wants_stop = stop_requested
    return lambda: sums.stop_agreed


class TrainingState:
    """The state of a stack's training beside weights and optimizer: `step` finished steps, curves, best weights."""

    def __init__(self, trainer: Trainer, starts: Sequence[Snapshot | None]) -> None:
        assert trainer.train.steps is not None
        self.trainer, self.num_steps = trainer, trainer.train.steps
        num_images, num_val = self.num_steps * trainer.train.batch_size, len(trainer.used[0].val)
        self.readings = reading_steps(self.num_steps, num_images, num_val)
        self.members = [Trained(used, {}, {}) for used in trainer.used]
        self.best = trainer.evaluated.clone()
        self.step = self.last_read = 0
        for e, start in enumerate(starts):
            if start is not None:
                self._restore(e, start)
        if trainer.group.size > 1:
            self._copy_first_process()
        self.loss = self.members[0].curve[-1].train_loss if self.members[0].curve else None
        self.first_step, self.last_tick = self.step, 0.0
        self.earlier = [member.seconds for member in self.members]
        self.started = time.monotonic()

    @property
    def over(self) -> bool:
        """True after the last step, or if every member has diverged."""
        return self.step >= self.num_steps or all(member.diverged_at is not None for member in self.members)

    def look(self, tick: Tick) -> None:
        """Read the curve if a reading is due, and call `tick` from time to time."""
        due = self.step in self.readings and self.last_read < self.step
        if due:
            self.loss = self._read()
        now = time.monotonic()
        if due or (now - self.last_tick > TICK_SECONDS and self.step > self.first_step):
            self.last_tick = now
            num_images = (self.step - self.first_step) * self.trainer.train.batch_size
            tick(self.step, num_images / max(1e-9, now - self.started), self.loss)

    def _read(self) -> float:
        """Append a point to every live member's curve, keep the best weights; return the first member's mean loss."""
        trainer = self.trainer
        losses: list[float] = (trainer.loss_sum / (self.step - self.last_read)).tolist()
        trainer.loss_sum.zero_()
        self.last_read = self.step
        bad = trainer.bad_step.tolist()
        for e, (top1, val_loss, finite) in enumerate(trainer.validate()):
            member = self.members[e]
            if member.diverged_at is not None:
                continue
            if bad[e] >= 0 or not finite:
                member.diverged_at = bad[e] + 1 if bad[e] >= 0 else self.step
                continue
            point = CurvePoint(step=self.step, train_loss=losses[e], val_top1_percent=top1, val_loss=val_loss)
            member.curve.append(point)
            if top1 is not None and top1 > member.best_val:
                member.best_val = top1
                self.best[e] = trainer.evaluated[e]
        return losses[0]

    def finish(self) -> list[Trained]:
        """The members, with their weights and their share of the time."""
        for e, (member, seconds) in enumerate(zip(self.members, self._seconds(), strict=True)):
            stack = self.trainer.stack
            member.state = stack.state(e, self.trainer.evaluated)
            member.best_state, member.seconds = stack.state(e, self.best), seconds
        return self.members

    def _seconds(self) -> list[float]:
        """Each member's share of the time until now, plus the seconds of earlier attempts."""
        share = (time.monotonic() - self.started) / len(self.members)
        return [seconds + share for seconds in self.earlier]

    def snapshot(self, e: int, place: Checkpoints) -> Snapshot:
        """The snapshot of member `e`, on the CPU."""
        member = self.members[e]
        standing = Standing(
            trial_id=place.trial_id,
            made_by=dict(place.made_by),
            step=self.step,
            last_read=self.last_read,
            best_val=member.best_val,
            diverged_at=member.diverged_at,
            seconds=self._seconds()[e],
            curve=tuple(member.curve),
        )
        tensors = {name: tensor[e].detach().cpu().clone() for name, tensor in self._tensors().items()}
        return Snapshot(standing, tensors)

    def _restore(self, e: int, start: Snapshot) -> None:
        """Restore member `e` from its snapshot; all members of a stack must be at the same step."""
        standing, member = start.standing, self.members[e]
        assert self.step in (0, standing.step), "equal steps"
        self.step, self.last_read = standing.step, standing.last_read
        member.curve, member.best_val = list(standing.curve), standing.best_val
        member.diverged_at, member.seconds = standing.diverged_at, standing.seconds
        for name, tensor in self._tensors().items():
            tensor[e].copy_(start.tensors[name])

    def _copy_first_process(self) -> None:
        """Take the state of process 0, which alone reads checkpoints and weights to start from."""
        (member,), group = self.members, self.trainer.group
        state = (self.step, self.last_read, member.curve, member.best_val, member.diverged_at)
        self.step, self.last_read, member.curve, member.best_val, member.diverged_at = group.object_from_first(state)
        for tensor in self._tensors().values():
            group.from_first(tensor)

    def _tensors(self) -> dict[str, Tensor]:
        """The tensors that training changes, with a leading axis `[E]`; written in place, so that graphs stay valid."""
        trainer = self.trainer
        moments = {"first": trainer.optimizer.first, "second": trainer.optimizer.second}
        return {
            "weights": trainer.stack.flat,
            "best": self.best,
            "loss_sum": trainer.loss_sum,
            "bad_step": trainer.bad_step,
            **{name: tensor for name, tensor in moments.items() if tensor.numel()},
            **({} if trainer.average is None else {"average": trainer.average}),
            **trainer.networks.tensors(),
            **{f"buffer.{name}": tensor for name, tensor in trainer.stack.buffers.items()},
        }
