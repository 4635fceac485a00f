"""Accuracy on damaged images, the same damage for every network and seed.

Shapes: B images, C channels, S side in pixels, k cells per side.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from vitbench.base.seeding import derive_seed
from vitbench.inspection.measures import adversarial, corruptions, perturb
from vitbench.inspection.network import Subject
from vitbench.inspection.results import Findings, Shown
from vitbench.inspection.sample_images import Pictures

BATCH = 64
"""Draws are made per batch, so this size is part of the damage."""
RATIOS = (0.25, 0.5, 0.75)
CELLS = 5
"""A side of the grid of dropped cells: its lines fall inside the patches of every usual model."""
SHUFFLES = (2, 4, 7, 8)
LOW, HIGH = (0.5, 0.25), (0.125, 0.25)
ATTACK_STEPS = 60
ATTACK_SHARE = 0.2
"""Side of the adversarial patch, as a share of the image's."""

Damage = Callable[[Tensor, int], Tensor]
"""(images `[B, C, S, S]` in [0, 1], position of the first image in the set) -> damaged images."""


def robustness(subject: Subject, shown: Shown) -> Findings:
    """Accuracy in percent, clean and under each kind of damage; if the images' classes are not the network's,
    agreement with its predictions on clean images replaces accuracy."""
    pictures = shown.test
    clean = answers(subject, pictures, lambda images, _: images)
    target = pictures.labels if pictures.known_classes else clean
    metrics = {"robust_clean_percent": _percent(clean, target)}
    for name, damage in damages(pictures, subject).items():
        metrics[f"robust_{name}_percent"] = _percent(answers(subject, pictures, damage), target)
    metrics |= attacked(subject, pictures, target)
    rows = [
        {
            "damage": name.removeprefix("robust_").removesuffix("_percent"),
            "top1_percent": value,
            "num_images": len(clean),
        }
        for name, value in metrics.items()
    ]
    return Findings(metrics, rows)


def answers(subject: Subject, pictures: Pictures, damage: Damage) -> np.ndarray:
    """The network's predicted classes for damaged images, `[n]`."""
    predicted = []
    with torch.no_grad():
        for where, images in pictures.batches(BATCH):
            predicted.append(subject.logits(damage(images, where.start)).argmax(dim=1))
    return torch.cat(predicted).numpy()


def damages(pictures: Pictures, subject: Subject) -> dict[str, Damage]:
    """{name: damage} for images of this size, in the order of a table."""
    side = pictures.pixels.shape[-1]
    fill = subject.mean.view(-1, 1, 1)
    out: dict[str, Damage] = {}
    for ratio in RATIOS:
        share = f"{100 * ratio:.0f}"
        out[f"drop_random_{share}"] = lambda x, at, r=ratio: _drop(x, _noise(at, len(x), CELLS**2), r, fill)  # type: ignore[misc]
        out[f"drop_aligned_{share}"] = lambda x, at, r=ratio: _drop(  # type: ignore[misc]
            x, _noise(at, len(x), aligned_cells(side) ** 2), r, fill
        )
        out[f"drop_salient_{share}"] = lambda x, _, r=ratio: _drop(x, -perturb.contrast(x, CELLS), r, fill)  # type: ignore[misc]
        out[f"drop_nonsalient_{share}"] = lambda x, _, r=ratio: _drop(x, perturb.contrast(x, CELLS), r, fill)  # type: ignore[misc]
    shift = max(1, side // 16)
    for cells in (k for k in SHUFFLES if side % k == 0):
        out[f"shuffle_{cells}"] = lambda x, at, k=cells: _shuffle(x, at, k, 0)  # type: ignore[misc]
        out[f"shuffle_{cells}_shifted"] = lambda x, at, k=cells: _shuffle(x, at, k, shift)  # type: ignore[misc]
    for share_kept in LOW:
        out[f"low_pass_{_thousandths(share_kept)}"] = lambda x, _, s=share_kept: perturb.low_pass(x, s)  # type: ignore[misc]
    for share_lost in HIGH:
        out[f"high_pass_{_thousandths(share_lost)}"] = lambda x, _, s=share_lost: perturb.high_pass(x, s)  # type: ignore[misc]
    out["scrambled_phase"] = lambda x, at: perturb.scramble_phase(x, _noise(at, len(x), side, side))
    for kind, corrupt in corruptions.CORRUPTIONS.items():
        for level in (1, 2, 3):
            out[f"{kind}_{level}"] = lambda x, at, f=corrupt, n=level: f(x, n, _seed("corrupt", at))  # type: ignore[misc]
    return out


def aligned_cells(side_px: int) -> int:
    """Cells per side of a grid that lines up with the usual patches of images of this size."""
    return 7 if side_px % 7 == 0 else 8 if side_px >= 32 else 4


def attacked(subject: Subject, pictures: Pictures, target: np.ndarray) -> dict[str, float]:
    """Accuracy with an adversarial patch found on the first quarter of the images and pasted into the others, and with
    a patch of noise of the same size; nothing of a network whose answers have no gradient by pixels."""
    held_out = max(1, min(len(pictures) // 4, 256))
    side = pictures.pixels.shape[-1]
    patch_px = max(2, round(ATTACK_SHARE * side))
    labels = torch.from_numpy(np.asarray(target, dtype=np.int64))
    images = pictures.pixels[:held_out].float() / 255
    if not adversarial.has_gradient(subject.logits, images):
        return {}
    adversarial_patch = adversarial.universal_patch(
        subject.logits, images, labels[:held_out], patch_px, ATTACK_STEPS, derive_seed(0, "inspect/attack")
    )
    noise = torch.rand(adversarial_patch.shape, generator=torch.Generator().manual_seed(_seed("noise patch", 0)))

    def pasted(patch: Tensor) -> Damage:
        def damage(x: Tensor, at: int) -> Tensor:
            generator = torch.Generator().manual_seed(_seed("corners", at))
            return adversarial.paste(x, patch, adversarial.random_corners(len(x), side, patch_px, generator))

        return damage

    return {
        f"robust_{name}_patch_percent": _percent(
            answers(subject, pictures, pasted(patch))[held_out:], target[held_out:]
        )
        for name, patch in (("adversarial", adversarial_patch), ("noise", noise))
    }


def _drop(images: Tensor, order: Tensor, ratio: float, fill: Tensor) -> Tensor:
    return perturb.drop_cells(images, perturb.first_of(order, ratio), fill)


def _shuffle(images: Tensor, at: int, cells: int, shift_px: int) -> Tensor:
    order = _noise(at, len(images), cells**2).argsort(dim=1)
    return perturb.shuffle_cells(images, order, shift_px)


def _noise(at: int, *shape: int) -> Tensor:
    """Uniform draws that depend only on the batch's position and the shape."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(_seed("draws", at)))


def _seed(stream: str, at: int) -> int:
    return derive_seed(0, f"inspect/{stream}/{at}")


def _thousandths(share: float) -> str:
    return f"{1000 * share:.0f}"


def _percent(predicted: np.ndarray, target: np.ndarray) -> float:
    return 100.0 * float(np.mean(predicted == target))
