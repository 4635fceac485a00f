"""Does a CUDA device compute what the CPU computes? Checks of `vitbench bench cuda`.

Each takes a `DeviceUnderTest` and returns a summary, `passed` and numbers; `skipped` where the device cannot do it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitbench.bench.steps import spec_of, trainer_of
from vitbench.engines.training_setup import set_precision
from vitbench.spec.trial import ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec
from vitbench.train.checkpoint import Checkpoints
from vitbench.train.loop import TrainingState
from vitbench.train.trainer import Trainer

PARITY_STEPS, STEPS = 3, 60
LOSS_TOLERANCE, WEIGHT_TOLERANCE = 1e-4, 1e-4
"""Relative for losses, absolute for weights: fp32 without TF32, plain SGD, three steps."""
BF16_TOLERANCE = 0.05
VIT = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
MODELS: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "vit, relative_2d": {**VIT, "pos_embed": "relative_2d"},
    "vit, rope_2d": {**VIT, "pos_embed": "rope_2d"},
    "shifted windows": {**VIT, "token_mixer": "shifted_window", "pos_embed": "none", "global_pool": "avg"},
    "token MLP": {**VIT, "token_mixer": "mlp", "pos_embed": "none", "global_pool": "avg"},
    "pooling": {**VIT, "token_mixer": "pool", "global_pool": "avg"},
    "resnet": {"family": "resnet", "layers": (1, 1), "width_factor": 0.25, "root": "small"},
    "conv stem": {**VIT, "stem": "conv"},
}
OBJECTIVES = ("classify", "masked_patch", "mae")


@dataclass(frozen=True)
class DeviceUnderTest:
    """The device, and how large a measurement may be: on a CPU only the code is tried."""

    device: str

    @property
    def is_gpu(self) -> bool:
        return self.device != "cpu"

    def pick(self, on_gpu: int, on_cpu: int) -> int:
        """A number of steps, members or images."""
        return on_gpu if self.is_gpu else on_cpu


def spec(model: dict[str, Any], **train: Any) -> TrialSpec:
    """A small classifier or pre-training of drawn 16-pixel images."""
    settings = {"steps": STEPS, "batch_size": 16, "lr": 1e-2, "augment": "light", **train}
    return spec_of(ModelSpec(in_chans=3, **model), 16, 10, TrainSpec(**settings))


def after(one: TrialSpec, device: str, num_steps: int, num_members: int = 1, program: str = "eager") -> Trainer:
    """A stack after some steps."""
    trainer = trainer_of(one, num_members, device, program)
    for step in range(num_steps):
        trainer.step(step)
    return trainer


def weights(trainer: Trainer) -> Tensor:
    """The weights `[E, P]`, on the CPU."""
    return trainer.stack.flat.detach().cpu()


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _kinds() -> Iterator[tuple[str, TrialSpec]]:
    """Every family, some mixers and encodings, and every objective on a ViT."""
    sgd: dict[str, Any] = {"opt": "sgd", "warmup_fraction": 0.0}
    for name, model in MODELS.items():
        yield name, spec(model, **sgd)
    for name in OBJECTIVES[1:]:
        yield name, spec(VIT, objective=ObjectiveSpec(name=name), **sgd)
    yield "medium augmentation", spec(VIT, **{**sgd, "augment": "medium"})


def parity(size: DeviceUnderTest) -> dict[str, Any]:
    """Losses and weights after three SGD steps, against the CPU."""
    set_precision("fp32")
    rows = {}
    for name, one in _kinds():
        there, here = after(one, size.device, PARITY_STEPS), after(one, "cpu", PARITY_STEPS)
        loss = float((there.loss_sum.cpu() / here.loss_sum - 1.0).abs().max())
        rows[name] = {"loss": loss, "weights": _difference(weights(there), weights(here))}
    losses, apart = (max(row[key] for row in rows.values()) for key in ("loss", "weights"))
    return {
        "passed": losses <= LOSS_TOLERANCE and apart <= WEIGHT_TOLERANCE,
        "summary": f"{len(rows)} kinds, loss within {losses:.1e} (relative), weights within {apart:.1e}",
        "kinds": rows,
    }


def stack(size: DeviceUnderTest) -> dict[str, Any]:
    """Members of a stack of four against the same trials alone."""
    set_precision("fp32")
    one = spec(VIT, opt="sgd", warmup_fraction=0.0)
    together = weights(after(one, size.device, PARITY_STEPS, 4))
    apart = max(
        _difference(together[seed], weights(_alone(one, seed, size.device))[0]) for seed in range(len(together))
    )
    summary = f"4 members within {apart:.1e} of the trials alone"
    return {"passed": apart <= WEIGHT_TOLERANCE, "summary": summary, "weights": apart}


def _alone(one: TrialSpec, seed: int, device: str) -> Trainer:
    """The trial of `seed` as a stack of its own."""
    from vitbench.train.trainer import Job

    trainer = trainer_of(one, 1, device, "eager")
    alone = Trainer([Job(one, seed)], trainer.images, torch.device(device))
    for step in range(PARITY_STEPS):
        alone.step(step)
    return alone


def graph(size: DeviceUnderTest) -> dict[str, Any]:
    """A replayed CUDA graph against single operations: equal bits."""
    if not size.is_gpu:
        return {"skipped": True, "summary": "CUDA graphs need a CUDA device"}
    rows = {}
    for name, one in _kinds():
        replayed = weights(after(one, size.device, STEPS, program="graph"))
        rows[name] = bool(torch.equal(replayed, weights(after(one, size.device, STEPS))))
    unequal = [name for name, equal in rows.items() if not equal]
    summary = f"{len(rows)} kinds, {STEPS} steps; unequal bits: {', '.join(unequal) or 'none'}"
    return {"passed": not unequal, "summary": summary, "kinds": rows}


def resume(size: DeviceUnderTest) -> dict[str, Any]:
    """A training from a checkpoint in its middle against one without a stop: equal bits."""
    one, program = spec(VIT), "graph" if size.is_gpu else "eager"
    whole = weights(after(one, size.device, STEPS, program=program))
    half = TrainingState(after(one, size.device, STEPS // 2, program=program), [])
    half.step = STEPS // 2
    with tempfile.TemporaryDirectory() as folder:
        place = Checkpoints(Path(folder), "0" * 16, {"torch": torch.__version__})
        place.write(half.snapshot(0, place))
        start, _ = place.latest()
    assert start is not None
    rest = trainer_of(one, 1, size.device, program)
    TrainingState(rest, [start])
    for step in range(STEPS // 2, STEPS):
        rest.step(step)
    equal = bool(torch.equal(weights(rest), whole))
    return {"passed": equal, "summary": f"bits {'equal' if equal else 'differ'} after a stop at step {STEPS // 2}"}


def bf16(size: DeviceUnderTest) -> dict[str, Any]:
    """The mean loss of a training in bf16 against fp32."""
    losses = {}
    for precision in ("fp32", "bf16"):
        set_precision(precision)
        trainer = after(spec(VIT, precision=precision), size.device, size.pick(STEPS, PARITY_STEPS))
        losses[precision] = float(trainer.loss_sum) / size.pick(STEPS, PARITY_STEPS)
    set_precision("fp32")
    apart = abs(losses["bf16"] / losses["fp32"] - 1.0)
    return {
        "passed": apart <= BF16_TOLERANCE,
        "summary": f"mean loss {losses['bf16']:.4f} against {losses['fp32']:.4f} in fp32",
        "mean_loss": losses,
    }


def out_of_memory(size: DeviceUnderTest) -> dict[str, Any]:
    """Trials of one shape that do not fit as one stack: split, and every one of them gets its record."""
    from vitbench.bench.cuda_speed import run_text

    text = """
name: memory
base:
  data: {name: fake, val_fraction: 0.2}
  model: {patch_size: PATCH, embed_dim: 64, depth: 4, num_heads: 2, mlp_ratio: 4.0}
  train: {steps: 4, batch_size: BATCH}
seeds: SEEDS
"""
    batch, seeds = size.pick(128, 2), size.pick(32, 2)
    text = text.replace("BATCH", str(batch)).replace("SEEDS", str(seeds))
    text = text.replace("PATCH", str(size.pick(1, 8)))
    if size.is_gpu:
        total = torch.cuda.get_device_properties(size.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, 6 * 2**30 / total), size.device)
    try:
        records, warnings = run_text(text, size.device, "fused")
    finally:
        if size.is_gpu:
            torch.cuda.set_per_process_memory_fraction(1.0, size.device)
    whole = sum(record.status == "ok" for record in records)
    summary = f"{whole} of {seeds} records; {len(warnings)} warnings"
    return {"passed": whole == seeds, "summary": summary, "warnings": warnings}
