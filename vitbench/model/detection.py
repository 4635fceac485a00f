"""A ViT whose patches each predict the object whose centre they hold: a class and a box.

Sources: Redmon et al. 2016 (YOLO), section 2, for the cell of an object; Redmon and Farhadi 2017 (YOLO9000), section 2,
for boxes relative to a cell; Lin et al. 2017 (RetinaNet), section 3, for the classes' loss; Rezatofighi et al. 2019,
Algorithm 1, for the boxes' loss.
Differs: there is one box per cell, with no anchors fitted to the data, and the loss is divided by the objects of each
image, not of the batch, so that no image depends on the others.

Shapes: E stacked trials, B batch, N cells, K classes, W width of the head. A box is left, top, right, bottom in pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitbench.model.sizes import Grid, known, pixel_grid, transformer
from vitbench.model.vit import Encoder
from vitbench.spec.trial import ModelSpec

FOCUS, POSITIVE_SHARE = 2.0, 0.25
"""Gamma and alpha of the focal loss."""
FIRST_LOGIT = -math.log(99.0)
"""Every cell starts with 1% for each class, so that cells without objects do not rule the first steps."""
LARGEST_LOG_SIDE = 4.0
FIRST_SHARE = 4
"""A box starts with a quarter of the image's side."""


class DetectionHead(nn.Module):
    """Patches `[B, N, D]` -> class logits and box numbers, `[B, N, K + 4]`."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        width, hidden, num_classes = widths
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, num_classes + 4)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return out


class DetectingViT(Encoder):
    """Images -> what each cell predicts, `[B, N, K + 4]`: K class logits and 4 numbers of a box, see `cell_boxes`."""

    def __init__(self, model: ModelSpec, patch_embed: nn.Module, hidden: int) -> None:
        super().__init__(model, patch_embed)
        self.detect_head = DetectionHead((known(model.embed_dim), hidden, known(model.num_classes)))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.fc_norm(self.forward_features(images))[:, self.num_prefix_tokens :]
        numbers = self.detect_head(tokens)
        return torch.cat([numbers[..., :-4] + FIRST_LOGIT, numbers[..., -4:]], dim=-1)


def cell_boxes(numbers: Tensor, model: ModelSpec) -> Tensor:
    """Boxes `[..., N, 4]` of numbers `[..., N, 4]`: where the centre is in its cell, and the logarithm of each side."""
    rows, columns = transformer(model).grid
    cell = torch.arange(rows * columns, device=numbers.device)
    corner = torch.stack([cell % columns, cell // columns], dim=-1)
    height, width = pixel_grid(model)
    centre = (corner + numbers[..., :2].sigmoid()) * known(model.patch_size)
    shares = numbers[..., 2:].clamp(max=LARGEST_LOG_SIDE).exp() / (2 * FIRST_SHARE)
    half = torch.stack([shares[..., 0] * width, shares[..., 1] * height], dim=-1)
    return torch.cat([centre - half, centre + half], dim=-1)


def within(boxes: Tensor, size: Grid) -> Tensor:
    """Boxes `[..., 4]`, cut at the edges of an image of `size`."""
    height, width = size
    return torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height], device=boxes.device))


def focal_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """The sum over cells and classes `[E, B]` of logits `[E, B, N, K]`; `classes [E, B, N]` is -1 without an object."""
    is_class = classes.unsqueeze(-1) == torch.arange(logits.shape[-1], device=logits.device)
    error = F.binary_cross_entropy_with_logits(logits, is_class.to(logits.dtype), reduction="none")
    missing = torch.where(is_class, -logits, logits).sigmoid()
    share = torch.where(is_class, POSITIVE_SHARE, 1 - POSITIVE_SHARE)
    return (share * missing**FOCUS * error).sum((2, 3))


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union less the share of the enclosing box that neither covers, `[...]`; boxes `[..., 4]`."""
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    outer = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inner
    return inner / union - (outer - union) / outer


def detection_loss(outputs: Tensor, classes: Tensor, boxes: Tensor, model: ModelSpec) -> Tensor:
    """The loss `[E]` of outputs `[E, B, N, K + 4]`; an object's cell has its class `[E, B, N]` and its box."""
    outputs, has_object = outputs.float(), classes >= 0
    off = 1 - generalised_iou(cell_boxes(outputs[..., -4:], model), boxes)
    total = focal_loss(outputs[..., :-4], classes) + torch.where(has_object, off, torch.zeros_like(off)).sum(2)
    return (total / has_object.sum(2).clamp(min=1)).mean(1)
