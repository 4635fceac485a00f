"""What a step costs against members, batch, depth and tokens, and what finished trials cost: slopes in log-log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from vitbench.bench import finished_trials
from vitbench.bench.steps import seconds, spec_of, trainer_of
from vitbench.plan.trials import Chooser
from vitbench.spec.trial import ModelSpec, TrainSpec

BASE = {"patch_size": 4, "embed_dim": 48, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0, "in_chans": 1}
AXES: dict[str, tuple[int, ...]] = {
    "members": (1, 2, 4, 8, 16),
    "batch": (16, 32, 64, 128, 256),
    "depth": (1, 2, 4, 8),
    "tokens": (4, 16, 64, 144),
}
TRIALS = (100, 1000, 10_000)


def step_seconds(axis: str, value: int, device: str) -> float:
    """Median seconds of one step, all else as in BASE: 28 px (tokens: their root times 4 px), batch 64, one member."""
    side = 4 * round(value**0.5) if axis == "tokens" else 28
    model = ModelSpec(**{**BASE, **({"depth": value} if axis == "depth" else {})})  # type: ignore[arg-type]
    train = TrainSpec(steps=1000, batch_size=value if axis == "batch" else 64, augment="none")
    trainer = trainer_of(spec_of(model, side, 10, train), value if axis == "members" else 1, device)
    taken = iter(range(1000))
    return median(seconds(lambda: trainer.step(next(taken)), device, warm_up=2, repeats=5))


def slope(values: Sequence[float], costs: Sequence[float]) -> float:
    """The exponent of cost against value, by least squares over the upper half of the range, past fixed costs."""
    half = max(2, (len(values) + 1) // 2)
    return float(np.polyfit(np.log(values[-half:]), np.log(costs[-half:]), 1)[0])


def measure(device: str, threads: int, chooser: Chooser, say: Callable[[str], None]) -> dict[str, Any]:
    """Every axis as plain data: values, seconds, slope."""
    import torch

    torch.set_num_threads(threads)
    out: dict[str, Any] = {"device": device, "threads": threads, "axes": {}}
    for axis, values in AXES.items():
        measured = [step_seconds(axis, value, device) for value in values]
        out["axes"][axis] = _axis(values, measured)
        say(f"{axis}: slope {out['axes'][axis]['slope']:.2f}")
    many: list[Mapping[str, float]] = [finished_trials.measure(count, chooser) for count in TRIALS]
    for name in many[0]:
        out["axes"][f"trials: {name}"] = _axis(TRIALS, [seconds[name] for seconds in many])
        say(f"trials: {name}: {many[-1][name]:.2f} s for {TRIALS[-1]:,}")
    return out


def _axis(values: Sequence[int], costs: Sequence[float]) -> dict[str, Any]:
    return {"values": list(values), "seconds": list(costs), "slope": slope(values, costs)}
