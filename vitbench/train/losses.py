"""Losses: cross entropy of labels, distillation, masked patches with their targets, self-distillation, contrast.

E stacked trials, B batch, K classes, N patches, P patch size, C channels, g cells per side of a down-sampled patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from vitbench.base.seeding import uniforms

if TYPE_CHECKING:
    from vitbench.train.objectives.masked_patch import MaskedPatch

INTACT, MASKED, REPLACED, UNCHANGED = 0, 1, 2, 3
"""What happens to a patch's embedding; all but INTACT are corrupted and predicted."""
LEVELS = 8
"""Colour levels per channel: the paper's "3-bit" is per channel, so 512 classes of RGB, 8 of grey."""
TIE = 1e-5
"""A mean of bytes can lie exactly between two levels; this puts it into the upper one whatever a device rounds."""


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    smoothing: float,
    mixture: tuple[Tensor, Tensor] | None = None,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Loss per member `[E]` of logits `[E, B, K]`, labels `[E, B]`.

    `mixture` is the share of each image's own label `[E, B]` and the labels of its partners `[E, B]`;
    `class_weights [E, K]` weigh the classes, as torch does.
    """
    log_p = F.log_softmax(logits.float(), dim=-1)
    if class_weights is not None:
        log_p = log_p * class_weights.unsqueeze(1)

    def loss(target: Tensor) -> Tensor:
        cross_entropy = -log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1)
        return (1 - smoothing) * cross_entropy - smoothing * log_p.mean(-1)

    if mixture is None:
        return loss(labels).mean(-1)
    share, partners = mixture
    return (share * loss(labels) + (1 - share) * loss(partners)).mean(-1)


def hidden_cross_entropy(logits: Tensor, words: Tensor, is_hidden: Tensor) -> Tensor:
    """Mean cross entropy per member `[E]` of the hidden words; logits `[E, B, L, K]`, the others `[E, B, L]`."""
    log_p, weight = F.log_softmax(logits.float(), dim=-1), is_hidden.float()
    each = -log_p.gather(-1, words.unsqueeze(-1)).squeeze(-1)
    return (each * weight).sum((1, 2)) / weight.sum((1, 2))


def target_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Cross entropy per member `[E]` of logits and weighted targets `[E, B, K]`; the sum of a target is its weight.

    Smoothing moves its share of every target to all classes alike.
    """
    log_p = F.log_softmax(logits.float(), dim=-1)
    of_targets, of_all = (targets * log_p).sum(-1), targets.sum(-1) * log_p.mean(-1)
    return -((1 - smoothing) * of_targets + smoothing * of_all).mean(-1)


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """temperature**2 x KL(teacher || student) per member `[E]`, a mean over images, of logits `[E, B, K]` each.

    Source: Hinton et al. 2015, section 2: the factor keeps the gradient's size the same for every temperature.
    """
    log_q = F.log_softmax(logits.float() / temperature, dim=-1)
    log_p = F.log_softmax(teacher.float() / temperature, dim=-1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
    return temperature**2 * divergence.mean(-1)


@dataclass(frozen=True)
class Corruption:
    """What happens to each patch `[..., N]`, and whose embedding replaces it."""

    action: np.ndarray
    source: np.ndarray


def corrupt(objective: MaskedPatch, num_patches: int, seed: int, epoch: np.ndarray, index: np.ndarray) -> Corruption:
    """The corruption of images `index [B]` in epochs `epoch [B]`: exactly round(mask_ratio N) patches each, of which in
    expectation 80% become the mask embedding, 10% another patch's embedding, and 10% stay.

    Source: Dosovitskiy et al. 2021, App. B.1.2. Differs: the replacing patch comes from the same image (the paper
    does not say which).
    """
    draws = np.zeros((len(index), 3 * num_patches))
    for e in np.unique(epoch):
        draws[epoch == e] = uniforms(seed, "mask", int(e), index[epoch == e], 3 * num_patches)
    order, kind, other = np.split(draws, 3, axis=-1)
    count = max(1, round(objective.mask_ratio * num_patches))
    chosen = np.argsort(np.argsort(order, axis=-1), axis=-1) < count
    action = np.where(kind < 0.8, MASKED, np.where(kind < 0.9, REPLACED, UNCHANGED))
    step = 1 + (other * (num_patches - 1)).astype(np.int64) if num_patches > 1 else np.zeros_like(other, np.int64)
    source = (np.arange(num_patches) + step) % num_patches
    return Corruption(np.where(chosen, action, INTACT), source)


def cells(patch_size: int) -> int:
    """Cells per side of the down-sampled target: 4, or half the patch where that is smaller."""
    return max(1, min(4, patch_size // 2))


def colour_bins(mean: Tensor) -> Tensor:
    """Class of a mean colour `[..., C]` in [0, 1]: its 3-bit levels as digits in base 8, first channel highest."""
    level = (mean * LEVELS + TIE).long().clamp(0, LEVELS - 1)
    weight = LEVELS ** torch.arange(mean.shape[-1] - 1, -1, -1, device=mean.device)
    return (level * weight).sum(-1)


def patch_targets(objective: MaskedPatch, images: Tensor, patch_size: int) -> Tensor:
    """Targets of images `[B, C, H, W]`: classes `[B, N, 1 or g g]` of images in [0, 1], or the pixels `[B, N, P P C]`
    of standardised images."""
    patches = rearrange(images, "b c (h p) (w q) -> b (h w) p q c", p=patch_size, q=patch_size)
    if objective.target == "pixels":
        return rearrange(patches, "b n p q c -> b n (p q c)")
    if objective.target == "mean_colour":
        return colour_bins(reduce(patches, "b n p q c -> b n 1 c", "mean"))
    side = cells(patch_size)
    trimmed = patches[:, :, : patch_size // side * side, : patch_size // side * side]
    return colour_bins(reduce(trimmed, "b n (g p) (h q) c -> b n (g h) c", "mean", g=side, h=side))


def masked_patch_loss(objective: MaskedPatch, predicted: Tensor, targets: Tensor, action: Tensor) -> Tensor:
    """Loss per member `[E]`, over corrupted patches only; predicted `[E, B, N, out]`, targets `[E, B, N, T]`,
    action `[E, B, N]`."""
    if objective.target == "pixels":
        each = (predicted.float() - targets).square().mean(-1)
    else:
        logits = rearrange(predicted.float(), "e b n (t k) -> e b n t k", t=targets.shape[-1])
        each = -F.log_softmax(logits, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1).mean(-1)
    corrupted = (action != INTACT).float()
    return (each * corrupted).sum((1, 2)) / corrupted.sum((1, 2))


def masked_patch_hits(predicted: Tensor, targets: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """How many corrupted patches were classified right, and how many there are, per member: `[E]`, `[E]`."""
    logits = rearrange(predicted, "e b n (t k) -> e b n t k", t=targets.shape[-1])
    right = (logits.argmax(-1) == targets).float().mean(-1)
    corrupted = (action != INTACT).float()
    return (right * corrupted).sum((1, 2)), corrupted.sum((1, 2))


def pixel_targets(pixels: Tensor, patch_size: int, *, normalised: bool) -> Tensor:
    """Pixels of the patches `[E, B, N, P P C]` of standardised images `[E, B, C, H, W]`.

    If `normalised`, each patch has mean 0 and (unbiased) variance 1; a patch of one colour is 0.
    Source: He et al. 2022, section 3, with the published code's order and epsilon.
    """
    patches = rearrange(pixels, "e b c (h p) (w q) -> e b (h w) (p q c)", p=patch_size, q=patch_size)
    if not normalised:
        return patches
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) * torch.rsqrt(variance + 1e-6)


def masked_error(predicted: Tensor, targets: Tensor, masked: Tensor) -> Tensor:
    """Mean squared error per member `[E]` over the masked patches; predicted and targets `[E, B, N, out]`,
    masked `[E, B, N]`."""
    each, weight = (predicted.float() - targets).square().mean(-1), masked.float()
    return (each * weight).sum((1, 2)) / weight.sum((1, 2))


def dino_loss(
    student: Tensor, teacher: Tensor, centre: Tensor, student_temp: float, teacher_temp: Tensor | float
) -> tuple[Tensor, Tensor]:
    """The loss and the entropy of the teacher's answers, per member `[E]`.

    Logits of the student `[E, V, B, K]` and of the teacher `[E, 2, B, K]`, whose crops are the student's first two;
    centre `[E, K]`. The loss is the mean cross entropy over pairs of different crops.
    Source: Caron et al. 2021, Algorithm 1 and the published code.
    """
    target = ((teacher.float() - centre[:, None, None]) / teacher_temp).log_softmax(-1)
    log_p = (student.float() / student_temp).log_softmax(-1)
    others = log_p.sum(1, keepdim=True) - log_p[:, : target.shape[1]]
    cross_entropy = -(target.exp() * others).sum(-1).mean((1, 2)) / (log_p.shape[1] - 1)
    return cross_entropy, -(target.exp() * target).sum(-1).mean((1, 2))


def contrast(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Logits `[E, B, B]` of queries and keys `[E, B, K]`: cosines over temperature; the diagonal is of one image.

    It is a sum of products, so that counted FLOPs are those of the networks.
    """
    q, k = F.normalize(queries.float(), dim=-1), F.normalize(keys.float(), dim=-1)
    return (q.unsqueeze(2) * k.unsqueeze(1)).sum(-1) / temperature


def contrastive_loss(logits: Tensor, temperature: float) -> Tensor:
    """2 x temperature x cross entropy of the diagonal of `[E, B, B]`, per member `[E]`.

    Source: Chen et al. 2021 (MoCo v3), Algorithm 1.
    """
    return -2 * temperature * logits.log_softmax(-1).diagonal(dim1=1, dim2=2).mean(-1)


def image_text_logits(vectors: Tensor) -> Tensor:
    """Logits `[E, B, B]` of images (rows) and captions, from their vectors `[E, B, 2, K]`.

    It is a sum of products, so that counted FLOPs are those of the networks.
    """
    return (vectors[:, :, 0].unsqueeze(2) * vectors[:, :, 1].unsqueeze(1)).sum(-1)


def image_text_loss(logits: Tensor, positive: Tensor) -> Tensor:
    """Mean of two cross entropies per member `[E]`: images to captions, and captions to images.

    `positive bool [E, B, B]` marks right pairs; a row's target is spread evenly over them.
    Source: Radford et al. 2021, Figure 3; with one right pair per row it is that loss.
    """
    target = positive.float()
    directions = ((logits, target), (logits.transpose(1, 2), target.transpose(1, 2)))
    each = [-(rows.float().log_softmax(-1) * t / t.sum(-1, keepdim=True)).sum(-1).mean(-1) for rows, t in directions]
    return (each[0] + each[1]) / 2
