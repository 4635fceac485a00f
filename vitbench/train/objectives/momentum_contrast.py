"""Contrast: a crop's query finds the key of another crop of the same image among the keys of a batch.

Source: Chen et al. 2021 (MoCo v3), section 3, Algorithm 1 and the published code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from vitbench.model.mechanisms import readout_of
from vitbench.model.objective import (
    AVERAGE,
    STUDENT,
    Arrays,
    Call,
    Given,
    MemberBatch,
    Objective,
    Pass,
    rising_momentum,
)
from vitbench.model.sizes import known
from vitbench.model.tensors import SCHEMES, Tensor, affine, norm
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

MOMENTUM = "momentum"
NUM_VIEWS = 2


class MocoV3(Objective):
    """Symmetric contrast of two crops; keys come from the trained network's average, without its predictor.

    `momentum` is what stays of the average after a thousandth of all steps. `head_norm`: BatchNorm in the heads, with
    the statistics of the batch. `freeze_patch_embed` keeps the patch projection as it was drawn. `crops_scale` is the
    least area of a crop. Differs: crops have no blur and no colours of their own; `train.augment: medium` adds
    RandAugment. The average's predictor runs too, and counts; nothing reads it.
    """

    name: ClassVar[str] = "moco_v3"
    networks: ClassVar[Mapping[str, str]] = {MOMENTUM: AVERAGE}
    compares_images: ClassVar[bool] = True
    cuts_views: ClassVar[bool] = True
    task_names: ClassVar[tuple[str, ...]] = ("projector.", "predictor.")
    hidden_dim: PositiveInt = 128
    out_dim: PositiveInt = 32
    temperature: PositiveFloat = 0.2
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.98
    head_norm: bool = True
    freeze_patch_embed: bool = True
    crops_scale: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2

    @property
    def num_views(self) -> int:
        return NUM_VIEWS

    def problems(self, model: ModelSpec) -> list[str]:
        return [] if model.family == "vit" else ["train.objective.name: moco_v3 is built for family vit"]

    def frozen_parts(self, model: ModelSpec) -> frozenset[str]:
        return frozenset({"patch_embed"} if self.freeze_patch_embed else ())

    def passes(self, model: ModelSpec) -> Sequence[Pass]:
        return [Pass(STUDENT, NUM_VIEWS), Pass(MOMENTUM, NUM_VIEWS)]

    def momentum_at(self, role: str, step: int, num_steps: int) -> float:
        return rising_momentum(self.momentum, step, num_steps)

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        yield from readout_of(model).tensors(model)
        projector = (known(model.embed_dim), self.hidden_dim, self.hidden_dim, self.out_dim)
        heads = {"projector": projector, "predictor": (self.out_dim, self.hidden_dim, self.out_dim)}
        inits = (SCHEMES[model.weight_init].linear, "zeros")
        for name, widths in heads.items():
            for number, (width, out) in enumerate(pairwise(widths), 1):
                layer = list(affine(f"{name}.fc{number}", (out, width), inits, 1, bias=False))
                layer += norm(f"{name}.norm{number}", out) if self.head_norm and number < len(widths) - 1 else []
                yield from (replace(tensor, role="task", part="head") for tensor in layer)

    def macs(self, model: ModelSpec) -> dict[str, int]:
        return readout_of(model).macs(model)

    def module(self, model: ModelSpec, patch_embed: nn.Module) -> nn.Module:
        from vitbench.model.projected import ProjectedViT

        return ProjectedViT(model, patch_embed, self.hidden_dim, self.out_dim, self.head_norm)

    def draw(self, model: ModelSpec, batches: Sequence[MemberBatch], mixtures: Sequence[Any]) -> Arrays:
        """The boxes of both crops, `[E, B, 2, 4]`."""
        from vitbench.train.crops import crop_boxes

        boxes = [[crop_boxes(batch, view, self.crops_scale, 1.0) for view in range(NUM_VIEWS)] for batch in batches]
        return {"boxes": np.stack([np.stack(of_member, axis=1) for of_member in boxes])}

    def loss(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        return self._compare(call, (unit, call.view(1)), given, train=True)[0]

    def validation(self, call: Call, unit: torch.Tensor, given: Given) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Loss, and the percentage of queries whose nearest key is of their image; both depend on the batch."""
        return self._compare(call, (unit, unit), given, train=False)

    def _compare(
        self, call: Call, views: tuple[torch.Tensor, torch.Tensor], given: Given, *, train: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss `[E]` and percentage of right matches `[E]`; each crop has batch statistics of its own."""
        import torch

        from vitbench.train.crops import zoomed
        from vitbench.train.losses import contrast, contrastive_loss

        size = (views[0].shape[-2], views[0].shape[-1])
        crops = [call.standardise(zoomed(view, given["boxes"][:, :, n], size)) for n, view in enumerate(views)]
        queries = [call.forward(crop, train=train)[:, :, 1] for crop in crops]
        keys = [call.outputs_of(MOMENTUM, crop)[:, :, 0] for crop in crops]
        logits = [contrast(query, key, self.temperature) for query, key in zip(queries, reversed(keys), strict=True)]
        loss = torch.stack([contrastive_loss(each, self.temperature) for each in logits]).sum(0)
        diagonal = torch.arange(views[0].shape[1], device=views[0].device)
        right = [(each.argmax(-1) == diagonal).float() for each in logits]
        return loss, 100 * torch.stack(right).mean((0, 2))

    def timm(self, model: ModelSpec) -> Mapping[str, Any] | str:
        return {}
