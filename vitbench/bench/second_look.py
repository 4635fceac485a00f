"""A second look at surprises: three verdicts against the paper, again by timm's models in a plain torch loop.

Nothing of vitbench trains here: models, their first values, the reading of the images, the order of batches, the
optimizer and the schedule are others'. Taken over from the committed run: sizes, steps and the learning rates that it
chose on validation. The seeds are new.
"""

from __future__ import annotations

import csv
import gzip
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitbench.base.errors import InputError
from vitbench.stats.intervals import Interval, mean_interval

FIRST_SEED = 100
WARMUP, WEIGHT_DECAY, CLIP = 0.05, 0.05, 1.0
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True)
class PlainArm:
    """A model, its learning rate and its steps; with `flops` the steps that this many training FLOPs pay for."""

    make: Callable[[], nn.Module]
    lr: float
    batch_size: int
    steps: int = 0
    flops: float = 0.0


@dataclass(frozen=True)
class Surprise:
    """A claim whose verdict in `root` contradicts its source, its arms, and their `weights` in the effect."""

    claim: str
    root: str
    arms: Mapping[str, PlainArm]
    weights: Mapping[str, float]


def vit(patch_size: int, global_pool: Literal["token", "avg"] = "token") -> nn.Module:
    """timm's ViT of the ablations: width 48, 2 blocks, 2 heads, MLPs of 96."""
    from timm.models.vision_transformer import VisionTransformer

    pooled = global_pool == "avg"
    return VisionTransformer(
        img_size=28, patch_size=patch_size, in_chans=1, num_classes=10, embed_dim=48, depth=2, num_heads=2,
        mlp_ratio=2.0, global_pool=global_pool, class_token=not pooled,
    )  # fmt: skip


def mixer() -> nn.Module:
    """timm's MLP-Mixer on patches of 7 pixels: width 48, 2 blocks."""
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(
        num_classes=10, img_size=28, in_chans=1, patch_size=7, num_blocks=2, embed_dim=48, mlp_ratio=(0.5, 2.0)
    )


def resnet() -> nn.Module:
    """timm's pre-activation ResNet, 3 bottlenecks of 36, 72 and 144 channels, with its batch norm and plain weights."""
    from timm.layers.create_conv2d import create_conv2d
    from timm.layers.norm_act import BatchNormAct2d
    from timm.models.resnetv2 import ResNetV2

    return ResNetV2(
        [1, 1, 1], channels=(36, 72, 144), num_classes=10, in_chans=1, stem_chs=9, stem_type="",
        conv_layer=create_conv2d, norm_layer=BatchNormAct2d,
    )  # fmt: skip


def slope(x: Sequence[float]) -> list[float]:
    """The weights of a least-squares slope over equally weighted points `x`."""
    centred = np.asarray(x) - np.mean(x)
    return [float(value) for value in centred / (centred @ centred)]


