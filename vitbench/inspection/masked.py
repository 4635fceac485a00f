"""Predictions of a network trained on masked patches, drawn into the images.

Shapes: n images, N patches, C channels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vitbench.base.errors import InputError
from vitbench.inspection.measures.reconstruction import painted, with_patches
from vitbench.inspection.network import Subject
from vitbench.inspection.results import Findings, Shown
from vitbench.train.losses import corrupt
from vitbench.train.objectives.masked_patch import MaskedPatch

GALLERY = 8


def reconstruction(subject: Subject, shown: Shown) -> Findings:
    """Images with half of their patches hidden, and the same images with the network's predictions in these patches.

    The metric is the share of the hidden pixels' variance that the predictions explain, in percent. The data's mean
    colour explains 0.
    """
    objective = subject.objective
    if subject.spec is None or objective is None or "reconstruction" not in objective.gives:
        raise InputError(f"{subject.name}: was not trained to predict masked patches, so it cannot reconstruct any")
    assert isinstance(objective, MaskedPatch)
    error, baseline_error, gallery = 0.0, 0.0, []
    for where, images in shown.test.batches(64):
        index = shown.test.index[where]
        draw = corrupt(objective, subject.side**2, 0, np.zeros_like(index), index)
        action, source = torch.from_numpy(draw.action), torch.from_numpy(draw.source)
        with torch.no_grad():
            predicted = subject.module(subject.standardise(images), action, source)
        hidden = action > 0
        filled = with_patches(
            images, painted(predicted, objective, subject.patch_px, subject.mean, subject.std), hidden
        )
        grey = subject.mean.view(1, -1, 1, 1).expand_as(images)
        error += float((filled - images).double().square().sum())
        blank = with_patches(images, _patches_of(grey, subject.patch_px), hidden)
        baseline_error += float((blank - images).double().square().sum())
        gallery.append((images, blank, filled))
    first = [part[:GALLERY].numpy() for part in gallery[0]]
    metrics = {"reconstruction_explained_percent": 100.0 * (1.0 - error / max(baseline_error, 1e-300))}
    rows = [{"target": objective.target, "num_images": len(shown.test), **metrics}]
    return Findings(metrics, rows, dict(zip(("images", "hidden", "filled"), first, strict=True)))


def _patches_of(images: Tensor, size: int) -> Tensor:
    from einops import rearrange

    return rearrange(images, "b c (y p) (x q) -> b (y x) p q c", p=size, q=size)
