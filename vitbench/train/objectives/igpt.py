"""Generative pre-training from pixels: predict each pixel's colour from those before it, or hidden ones from the rest.

Source: Chen et al. 2020 (iGPT), section 3 and the published code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from vitbench.base.seeding import uniforms
from vitbench.model.mechanisms import patch_embed_of, token_mixer_of
from vitbench.model.objective import Arrays, Call, Given, MemberBatch, Objective
from vitbench.model.patch_embeds.pixel_tokens import PixelTokens
from vitbench.model.sizes import transformer
from vitbench.model.tensors import SCHEMES, Tensor, affine
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import nn


class PixelPrediction(Objective):
    """The base of both: cross entropy of the palette's entries, in nats per predicted pixel.

    Differs: blocks are the ViT's, with biases and exact GELU; `model.block_norm: rms` is the source's norm.
    """

    task_names: ClassVar[tuple[str, ...]] = ("pixel_head.",)
    causal: ClassVar[bool]
    """Whether a pixel is predicted from those before it only."""

    def problems(self, model: ModelSpec) -> list[str]:
        mixer, stem = token_mixer_of(model), patch_embed_of(model)
        if model.family != "vit" or not isinstance(stem, PixelTokens):
            return [f"train.objective.name: {self.name} predicts pixels of a palette; {self._needed()}"]
        if not ({"causal"} if self.causal else {"attention_maps", "subset"}) <= mixer.gives:
            return [
                f"train.objective.name: {self.name} predicts from {self._source()}, and model.token_mixer "
                f"{mixer.text()} gives each token others; {self._needed()}"
            ]
        if stem.start != self.causal:
            shown = "its own pixel" if self.causal else "the pixel before its own"
            return [f"train.objective.name: {self.name}: without another stem a token shows {shown}; {self._needed()}"]
        return []

    def _source(self) -> str:
        return "all pixels before" if self.causal else "all pixels that are not hidden"

    def _needed(self) -> str:
        """What to set."""
        return "set " + ", ".join(f"model.{key}: {value}" for key, value in self.required.items())

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        shape, head = transformer(model), SCHEMES[model.weight_init].head
        weight = (_num_colours(model), shape.embed_dim)
        heads = affine("pixel_head", weight, (head, "zeros"), shape.num_patches, bias=False)
        yield from (replace(tensor, role="task", part="head") for tensor in heads)

    def module(self, model: ModelSpec, patch_embed: nn.Module) -> nn.Module:
        from vitbench.model.pixel_prediction import PixelPredictor

        return PixelPredictor(model, patch_embed, _num_colours(model))

    def draw(self, model: ModelSpec, batches: Sequence[MemberBatch], mixtures: Sequence[Any]) -> Arrays:
        return {}

    def loss(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        return self._nats(call, unit, given, train=True)[0]

    def validation(self, call: Call, unit: torch.Tensor, given: Given) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self._nats(call, unit, given, train=False)[0], None

    def measures(self, call: Call, unit: torch.Tensor, given: Given) -> Mapping[str, torch.Tensor]:
        """Bits per predicted pixel, of the network and of the palette's shares in the training images."""
        network, unigram = self._nats(call, unit, given, train=False) / math.log(2)
        return {"bits_per_pixel": network, "unigram_bits_per_pixel": unigram}

    def _nats(self, call: Call, unit: torch.Tensor, given: Given, *, train: bool) -> torch.Tensor:
        """Nats per predicted pixel of the network and of the shares, `[2, E]`: a mean per image, then over images."""
        inputs = [given[name] for name in self.inputs]
        nats = call.forward(call.standardise(unit), *inputs, train=train)
        predicted = inputs[0].to(nats.dtype).unsqueeze(-1) if inputs else nats.new_ones(*nats.shape[:-1], 1)
        of_image = (nats * predicted).sum(2) / predicted.sum(2)
        return of_image.mean(1).movedim(-1, 0)


def _num_colours(model: ModelSpec) -> int:
    stem = patch_embed_of(model)
    assert isinstance(stem, PixelTokens), "other stems are refused"
    return stem.num_colours()


class IgptAr(PixelPrediction):
    """Each pixel from those before it, row by row; the first one from a learned start token."""

    name: ClassVar[str] = "igpt_ar"
    causal: ClassVar[bool] = True
    required: ClassVar[Mapping[str, str]] = {
        "stem": "pixel_tokens(start=true)",
        "token_mixer": "causal",
        "global_pool": "avg",
    }


class IgptBert(PixelPrediction):
    """A share of the pixels is hidden, and each of these is predicted from all others; every image has one at least.

    Differs: an image without a hidden pixel, which the source leaves out, hides the one with the smallest draw.
    """

    name: ClassVar[str] = "igpt_bert"
    causal: ClassVar[bool] = False
    inputs: ClassVar[tuple[str, ...]] = ("hidden",)
    required: ClassVar[Mapping[str, str]] = {"stem": "pixel_tokens"}
    mask_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15

    def draw(self, model: ModelSpec, batches: Sequence[MemberBatch], mixtures: Sequence[Any]) -> Arrays:
        """Which pixels are hidden, `[E, B, N]`."""
        num_pixels = transformer(model).num_patches
        return {"hidden": np.stack([self._hidden(batch, num_pixels) for batch in batches])}

    def _hidden(self, batch: MemberBatch, num_pixels: int) -> np.ndarray:
        draws = np.zeros((len(batch.index), num_pixels))
        for epoch in np.unique(batch.epoch):
            chosen = batch.epoch == epoch
            draws[chosen] = uniforms(batch.seed, "mask", int(epoch), batch.index[chosen], num_pixels)
        return np.asarray((draws < self.mask_ratio) | (draws == draws.min(1, keepdims=True)))