def surprises() -> list[Surprise]:
    """The three verdicts: finer patches lose, a ResNet needs less compute, MLPs beat attention at equal compute."""
    rates = {14: 2e-3, 7: 4e-3, 4: 2e-3}
    patches = {f"patch {size}": PlainArm(partial(vit, size), lr, 64, 900) for size, lr in rates.items()}
    per_doubling = dict(zip(patches, slope([float(np.log2(28 // size)) for size in rates]), strict=True))
    attention = PlainArm(partial(vit, 7, "avg"), 4e-3, 128, 700)
    mlps = PlainArm(mixer, 8e-3, 128, flops=train_flops(attention.make, 128, 700))
    families = {
        "vit": PlainArm(partial(vit, 4), 8e-3, 64, flops=2e11),
        "resnet": PlainArm(resnet, 8e-3, 64, flops=2e11),
    }
    return [
        Surprise("SHAPE-04a", "results/tier1-fashion", patches, per_doubling),
        Surprise("COMP-01", "results/tier1-fashion", families, {"vit": 1.0, "resnet": -1.0}),
        Surprise("NB-MIX-02", "results/fashion-2", {"attention": attention, "mlp_flops": mlps},
                 {"attention": 1.0, "mlp_flops": -1.0}),
    ]  # fmt: skip


def forward_flops(make: Callable[[], nn.Module]) -> int:
    """FLOPs of one image's forward pass as torch counts them, 2 per multiply-add; attention as matrix products."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        make().eval()(torch.zeros(1, 1, 28, 28))
    return int(counter.get_total_flops())


def train_flops(make: Callable[[], nn.Module], batch_size: int, steps: int) -> float:
    """FLOPs of a training: three forward passes an image."""
    return 3.0 * forward_flops(make) * batch_size * steps


def num_steps(arm: PlainArm) -> int:
    """The steps of an arm."""
    return arm.steps or max(1, round(arm.flops / train_flops(arm.make, arm.batch_size, 1)))


Images = tuple[Tensor, Tensor, Tensor, Tensor]


def read_images(folder: Path) -> Images:
    """Fashion-MNIST from its own files: training images `[60000, 1, 28, 28]` in -1 to 1 with labels, then test images.

    Raises InputError if a file is not there.
    """
    out = []
    for name in FILES:
        path = folder / f"{name}.gz"
        if not path.is_file():
            raise InputError(f"{path}: not there; --images takes the folder of Fashion-MNIST's four files")
        content = gzip.decompress(path.read_bytes())
        array = torch.from_numpy(np.frombuffer(content, np.uint8, offset=16 if "images" in name else 8).copy())
        out.append((array.view(-1, 1, 28, 28).float() / 127.5 - 1.0) if "images" in name else array.long())
    return out[0], out[1], out[2], out[3]


def train(arm: PlainArm, seed: int, images: Images, *, tuning: bool = False) -> float:
    """Test top-1 (%) of one training: AdamW, warm-up, cosine, clipping; 57,000 of the training images.

    With `tuning` the top-1 of the 3,000 images held out.
    """
    from timm.optim._param_groups import param_groups_weight_decay

    torch.manual_seed(seed)
    x, y, test_x, test_y = images
    shuffled, num_kept = torch.randperm(len(x)), round(0.95 * len(x))
    kept, held_out = shuffled[:num_kept], shuffled[num_kept:]
    read_x, read_y = (x[held_out], y[held_out]) if tuning else (test_x, test_y)
    model, steps = arm.make(), num_steps(arm)
    optimizer = torch.optim.AdamW(param_groups_weight_decay(model, WEIGHT_DECAY), lr=arm.lr)
    warmup = max(1, round(WARMUP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda t: min((t + 1) / warmup, 0.5 * (1 + np.cos(np.pi * max(0, t - warmup) / max(1, steps - warmup)))),
    )
    order = kept[:0]
    for _ in range(steps):
        if len(order) < arm.batch_size:
            order = kept[torch.randperm(len(kept))]
        rows, order = order[: arm.batch_size], order[arm.batch_size :]
        loss = F.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        hits = [model(read_x[i : i + 1000]).argmax(-1) == read_y[i : i + 1000] for i in range(0, len(read_x), 1000)]
    return 100.0 * float(torch.cat(hits).float().mean())


def measure(images: Images, num_seeds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Both looks at every surprise: arms' scores per seed, the effect with its interval, and the committed one."""
    began, out = time.process_time(), []
    for surprise in surprises():
        scores: dict[str, list[float]] = {name: [] for name in surprise.arms}
        for seed in range(FIRST_SEED, FIRST_SEED + num_seeds):
            for name, arm in surprise.arms.items():
                scores[name].append(train(arm, seed, images))
            say(f"{surprise.claim}, seed {seed}: " + ", ".join(f"{name} {v[-1]:.2f}" for name, v in scores.items()))
        steps = {name: num_steps(arm) for name, arm in surprise.arms.items()}
        first = committed(Path(surprise.root), surprise.claim)
        out.append({"claim": surprise.claim, "root": surprise.root, "weights": dict(surprise.weights), "steps": steps,
                    "scores": scores, "first": first})  # fmt: skip
    return {"surprises": out, "num_seeds": num_seeds, "core_seconds": round(time.process_time() - began, 1)}


def committed(root: Path, claim: str) -> dict[str, float]:
    """The effect of a claim and its interval in a root's scoreboard. Raises InputError without them."""
    path = root / "scoreboard.csv"
    for row in csv.DictReader(path.read_text().splitlines()) if path.is_file() else []:
        if row["claim"] == claim and row["low"]:
            return {key: float(row[key]) for key in ("effect", "low", "high", "n")}
    raise InputError(f"{path}: no verdict on {claim}; run this command in a checkout of vitbench")


def effect(found: Mapping[str, Any]) -> Interval:
    """The effect over seeds with its 95% t interval, from the scores of a second look."""
    table = np.array([found["scores"][name] for name in found["weights"]])
    return mean_interval(list(np.array(list(found["weights"].values())) @ table), 0.95, 10_000)


def table(result: Mapping[str, Any]) -> str:
    """Markdown: both effects, whether the signs agree, and whether the intervals share a value."""
    lines = [
        f"timm's ViT, MLP-Mixer and ResNetV2 in a plain torch loop on Fashion-MNIST, seeds {FIRST_SEED} "
        f"to {FIRST_SEED + result['num_seeds'] - 1}, {result['core_seconds']:.0f} core seconds.",
        "",
        "| claim | committed effect [95%] | second look [95%] | sign | intervals | arms (%) |",
        "|---|---|---|---|---|---|",
    ]
    for found in result["surprises"]:
        first, second = found["first"], effect(found)
        assert second.mean is not None
        assert second.low is not None
        assert second.high is not None
        sign = "agrees" if first["effect"] * second.mean > 0 else "differs"
        shared = "overlap" if second.low <= first["high"] and first["low"] <= second.high else "apart"
        arms = ", ".join(f"{name} {np.mean(values):.2f}" for name, values in found["scores"].items())
        before = f"{first['effect']:+.2f} [{first['low']:+.2f}, {first['high']:+.2f}], n = {first['n']:.0f}"
        now = f"{second.mean:+.2f} [{second.low:+.2f}, {second.high:+.2f}], n = {result['num_seeds']}"
        lines.append(f"| {found['claim']} | {before} | {now} | {sign} | {shared} | {arms} |")
    return "\n".join(lines) + "\n"
