"""Masked patch prediction.

Source: Dosovitskiy et al. 2021, App. B.1.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from vitbench.model.mechanisms import patch_embed_of, readout_of
from vitbench.model.objective import Arrays, Call, Given, MemberBatch, Objective
from vitbench.model.sizes import known, transformer
from vitbench.model.tensors import SCHEMES, Tensor, affine
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

MASK_TOKEN_INIT = "normal:0.02"


class MaskedPatch(Objective):
    """Half of the patches are corrupted; a head predicts each one's colour levels or pixels."""

    name: ClassVar[str] = "masked_patch"
    flat: ClassVar[frozenset[str]] = frozenset({"target", "mask_ratio"})
    gives: ClassVar[frozenset[str]] = frozenset({"reconstruction"})
    task_names: ClassVar[tuple[str, ...]] = ("mpp_head.", "mask_token")
    inputs: ClassVar[tuple[str, ...]] = ("action", "source")
    target: Literal["mean_colour", "downsampled", "pixels"] = "mean_colour"
    mask_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5

    def problems(self, model: ModelSpec) -> list[str]:
        if model.family == "resnet":
            return ["train.objective.name: masked_patch needs patches; a ResNet has none (classify)"]
        if "patches" not in patch_embed_of(model).gives:
            return [
                "train.objective.name: masked_patch needs patches that do not overlap; family vit with stem patchify"
            ]
        if self.target == "downsampled" and cells_side(model) == 0:
            return ["train.objective.target: downsampled needs patches of at least 2 px; mean_colour or pixels"]
        return []

    def resolved(self, model: ModelSpec) -> MaskedPatch:
        """One cell per patch is the mean colour itself, so that arms of the two targets are refused as equal."""
        one_cell = self.target == "downsampled" and (model.patch_size or 0) < 4
        return self.model_copy(update={"target": "mean_colour"}) if one_cell else self

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        shape, scheme = transformer(model), SCHEMES[model.weight_init]
        outputs = (prediction_width(model, self), shape.embed_dim)
        mask_token = Tensor("mask_token", (1, 1, shape.embed_dim), MASK_TOKEN_INIT, decay=False, part="mask_token")
        yield replace(mask_token, role="task")
        heads = affine("mpp_head", outputs, (scheme.head, "zeros"), shape.num_patches)
        yield from (replace(tensor, role="task", part="head") for tensor in heads)

    def module(self, model: ModelSpec, patch_embed: nn.Module) -> nn.Module:
        from vitbench.model.vit import MaskedPatchViT

        return MaskedPatchViT(model, patch_embed, prediction_width(model, self))

    def draw(self, model: ModelSpec, batches: Sequence[MemberBatch], mixtures: Sequence[Any]) -> Arrays:
        """What happens to each patch, and whose embedding replaces it: `[E, B, N]` each."""
        from vitbench.train.losses import corrupt

        num_patches = transformer(model).num_patches
        drawn = [corrupt(self, num_patches, batch.seed, batch.epoch, batch.index) for batch in batches]
        return {"action": np.stack([d.action for d in drawn]), "source": np.stack([d.source for d in drawn])}

    def loss(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        from vitbench.train.losses import masked_patch_loss

        predicted, targets = self._predict(call, unit, given, train=True)
        return masked_patch_loss(self, predicted, targets, given["action"])

    def validation(self, call: Call, unit: torch.Tensor, given: Given) -> tuple[torch.Tensor, torch.Tensor | None]:
        from vitbench.train.losses import masked_patch_hits, masked_patch_loss

        predicted, targets = self._predict(call, unit, given, train=False)
        loss = masked_patch_loss(self, predicted, targets, given["action"])
        if self.target == "pixels":
            return loss, None
        hits, count = masked_patch_hits(predicted, targets, given["action"])
        return loss, 100 * hits / count

    def _predict(
        self, call: Call, unit: torch.Tensor, given: Given, *, train: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predictions and targets, each with leading `[E, B, N]`."""
        from vitbench.train.losses import patch_targets

        pixels = call.standardise(unit)
        predicted = call.forward(pixels, given["action"], given["source"], train=train)
        shown = pixels if self.target == "pixels" else unit
        targets = patch_targets(self, shown.flatten(0, 1), known(call.model.patch_size))
        return predicted, targets.view(*unit.shape[:2], *targets.shape[1:])

    def timm(self, model: ModelSpec) -> Mapping[str, Any] | str:
        if any(True for _ in readout_of(model).tensors(model)):
            return f"{model.global_pool} pools with weights that predicting patches does not train"
        return {}


def cells_side(model: ModelSpec) -> int:
    """Cells along one edge of a masked patch's down-sampled target."""
    return min(4, known(model.patch_size) // 2)


def prediction_width(model: ModelSpec, objective: MaskedPatch) -> int:
    """Outputs per patch of masked patch prediction: 3-bit colours as classes, or pixels.

    Source: Dosovitskiy et al. 2021, App. B.1.2. Differs: with C channels there are 8**C colours (grey: 8).
    """
    colours = 1 << (3 * known(model.in_chans))
    if objective.target == "mean_colour":
        return colours
    if objective.target == "downsampled":
        return cells_side(model) ** 2 * colours
    return known(model.patch_size) ** 2 * known(model.in_chans)
