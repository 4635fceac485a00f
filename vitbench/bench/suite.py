"""A whole ablation by vitbench against the same trainings by the loops that people write: one machine, alternating."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from vitbench.base.errors import InputError
from vitbench.bench.timed_command import CommandCost, measure
from vitbench.data import DataOptions, facts
from vitbench.engines.options import num_cores
from vitbench.plan.rounds import expand
from vitbench.plan.trials import Builder, Chooser, Trial
from vitbench.spec.load import loads

SEEDS = 4
POSITIONS = ("learned_1d", "none", "learned_2d", "sincos_2d", "relative_1d")
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """What is trained: a ViT on images of 28 px, `epochs` over the training images less those held out."""

    patch_size: int = 4
    embed_dim: int = 48
    depth: int = 2
    num_heads: int = 2
    mlp_ratio: float = 2.0
    batch_size: int = 64
    epochs: int = 10
    num_train: int = 1280
    num_val: int = 128
    num_test: int = 500


@dataclass(frozen=True)
class Rules:
    """How often everybody runs, and the loader processes of the plain loops.

    No loop is compiled: compiling takes longer than the trainings on a CPU, and the compiled step is not faster there
    (docs/PERFORMANCE.md).
    """

    repeats: int = 3
    loaders: int = 2


@dataclass(frozen=True)
class Contestant:
    """One way to run the 20 trainings: a command, and the variables that it wants."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    ours: bool


def write_images(folder: Path, size: Size) -> None:
    """Images in MNIST's format, which both sides read: ten patterns under noise; drawn, so nothing is fetched.

    They lie where torchvision looks for MNIST.
    """
    rng, raw = np.random.default_rng(0), folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    patterns = np.kron(rng.random((10, 7, 7)), np.ones((4, 4)))
    for part, count in (("train", size.num_train), ("t10k", size.num_test)):
        labels = np.arange(count) % 10
        clean = patterns[labels]
        images = (255 * (0.7 * clean + 0.3 * rng.random(clean.shape))).astype(np.uint8)
        head = struct.pack(">4B3I", 0, 0, 8, 3, *images.shape)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">4BI", 0, 0, 8, 1, count) + labels.astype(np.uint8).tobytes()
        )


