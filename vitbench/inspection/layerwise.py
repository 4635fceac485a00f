"""Analyse each layer: probes and nearest neighbours on its tokens, single tokens, and similarity of layers (CKA).

Shapes: n images, L layers and the input of the first, N patches, M <= N patches kept, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from vitbench.inspection.hooks import tokens_of
from vitbench.inspection.measures import representation
from vitbench.inspection.network import Subject
from vitbench.inspection.results import Findings, Row, Shown
from vitbench.inspection.sample_images import Pictures
from vitbench.train import few_shot

NEIGHBOURS = 10
L2 = 10.0
"""Ridge penalty of the probes, on z-scored features and targets -1 and 1."""
MOST_TOKENS = 49
"""The largest number of patches whose single tokens are kept; a finer grid is sampled evenly."""
MOST_VALUES = 1e8
"""The largest number of values for all layers together (0.4 GB); it limits the number of images."""


@dataclass(frozen=True)
class LayerTokens:
    """Per layer: the patches' mean `[n, D]`, the class token `[n, D]` or None, and M single tokens `[n, M, D]`.

    `second` is a distillation token or second class token `[n, D]` per layer, or None.
    """

    pooled: list[np.ndarray]
    prefix: list[np.ndarray] | None
    tokens: list[np.ndarray]
    kept: np.ndarray
    second: list[np.ndarray] | None


def hold(subject: Subject, pictures: Pictures) -> LayerTokens:
    """The tokens of every layer for the images."""
    parts, has_second = [], getattr(subject.module, "dist_token", None) is not None
    for _, images in pictures.batches(32):
        tokens = tokens_of(subject, images)
        kept = [_kept(layer.shape[1] - subject.num_prefix) for layer in tokens]
        parts.append(
            [
                (x[:, subject.num_prefix :].mean(1), x[:, : 1 + has_second], x[:, subject.num_prefix :][:, index])
                for x, index in zip(tokens, kept, strict=True)
            ]
        )
    layers = [[torch.cat(column).numpy() for column in zip(*layer, strict=True)] for layer in zip(*parts, strict=True)]
    prefix = [layer[1][:, 0] for layer in layers] if subject.class_token else None
    second = [layer[1][:, 1] for layer in layers] if has_second else None
    return LayerTokens([layer[0] for layer in layers], prefix, [layer[2] for layer in layers], kept[-1], second)


def _kept(num_patches: int) -> np.ndarray:
    """The patches whose single tokens are kept."""
    return np.unique(np.linspace(0, num_patches - 1, min(num_patches, MOST_TOKENS)).round().astype(int))


def layers(subject: Subject, shown: Shown) -> Findings:
    """Probe and neighbour accuracy per layer and of single tokens, CKA of tokens with their patch, CKA of layers."""
    test, fit = (_affordable(subject, pictures) for pictures in (shown.test, shown.fit))
    tested, fitted = hold(subject, test), hold(subject, fit)
    labels = (fit.labels, test.labels)
    metrics: dict[str, float] = {}
    rows: list[Row] = []
    for layer in range(len(tested.pooled)):
        row = _accuracies("", fitted.pooled[layer], tested.pooled[layer], labels)
        if tested.prefix is not None and fitted.prefix is not None:
            row |= _accuracies("class_token_", fitted.prefix[layer], tested.prefix[layer], labels)
        if tested.prefix is not None and tested.second is not None:
            row["class_tokens_cosine"] = 100.0 * _mean_cosine(tested.prefix[layer], tested.second[layer])
        row["token_probe_percent"] = _single_tokens(fitted.tokens[layer], tested.tokens[layer], labels)
        if subject.patch_px and hasattr(subject.module, "blocks") and not subject.is_pyramid:
            patches = test.patches(subject.patch_px)[:, tested.kept]
            cka = representation.token_patch_cka(tested.tokens[layer].astype(np.float64), patches)
            row["token_localisation"] = 100.0 * representation.localisation(cka)
        rows.append({"layer": layer, **row, "num_images": len(test), "num_fitted": len(fit)})
        metrics |= {f"layer_{layer}_{name}": value for name, value in row.items()}
    metrics |= {f"layer_last_{name}": value for name, value in row.items()}
    cka = representation.cka_table(_doubles(tested.pooled), _doubles(tested.pooled))
    pooled = {f"pooled_{layer}": x for layer, x in enumerate(tested.pooled)}
    return Findings(metrics, rows, {"cka": cka, **pooled})


def _affordable(subject: Subject, pictures: Pictures) -> Pictures:
    """The first images, as many as fit in memory with the tokens of all layers."""
    layer_tokens = tokens_of(subject, pictures.pixels[:1].float() / 255)
    values_per_image = sum(min(x.shape[1], MOST_TOKENS + 2) * x.shape[2] for x in layer_tokens)
    num = int(max(2, min(len(pictures), MOST_VALUES // values_per_image)))
    return replace(pictures, pixels=pictures.pixels[:num], labels=pictures.labels[:num], index=pictures.index[:num])


def _accuracies(
    name: str, fit: np.ndarray, test: np.ndarray, labels: tuple[np.ndarray, np.ndarray]
) -> dict[str, float]:
    x, y = fit.astype(np.float64), test.astype(np.float64)
    return {
        f"{name}probe_percent": _percent(few_shot.ridge(x, labels[0], y, L2), labels[1]),
        f"{name}knn_percent": _percent(few_shot.nearest_neighbours(x, labels[0], y, NEIGHBOURS), labels[1]),
    }


def _single_tokens(fit: np.ndarray, test: np.ndarray, labels: tuple[np.ndarray, np.ndarray]) -> float:
    """Accuracy of a probe on a single token, averaged over the kept tokens."""
    accuracies = [
        _percent(few_shot.ridge(x.astype(np.float64), labels[0], y.astype(np.float64), L2), labels[1])
        for x, y in zip(fit.swapaxes(0, 1), test.swapaxes(0, 1), strict=True)
    ]
    return float(np.mean(accuracies))


def _mean_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The mean over images of the cosine of `a [n, D]` and `b [n, D]`."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / lengths.clip(1e-12)).mean())


def _percent(predicted: np.ndarray, labels: np.ndarray) -> float:
    return 100.0 * float(np.mean(predicted == labels))


def _doubles(arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [x.astype(np.float64) for x in arrays]
