"""Training speed of one model by name, beside timm's same model: images per second, share of the peak, memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

from vitbench.base.errors import InputError
from vitbench.bench.steps import matmul_peak, seconds, spec_of, trainer_of
from vitbench.engines.memory import member_bytes
from vitbench.inspection.export import architecture
from vitbench.model.costs import forward_flops, num_params
from vitbench.spec.trial import ModelSpec, TrainSpec, TrialSpec, sides

ROUNDS = 3


def measure(name: str, size: tuple[int, int], precision: str, device: str, threads: int) -> dict[str, Any]:
    """Time training steps of `name` here and in timm, alternating; here only if timm lacks the model.

    `size`: image side in pixels, and images per step.
    """
    import torch

    from vitbench.engines.training_setup import set_precision

    torch.set_num_threads(threads)
    img_size, batch_size = size
    train = TrainSpec(steps=10_000, batch_size=batch_size, augment="none", precision=_precision(precision))
    spec = spec_of(ModelSpec(name=name), img_size, 1000, train)
    set_precision(precision)
    trainer, taken = trainer_of(spec, 1, device), iter(range(10_000))
    ways: dict[str, Callable[[], None]] = {"vitbench": lambda: trainer.step(next(taken))}
    try:
        ways["timm"] = timm_step(spec, device)
    except InputError as error:
        missing: str | None = str(error)
    else:
        missing = None
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(ROUNDS):
        for way, step in ways.items():
            times[way] += seconds(step, device, warm_up=3 if turn == 0 else 1, repeats=3)
    flops = 3 * forward_flops(spec.model, spec.train.objective) * batch_size
    peak = matmul_peak(device, precision)
    return {
        "model": name,
        "img_size": img_size,
        "batch_size": batch_size,
        "precision": precision,
        "device": device,
        "threads": threads,
        "params": num_params(spec.model, spec.train.objective),
        "train_flops_a_step": flops,
        "matmul_peak": peak,
        "planned_mib": member_bytes(spec) / 2**20,
        "peak_mib": _peak_mib(device),
        "timm_missing": missing,
        "ways": {
            way: {
                "seconds": median(times_of_way),
                "images_per_second": batch_size / median(times_of_way),
                "share_of_peak": flops / median(times_of_way) / peak,
            }
            for way, times_of_way in times.items()
        },
    }


def _precision(text: str) -> Any:
    if text not in ("fp32", "tf32", "bf16"):
        raise InputError(f"--precision {text}: allowed are fp32, tf32, bf16")
    return text


def timm_step(spec: TrialSpec, device: str) -> Callable[[], None]:
    """A training step of timm's same model in a plain loop; raise InputError if timm lacks it or is not installed."""
    import torch
    import torch.nn.functional as F

    same = architecture(spec.model, spec.train.objective)
    try:
        import timm
    except ImportError as error:
        raise InputError("timm is not installed: pip install 'vitbench[bench]'") from error
    model = timm.create_model(same.name, num_classes=spec.model.num_classes, **same.model_args).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    batch_size, size, chans = spec.train.batch_size, spec.data.img_size, spec.model.in_chans
    assert size
    assert chans
    images = torch.randn(batch_size, chans, *sides(size), device=device)
    labels = torch.arange(batch_size, device=device) % (spec.model.num_classes or 1)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=spec.train.precision == "bf16"):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def _peak_mib(device: str) -> float:
    """Peak memory so far in MiB: of the allocator on a GPU, else of this process (both models together)."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
