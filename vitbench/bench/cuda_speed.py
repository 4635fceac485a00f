"""How fast a CUDA device trains: stacks of small models, the share of its bf16 peak, and a whole suite."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, Literal

from vitbench.bench.cuda_checks import DeviceUnderTest
from vitbench.bench.steps import matmul_peak, seconds, spec_of, trainer_of
from vitbench.bench.timed_command import measure
from vitbench.data import DataOptions, facts
from vitbench.engines import runner
from vitbench.engines.options import Options
from vitbench.engines.training_setup import set_precision
from vitbench.model.costs import forward_flops
from vitbench.plan.trials import Builder
from vitbench.spec.experiment import Experiment
from vitbench.spec.load import loads
from vitbench.spec.trial import ModelSpec, TrainSpec
from vitbench.stats.race import CHOOSER
from vitbench.store.events import Event, Warned
from vitbench.store.record import Record
from vitbench.store.trials import Store


def run_text(text: str, device: str, engine: str) -> tuple[list[Record], list[str]]:
    """Run an experiment in a folder of its own: its records, and what was warned of."""
    experiment, said = loads(text, "bench.yaml"), list[str]()
    assert isinstance(experiment, Experiment)

    def listen(event: Event) -> None:
        if isinstance(event, Warned):
            said.append(event.message)

    with tempfile.TemporaryDirectory() as root:
        options = Options(Path(root), DataOptions(), device=device, engine=engine)
        builder = Builder(experiment, lambda name: facts(name, DataOptions()))
        outcome = runner.run(builder, runner.RunRequest(options), CHOOSER, listen)
        records = Store(options.root).read_all(outcome.records)
    return list(records.values()), said


def stack_speed(size: DeviceUnderTest) -> dict[str, Any]:
    """Images per second of stacks of 1, 4, 16 and 64 small models (28 pixels, 50 tokens, batch 64)."""
    set_precision("fp32")
    train = TrainSpec(steps=10_000, batch_size=64, augment="light")
    one = spec_of(ModelSpec(name="Mu/4", in_chans=1), 28, 10, train)
    rows = {}
    for members in (1, 4, 16, 64) if size.is_gpu else (1, 2):
        trainer, taken = trainer_of(one, members, size.device), iter(range(10_000))
        times = seconds(lambda t=trainer, i=taken: t.step(next(i)), size.device, 5, size.pick(30, 2))  # type: ignore[misc]
        rows[str(members)] = members * 64 / median(times)
    listed = ", ".join(f"{members}: {speed:,.0f}" for members, speed in rows.items())
    return {"summary": f"images/s of a stack of {listed}", "images_per_second": rows}


def peak_share(size: DeviceUnderTest) -> dict[str, Any]:
    """The share of the bf16 peak that ViT-B/16 reaches, step by step and compiled, and its images per second."""
    name, img_size, batch = ("ViT-B/16", 224, 128) if size.is_gpu else ("ViT-Ti/16", 32, 2)
    precision: Literal["bf16", "fp32"] = "bf16" if size.is_gpu else "fp32"
    train = TrainSpec(steps=10_000, batch_size=batch, augment="none", precision=precision)
    one = spec_of(ModelSpec(name=name), img_size, 1000, train)
    set_precision(precision)
    peak, flops = matmul_peak(size.device, precision), 3 * forward_flops(one.model, one.train.objective) * batch
    rows = {}
    for program in ("eager", "graph", "compile") if size.is_gpu else ("eager",):
        trainer, taken = trainer_of(one, 1, size.device, program), iter(range(10_000))
        times = seconds(lambda t=trainer, i=taken: t.step(next(i)), size.device, 6, size.pick(12, 1))  # type: ignore[misc]
        rows[program] = {
            "images_per_second": batch / median(times),
            "share_of_peak": flops / median(times) / peak,
        }
        del trainer
    set_precision("fp32")
    listed = ", ".join(
        f"{p} {r['share_of_peak']:.0%} ({r['images_per_second']:,.0f} images/s)" for p, r in rows.items()
    )
    return {"summary": f"{name}: share of {peak / 1e12:.0f} TFLOP/s: {listed}", "matmul_peak": peak, "programs": rows}


def ablation(size: DeviceUnderTest) -> dict[str, Any]:
    """Seconds of `vitbench run ablation`, the README's first command (on a CPU: of `run smoke`)."""
    name = "ablation" if size.is_gpu else "smoke"
    with tempfile.TemporaryDirectory() as root:
        words = [sys.executable, "-m", "vitbench", "run", name, "--results", root, "--device", size.device, "--quiet"]
        cost = measure(words, {})
    return {"summary": f"vitbench run {name}: {cost.seconds:.0f} s", "seconds": cost.seconds, "peak_mib": cost.peak_mib}
