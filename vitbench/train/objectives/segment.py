"""Segmentation: a class or the background for every pixel, decoded from the patches.

Source: Zheng et al. 2021 (SETR), section 3.2 and the published code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from vitbench.model.mechanisms import patch_embed_of, readout_of
from vitbench.model.objective import Arrays, Call, Given, MemberBatch, Objective
from vitbench.model.sizes import known, transformer
from vitbench.model.tensors import SCHEMES, Tensor, affine, norm
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

HEAD = "decode_head"
MOST_LEVELS = 4


class Segment(Objective):
    """The mean cross entropy of all pixels.

    `decoder`: `naive` (one enlarging), `pup` (3 x 3 convolutions, by 2 each time), `mla` (maps of up to four blocks).
    `width` is that of the decoder's layers. Differs: SETR has width 256, BatchNorm, and auxiliary losses.
    """

    name: ClassVar[str] = "segment"
    columns: ClassVar[frozenset[str]] = frozenset({"image", "masks"})
    task_names: ClassVar[tuple[str, ...]] = (f"{HEAD}.",)
    scores_named: ClassVar[tuple[str, ...]] = ("foreground_miou_percent", "miou_percent")
    decoder: Literal["naive", "pup", "mla"] = "naive"
    width: int = Field(32, ge=4, multiple_of=4)

    def problems(self, model: ModelSpec) -> list[str]:
        if model.family != "vit" or "patches" not in patch_embed_of(model).gives:
            return ["train.objective.name: segment needs patches that do not overlap; family vit with stem patchify"]
        if model.parallel > 1:
            return ["model.parallel: segment reads the tokens of single blocks; set 1"]
        side = known(model.patch_size)
        if side < 2 or side & (side - 1):
            return [
                f"train.objective.name: segment enlarges by 2, so model.patch_size must be 2, 4, 8, ...; it is {side}"
            ]
        return []

    def taps(self, model: ModelSpec) -> tuple[int, ...]:
        """The blocks, counted from 1, whose tokens the decoder reads."""
        depth = known(model.depth)
        num = min(MOST_LEVELS, depth) if self.decoder == "mla" else 1
        return tuple(depth * (level + 1) // num for level in range(num))

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        yield from (replace(tensor.at(HEAD), role="task", part="head") for tensor in self._tensors(model))

    def _tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        inputs, cells, init = known(model.embed_dim), transformer(model).num_patches, SCHEMES[model.weight_init].conv
        hidden, outputs, side = self.width, known(model.num_classes) + 1, known(model.patch_size)

        def layer(name: str, weight: tuple[int, int, int, int], uses: int) -> Iterator[Tensor]:
            yield Tensor(f"{name}.conv.weight", weight, init, uses, decay=True)
            yield from norm(f"{name}.norm", weight[0])

        def classes(width: int, kernel: int, uses: int) -> Iterator[Tensor]:
            yield from affine("classes", (outputs, width, kernel, kernel), ("normal:0.01", "zeros"), uses)

        if self.decoder == "naive":
            yield from layer("conv", (hidden, inputs, 1, 1), cells)
            yield from classes(hidden, 1, cells)
        elif self.decoder == "pup":
            num = side.bit_length() - 1
            for i in range(num):
                yield from layer(f"convs.{i}", (hidden, hidden if i else inputs, 3, 3), cells * 4**i)
            yield from classes(hidden, 1, cells * 4 ** (num - 1))
        else:
            half, levels = hidden // 2, range(len(self.taps(model)))
            for i in levels:
                yield from norm(f"norms.{i}", inputs)
                yield from layer(f"reduce.{i}", (hidden, inputs, 1, 1), cells)
                yield from layer(f"smooth.{i}", (hidden, hidden, 3, 3), cells)
                yield from layer(f"branches.{i}.0", (half, hidden, 3, 3), cells)
                yield from layer(f"branches.{i}.1", (half, half, 3, 3), cells)
            first = 2 ** -(-(side.bit_length() - 1) // 2)
            yield from classes(len(levels) * half, 3, cells * first**2)

    def module(self, model: ModelSpec, patch_embed: nn.Module) -> nn.Module:
        from vitbench.model.segmentation import SegmentingViT, decoder_of

        widths, taps = (known(model.embed_dim), self.width, known(model.num_classes) + 1), self.taps(model)
        return SegmentingViT(model, patch_embed, decoder_of(self.decoder, model, widths, len(taps)), taps)

    def draw(self, model: ModelSpec, batches: Sequence[MemberBatch], mixtures: Sequence[Any]) -> Arrays:
        """The masks `[E, B, H, W]`."""
        return {"masks": np.stack([batch.columns["masks"] for batch in batches])}

    def loss(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        from vitbench.model.segmentation import pixel_loss

        return pixel_loss(call.forward(call.standardise(unit), train=True), given["masks"])

    def validation(self, call: Call, unit: torch.Tensor, given: Given) -> tuple[torch.Tensor, torch.Tensor | None]:
        from vitbench.model.segmentation import pixel_loss

        return pixel_loss(call.forward(call.standardise(unit), train=False), given["masks"]), None

    def answers(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        """The predicted masks `[E, B, H, W]`."""
        import torch

        return call.forward(call.standardise(unit), train=False).argmax(2).to(torch.uint8)

    def scores(self, answers: np.ndarray, columns: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Mean intersection over union from one confusion matrix of all pixels: without the background, and with it."""
        each = intersection_over_union(answers, columns["masks"])
        return {"foreground_miou_percent": 100 * float(each[1:].mean()), "miou_percent": 100 * float(each.mean())}

    def timm(self, model: ModelSpec) -> Mapping[str, Any] | str:
        if any(True for _ in readout_of(model).tensors(model)):
            return f"{model.global_pool} pools with weights that segmentation does not train"
        return {}


def intersection_over_union(predicted: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Of every class that some mask has, the background first; an image without a class counts for it too."""
    num = int(max(predicted.max(), masks.max())) + 1
    confusion = np.bincount(masks.ravel().astype(np.int64) * num + predicted.ravel(), minlength=num**2)
    confusion = confusion.reshape(num, num)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - confusion.diagonal()
    present = confusion.sum(axis=1) > 0
    return np.asarray(confusion.diagonal()[present] / union[present])
