"""A stack's way from the first step, or from a checkpoint, to the last.

E stacked trials, P parameters of one model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from vitbench.base.fault_injection import fault
from vitbench.base.signals import held
from vitbench.store.record import CurvePoint
from vitbench.train.checkpoint import Checkpoints, Snapshot, Standing
from vitbench.train.image_source import Members
from vitbench.train.trainer import Trainer

NUM_READINGS, FEWEST_READINGS, READ_SHARE = 10, 2, 2
"""Readings of a training curve; fewer where they would pass over 2 validation images for every training image."""
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
    """Where a stack's members are saved (nowhere, if there are none), how often, and what they start from."""

    places: Sequence[Checkpoints] = ()
    starts: Sequence[Snapshot | None] = ()
    interval_seconds: float = math.inf
    begun: bool = False
    last: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Has the interval gone by since the last time?"""
        return time.monotonic() - self.last >= self.interval_seconds

    def write(self, course: Course) -> None:
        """One checkpoint a member, all at the same step."""
        for e, place in enumerate(self.places):
            place.write(course.snapshot(e, place))
        self.begun, self.last = True, time.monotonic()


def reading_steps(num_steps: int, num_images: int, num_val: int) -> set[int]:
    """The steps (1-based) after which the curve is read: evenly spaced to the last one, and at nine tenths.

    `num_images` are seen in training, `num_val` at each reading: a short training does not mostly validate.
    """
    count = max(FEWEST_READINGS, min(NUM_READINGS, READ_SHARE * num_images // max(1, num_val)))
    return {-(-num_steps * k // count) for k in range(1, count + 1)} | {-(-num_steps * 9 // 10)}


def train_stack(trainer: Trainer, tick: Tick, saves: Saves | None = None) -> list[Trained]:
    """Train to the last step and return every member; a diverged one is frozen at its step, the others go on.

    A stop that is asked for meanwhile is raised once the step is finished and saved.
    """
    saves = saves or Saves()
    course = Course(trainer, saves.starts)
    try:
        with held() as stop_asked:
            course.look(tick)  # A stop may have come before the reading of its step.
            while not course.over and not stop_asked():
                trainer.step(course.step)
                fault("step.mid")
                course.step += 1
                if saves.due():
                    saves.write(course)
                if not stop_asked():
                    course.look(tick)
            if saves.begun or stop_asked():
                saves.write(course)
    finally:
        trainer.feed.close()
    return course.finish()


class Course:
    """What a stack knows of its way, beside weights and optimizer; `step` steps are done."""

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
        self.loss = self.members[0].curve[-1].train_loss if self.members[0].curve else None
        self.first_step, self.spoken = self.step, 0.0
        self.earlier = [member.seconds for member in self.members]
        self.started = time.monotonic()

    @property
    def over(self) -> bool:
        """Is the last step done, or has every member diverged?"""
        return self.step >= self.num_steps or all(member.diverged_at is not None for member in self.members)

    def look(self, tick: Tick) -> None:
        """Read the curve where that is due, and say every now and then how far it is."""
        due = self.step in self.readings and self.last_read < self.step
        if due:
            self.loss = self._read()
        now = time.monotonic()
        if due or (now - self.spoken > TICK_SECONDS and self.step > self.first_step):
            self.spoken = now
            num_images = (self.step - self.first_step) * self.trainer.train.batch_size
            tick(self.step, num_images / max(1e-9, now - self.started), self.loss)

    def _read(self) -> float:
        """Append a curve point to every live member, keep the best weights; the mean training loss of the first."""
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
        """Each member's share of the time until now, and what it had spent before."""
        share = (time.monotonic() - self.started) / len(self.members)
        return [seconds + share for seconds in self.earlier]

    def snapshot(self, e: int, place: Checkpoints) -> Snapshot:
        """Member `e` as it stands, on the CPU."""
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
        """Put member `e` where the snapshot stands; the members of a stack stand at one step."""
        standing, member = start.standing, self.members[e]
        assert self.step in (0, standing.step), "equal steps"
        self.step, self.last_read = standing.step, standing.last_read
        member.curve, member.best_val = list(standing.curve), standing.best_val
        member.diverged_at, member.seconds = standing.diverged_at, standing.seconds
        for name, tensor in self._tensors().items():
            tensor[e].copy_(start.tensors[name])

    def _tensors(self) -> dict[str, Tensor]:
        """What training changes, each with a leading axis `[E]`; written in place, so that graphs stay valid."""
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
