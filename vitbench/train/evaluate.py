"""Exact evaluation: every image once, the last partial batch included.

E stacked trials, M images, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitbench.model.vit import Encoder
from vitbench.spec.metrics import layer_probe
from vitbench.spec.trial import EvaluateSpec
from vitbench.train import few_shot
from vitbench.train.image_source import ImageSource, Members, TrainOrTest
from vitbench.train.stack import Stack

BATCH = 512


@dataclass(frozen=True)
class Evaluation:
    """One member's predictions on one set of images; `finite` is false if a logit is NaN or infinite."""

    predicted: np.ndarray
    confidence: np.ndarray
    top1_percent: float
    loss: float
    finite: bool


def logits_of(
    stack: Stack, images: ImageSource, part: TrainOrTest, index: np.ndarray, flat: Tensor | None = None
) -> Tensor:
    """Logits `[E, M, K]` on the CPU of each trial's images `index [E, M]`."""
    assert all(np.unique(row).size == row.size for row in index), "no image twice"
    chunks = []
    with torch.no_grad():
        for unit in images.read(part, index, BATCH):
            chunks.append(stack.forward(images.standardise(unit), flat=flat).float().cpu())
    out = torch.cat(chunks, dim=1)
    assert out.shape[:2] == index.shape, "every image exactly once"
    return out


def evaluate(logits: Tensor, labels: np.ndarray) -> Evaluation:
    """Accuracy and mean loss of one member's logits `[M, K]`; a non-finite logit never counts as class 0."""
    finite = bool(torch.isfinite(logits).all())
    if not finite:
        no_class = np.full(len(labels), -1)
        return Evaluation(no_class, np.zeros(len(labels)), 0.0, 0.0, False)
    target = torch.from_numpy(labels)
    confidence, predicted = logits.softmax(-1).max(-1)
    return Evaluation(
        predicted=predicted.numpy(),
        confidence=confidence.numpy(),
        top1_percent=100.0 * float((predicted == target).double().mean()),
        loss=float(F.cross_entropy(logits.double(), target)),
        finite=True,
    )


def probes(module: nn.Module, images: ImageSource, used: Members, spec: EvaluateSpec, seed: int) -> dict[str, float]:
    """Few-shot, linear-probe and nearest-neighbour accuracies in percent, on the features of a trained `module`."""
    if not spec.has_probes:
        return {}
    trained = spec.few_shot_classes == "trained"
    classes = used.classes if trained else np.setdiff1d(np.arange(images.num_classes), used.classes)
    pool = used.train if trained else np.flatnonzero(np.isin(images.train_labels, classes))
    test = np.flatnonzero(np.isin(images.test_labels, classes))
    train_x, test_x = features(module, images, "train", pool), features(module, images, "test", test)
    train_y = np.searchsorted(classes, images.train_labels[pool])
    test_y = np.searchsorted(classes, images.test_labels[test])
    out = {
        f"few_shot_{shots}_percent": few_shot.few_shot_percent(
            (train_x, train_y), (test_x, test_y), shots, seed=seed, draws=spec.few_shot_draws, l2=spec.few_shot_l2
        )
        for shots in spec.few_shot
    }
    if spec.linear_probe:
        out["linear_probe_percent"] = _percent(few_shot.linear_probe(train_x, train_y, test_x), test_y)
    if spec.probe_layers:
        layers = layer_features(module, images, "train", pool), layer_features(module, images, "test", test)
        for number, (fit, read) in enumerate(zip(*layers, strict=True), 1):
            out[layer_probe(number)] = _percent(few_shot.linear_probe(fit, train_y, read), test_y)
    if spec.knn:
        answers = few_shot.nearest_neighbours(train_x, train_y, test_x, spec.knn, spec.knn_temperature)
        out["knn_percent"] = _percent(answers, test_y)
    return out


def features(module: nn.Module, images: ImageSource, part: TrainOrTest, index: np.ndarray) -> np.ndarray:
    """Pre-logits `[n, F]` of the images `index [n]`, as float64."""
    module.eval()
    chunks = []
    with torch.no_grad():
        for unit in images.read(part, index[None], BATCH):
            chunks.append(module.pre_logits(images.standardise(unit[0])).double().cpu())  # type: ignore[operator]
    return torch.cat(chunks).numpy()


def layer_features(module: nn.Module, images: ImageSource, part: TrainOrTest, index: np.ndarray) -> list[np.ndarray]:
    """The mean `[n, D]` of the patches' tokens after every block, of the images `index [n]`, as float64."""
    encoder = cast(Encoder, module)
    means: list[list[Tensor]] = [[] for _ in encoder.blocks]
    handles = []
    for block, kept in zip(encoder.blocks, means, strict=True):

        def hook(_: nn.Module, _inputs: object, tokens: Tensor, kept: list[Tensor] = kept) -> None:
            kept.append(tokens[:, encoder.num_prefix_tokens :].mean(1).double().cpu())

        handles.append(block.register_forward_hook(hook))
    try:
        features(module, images, part, index)
    finally:
        for handle in handles:
            handle.remove()
    return [torch.cat(kept).numpy() for kept in means]


def _percent(predicted: np.ndarray, labels: np.ndarray) -> float:
    return 100.0 * float(np.mean(predicted == labels))
