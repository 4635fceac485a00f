"""Seconds of a training step, and the machine's own limit: what a large matrix product reaches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from vitbench.data import Facts
from vitbench.model.costs import forward_flops
from vitbench.plan.resolve import resolve
from vitbench.spec.trial import DataSpec, ModelSpec, TrainSpec, TrialSpec, sides

if TYPE_CHECKING:
    from vitbench.train.trainer import Trainer

NUM_IMAGES = 256
"""Images that the steps draw from."""


def spec_of(model: ModelSpec, img_size: int | tuple[int, int], num_classes: int, train: TrainSpec) -> TrialSpec:
    """A resolved spec on drawn images of any size."""
    counts = (NUM_IMAGES // num_classes + 1,) * num_classes
    names = tuple(map(str, range(num_classes)))
    in_chans = 3 if model.in_chans is None else model.in_chans
    drawn = Facts(
        "drawn", img_size if isinstance(img_size, int) else None, in_chans, num_classes, names, counts, sum(counts),
        num_classes, False, "drawn", "", True,
    )  # fmt: skip
    data = DataSpec(name="drawn", img_size=img_size, val_fraction=0.0)
    return resolve(TrialSpec(model=model, data=data, train=train), drawn)


def trainer_of(spec: TrialSpec, num_members: int, device: str, program: str = "auto") -> Trainer:
    """A stack of equal trials on drawn images, ready to take steps."""
    import torch

    from vitbench.train.resident import Images
    from vitbench.train.step_program import program_of
    from vitbench.train.trainer import Job, Trainer

    rng, where = np.random.default_rng(0), torch.device(device)
    size, chans, classes = spec.data.img_size, spec.model.in_chans, spec.model.num_classes
    assert size
    assert chans
    assert classes
    labels = np.arange((NUM_IMAGES // classes + 1) * classes) % classes
    pixels = torch.from_numpy(rng.integers(0, 256, (len(labels), chans, *sides(size)), dtype=np.uint8)).to(where)
    half = torch.full((chans, 1, 1), 0.5, device=where)
    images = Images(
        train=pixels,
        test=pixels[:classes],
        train_labels=labels,
        test_labels=labels[:classes],
        mean=half,
        std=half / 2,
        num_classes=classes,
        fingerprint="drawn",
    )
    flops = 3.0 * num_members * forward_flops(spec.model, spec.train.objective) * (spec.train.steps or 0)
    how = program_of(program, device, flops * spec.train.batch_size, spec)
    return Trainer([Job(spec, seed) for seed in range(num_members)], images, where, how)


def seconds(
    step: Callable[[], None],
    device: str,
    warm_up: int = 3,
    repeats: int = 8,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Seconds of each of `repeats` calls, after some that are not counted; the device has finished each."""
    import torch

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    for _ in range(warm_up):
        step()
    times = []
    for _ in range(repeats):
        wait()
        started = clock()
        step()
        wait()
        times.append(clock() - started)
    return times


def matmul_peak(device: str, precision: str) -> float:
    """FLOP/s of a large square matrix product in the given precision: the best of several."""
    import torch

    size = 8192 if device.startswith("cuda") else 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(2, size, size, device=device).to(dtype).unbind()
    out = torch.empty_like(a)

    def multiply() -> None:
        torch.mm(a, b, out=out)

    return 2.0 * size**3 / min(seconds(multiply, device))
