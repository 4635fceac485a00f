"""Detection: the class and the box of every object, predicted by the patch that holds its centre.

Sources: see `vitbench.model.detection`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from vitbench.model.mechanisms import patch_embed_of, readout_of
from vitbench.model.objective import Arrays, Call, Given, MemberBatch, Objective
from vitbench.model.sizes import known, pixel_grid, transformer
from vitbench.model.tensors import SCHEMES, Tensor, affine
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from vitbench.train.average_precision import Detections

HEAD = "detect_head"
LEAST_SCORE = 0.05
MOST_OVERLAP = 0.5
"""Detections below the score, and those that overlap a better one of their class by more, are left out."""
SMALL_AREA = 64.0
"""Objects of at most 8 x 8 pixels are small, those of at least as many are large, as COCO counts its own limits."""


class Detect(Objective):
    """The focal loss of the classes and 1 - generalised IoU of the boxes, per object.

    A cell with the centres of several objects learns the smallest. `width` is that of the head's hidden layer.
    """

    name: ClassVar[str] = "detect"
    columns: ClassVar[frozenset[str]] = frozenset({"image", "boxes"})
    task_names: ClassVar[tuple[str, ...]] = (f"{HEAD}.",)
    scores_named: ClassVar[tuple[str, ...]] = (
        "ap50_percent", "ap_percent", "ap50_small_percent", "ap50_large_percent",
    )  # fmt: skip
    width: int = Field(64, ge=4)

    def problems(self, model: ModelSpec) -> list[str]:
        if model.family != "vit" or "patches" not in patch_embed_of(model).gives:
            return ["train.objective.name: detect needs patches that do not overlap; family vit with stem patchify"]
        return []

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        cells, scheme = transformer(model).num_patches, SCHEMES[model.weight_init]
        outputs = known(model.num_classes) + 4
        layers = [
            *affine("fc1", (self.width, known(model.embed_dim)), (scheme.linear, "zeros"), cells),
            *affine("fc2", (outputs, self.width), ("normal:0.01", "zeros"), cells),
        ]
        yield from (replace(tensor.at(HEAD), role="task", part="head") for tensor in layers)

    def module(self, model: ModelSpec, patch_embed: nn.Module) -> nn.Module:
        from vitbench.model.detection import DetectingViT

        return DetectingViT(model, patch_embed, self.width)

    def draw(self, model: ModelSpec, batches: Sequence[MemberBatch], mixtures: Sequence[Any]) -> Arrays:
        """The class `[E, B, N]` of the object in each cell (-1: none), and its box `[E, B, N, 4]`."""
        grid, side = transformer(model).grid, known(model.patch_size)
        assigned = [cells_of(batch.columns["boxes"], (grid.rows, grid.columns), side) for batch in batches]
        return {name: np.stack(arrays) for name, arrays in zip(("cls", "box_px"), zip(*assigned, strict=True),
                                                               strict=True)}  # fmt: skip

    def loss(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        return self._loss(call, call.forward(call.standardise(unit), train=True), given)

    def validation(self, call: Call, unit: torch.Tensor, given: Given) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self._loss(call, call.forward(call.standardise(unit), train=False), given), None

    def _loss(self, call: Call, outputs: torch.Tensor, given: Given) -> torch.Tensor:
        from vitbench.model.detection import detection_loss

        return detection_loss(outputs, given["cls"], given["box_px"], call.model)

    def answers(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        return self.answers_of(call.forward(call.standardise(unit), train=False), call.model)

    def answers_of(self, outputs: torch.Tensor, model: ModelSpec) -> torch.Tensor:
        """Score, number and box of each cell's best class, `[..., N, 6]`, of outputs `[..., N, K + 4]`."""
        import torch

        from vitbench.model.detection import cell_boxes, within

        score, cls = outputs[..., :-4].float().sigmoid().max(-1, keepdim=True)
        boxes = within(cell_boxes(outputs[..., -4:].float(), model), pixel_grid(model))
        return torch.cat([score, cls.float(), boxes], dim=-1)

    def scores(self, answers: np.ndarray, columns: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """COCO's average precision at an overlap of 0.5, over 0.5 to 0.95, and at 0.5 of small and of large objects."""
        from vitbench.train.average_precision import THRESHOLDS, average_precision

        found, half, truth = detections(answers), THRESHOLDS[:1], columns["boxes"]
        values = (
            average_precision(found, truth, half),
            average_precision(found, truth),
            average_precision(found, truth, half, (0.0, SMALL_AREA)),
            average_precision(found, truth, half, (SMALL_AREA, 1e10)),
        )
        return {name: 100 * float(value.mean()) for name, value in zip(self.scores_named, values, strict=True)}

    def timm(self, model: ModelSpec) -> Mapping[str, Any] | str:
        if any(True for _ in readout_of(model).tensors(model)):
            return f"{model.global_pool} pools with weights that detection does not train"
        return {}


def cells_of(boxes: np.ndarray, grid: tuple[int, int], side: int) -> tuple[np.ndarray, np.ndarray]:
    """The class `[B, N]` (-1: none) and box `[B, N, 4]` of each cell, for objects `[B, M, 5]`.

    Of objects with their centres in one cell it is the smallest one; of equal ones the last.
    """
    rows, columns = grid
    classes = np.full((len(boxes), rows * columns), -1, dtype=np.int64)
    targets = np.zeros((len(boxes), rows * columns, 4), dtype=np.float32)
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    order = np.argsort(-area, axis=1, kind="stable")
    for rank in range(boxes.shape[1]):
        objects = boxes[np.arange(len(boxes)), order[:, rank]]
        image = np.flatnonzero(objects[:, 4] >= 0)
        left, top, right, bottom, number = objects[image].T
        cell = (top + bottom) // (2 * side) * columns + (left + right) // (2 * side)
        classes[image, cell], targets[image, cell] = number, objects[image, :4]
    return classes, targets


def detections(answers: np.ndarray) -> Detections:
    """The detections of answers `[n, N, 6]`."""
    from vitbench.train.average_precision import Detections, suppressed

    image, cell = np.nonzero(answers[..., 0] >= LEAST_SCORE)
    rows = answers[image, cell].astype(np.float64)
    return suppressed(Detections(image, rows[:, 1].astype(np.int64), rows[:, 0], rows[:, 2:]), MOST_OVERLAP)