def experiment_text(suite: str, size: Size) -> str:
    """The 20 trainings as an experiment: five position arms, or five learning rates of one, four seeds each."""
    if suite not in ("positions", "rates"):
        raise InputError(f"bench suite {suite}: allowed are positions, rates")
    steps = size.epochs * ((size.num_train - size.num_val) // size.batch_size)
    factor = f"model.pos_embed: [{', '.join(POSITIONS)}]"
    if suite == "rates":
        factor = f"train.lr: [{', '.join(map(repr, RATES))}]"
    return f"""
name: bench_{suite}
question: How long does it take?
base:
  data: {{name: mnist, val_fraction: {size.num_val / size.num_train}}}
  model: {{patch_size: {size.patch_size}, embed_dim: {size.embed_dim}, depth: {size.depth},
           num_heads: {size.num_heads}, mlp_ratio: {size.mlp_ratio}}}
  train: {{steps: {steps}, batch_size: {size.batch_size}, lr: 2e-3, augment: light}}
factors: {{{factor}}}
seeds: {SEEDS}
"""


def trials_of(text: str, data: DataOptions, chooser: Chooser) -> tuple[Trial, ...]:
    """The trials of the experiment."""
    return expand(Builder(loads(text, "bench.yaml"), lambda name: facts(name, data)), {}, chooser).trials  # type: ignore[arg-type]


def contestants(suite: str, size: Size, folder: Path, device: str, rules: Rules) -> Iterator[Contestant]:
    """Everybody, in the order in which they run."""
    yaml = folder / f"{suite}.yaml"
    yaml.write_text(experiment_text(suite, size))
    run = (sys.executable, "-m", "vitbench", "run", str(yaml), "--data-dir", str(folder), "--device", device, "-q")
    yield Contestant("vitbench", run, {}, True)
    if suite == "rates":
        yield Contestant("vitbench, fused", (*run, "--engine", "fused"), {}, True)
    common: dict[str, Any] = {
        **{key: getattr(size, key) for key in ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")},
        **{key: getattr(size, key) for key in ("batch_size", "epochs", "num_val")},
        "data_dir": str(folder),
        "rates": RATES if suite == "rates" else (2e-3,) * len(POSITIONS),
        "seeds": tuple(range(SEEDS)),
        "device": device,
    }
    ways: dict[str, dict[str, Any]] = {
        "timm": {"library": "timm", "loaders": rules.loaders},
        "vit-pytorch": {"library": "vit-pytorch", "loaders": rules.loaders},
        "timm, images in memory": {"library": "timm", "loaders": None},
    }
    for name, settings in ways.items():
        command = (sys.executable, "-m", "vitbench.bench.plain", json.dumps({**common, **settings}))
        yield Contestant(name, command, {}, False)


def run(suite: str, size: Size, device: str, rules: Rules, chooser: Chooser, say: Say) -> dict[str, Any]:
    """Every contestant in turn, whole processes timed from outside: the measurements as plain data."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, size)
        all_contestants = list(contestants(suite, size, folder, device, rules))
        costs: dict[str, list[CommandCost]] = {c.name: [] for c in all_contestants}
        top1: dict[str, float] = {}
        for repeat in range(rules.repeats):
            for contestant in all_contestants:
                results = folder / f"results-{repeat}-{contestant.name.replace(' ', '')}"
                command = (*contestant.command, "--results", str(results)) if contestant.ours else contestant.command
                costs[contestant.name].append(measure(command, contestant.environment))
                say(f"{contestant.name}: {costs[contestant.name][-1].seconds:.1f} s")
                top1[contestant.name] = _top1(contestant, costs[contestant.name][-1], results)
        trials = trials_of(experiment_text(suite, size), DataOptions(data_dir=folder), chooser)
        plain = json.loads(costs["timm"][-1].output.splitlines()[-1])
        num_images = sum((t.spec.train.steps or 0) * t.spec.train.batch_size for t in trials)
        assert num_images == plain["images"], "both sides see as many images"
        ours = sum(trial.train_flops for trial in trials)
        return {
            "suite": suite,
            "size": asdict(size),
            "trainings": len(trials),
            "images": num_images,
            "train_flops": {"vitbench": ours, "timm": 3 * plain["forward_flops"] * plain["images"]},
            "device": device,
            "cores": num_cores(),
            "plain_threads": plain["threads"],
            "loaders": rules.loaders,
            "seconds": {name: [t.seconds for t in runs] for name, runs in costs.items()},
            "cpu_seconds": {name: [t.cpu_seconds for t in runs] for name, runs in costs.items()},
            "peak_mib": {name: max(t.peak_mib for t in runs) for name, runs in costs.items()},
            "test_top1_percent": top1,
        }


def _top1(contestant: Contestant, cost: CommandCost, results: Path) -> float:
    """Mean test top-1 of the trainings, in percent: that both sides have learned the same task."""
    if not contestant.ours:
        return float(np.mean(json.loads(cost.output.splitlines()[-1])["test_top1_percent"]))
    records = [json.loads(path.read_text())["result"] for path in sorted(results.glob("trials/*/record.json"))]
    return float(np.mean([result["test_top1_percent"] for result in records]))


def ratios(seconds: Mapping[str, Sequence[float]], ours: str) -> dict[str, dict[str, float]]:
    """How many times as long the others took as `ours`, with the 95% interval of the ratio, paired by repeat."""
    from scipy import stats

    out = {}
    for name, times in seconds.items():
        if name == ours:
            continue
        logs = np.log(np.asarray(times) / np.asarray(seconds[ours]))
        half = (
            float(stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5) if len(logs) > 1 else np.inf
        )
        low, high = np.exp(logs.mean() - half), np.exp(logs.mean() + half)
        out[name] = {"ratio": float(np.exp(logs.mean())), "low": float(low), "high": float(high), "n": len(logs)}
    return out
