"""The speed of this machine on given models: seconds of a training step and memory, in a few seconds each."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping

from vitbench.bench.steps import seconds, spec_of, trainer_of
from vitbench.model.costs import forward_flops
from vitbench.spec.trial import ModelSpec, TrainSpec

MOST_SECONDS = 3.0
"""One model is timed for so long at most, after its first step."""


def seconds_per_flop(
    models: Mapping[str, ModelSpec], batch_size: int, device: str, most_seconds: float = MOST_SECONDS
) -> dict[str, float]:
    """Seconds per training FLOP of each resolved model, by name, on one thread; `most_seconds` for each."""
    import torch

    torch.set_num_threads(1)
    most_seconds = min(most_seconds, MOST_SECONDS)
    return {name: _measure(model, batch_size, device, most_seconds) for name, model in models.items()}


def _measure(model: ModelSpec, batch_size: int, device: str, most_seconds: float) -> float:
    train = TrainSpec(steps=10_000, batch_size=batch_size, augment="light")
    assert model.img_size is not None
    assert model.num_classes is not None
    spec = spec_of(model, model.img_size, model.num_classes, train)
    trainer, steps = trainer_of(spec, 1, device), iter(range(10_000))

    def step() -> None:
        trainer.step(next(steps))

    step()
    began = time.monotonic()
    times: list[float] = []
    while len(times) < 30 and (not times or time.monotonic() - began < most_seconds):
        times += seconds(step, device, warm_up=0 if times else 1, repeats=1)
    quick = sorted(times)[len(times) // 4]  # Other work on the machine comes and goes; the search corrects the rest.
    return quick / (3.0 * batch_size * forward_flops(spec.model, spec.train.objective))


def peak_mib() -> float:
    """Peak memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
