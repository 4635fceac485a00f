"""Masked autoencoding: an encoder sees a few patches, a small decoder paints the others.

Source: He et al. 2022 (MAE), section 3 and Table 1; Bao et al. 2022 (BEiT), section 2.3, for block-wise masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveInt

from vitbench.base.seeding import uniforms
from vitbench.model.costs import product_macs
from vitbench.model.mechanisms import patch_embed_of, readout_of
from vitbench.model.objective import Arrays, Call, Given, MemberBatch, Objective
from vitbench.model.parameters import block_tensors
from vitbench.model.part_problems import subset_problems
from vitbench.model.sizes import Grid, known, transformer
from vitbench.model.tensors import SCHEMES, Tensor, affine, norm
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

MASK_TOKEN_INIT = "normal:0.02"
SHARED_BY_DECODER = (
    "img_size", "in_chans", "patch_size", "class_token", "dist_token", "reg_tokens", "norm_eps", "weight_init",
)  # fmt: skip
"""Fields of the encoder that the decoder has too: its images, its tokens, its initialisation."""
LONGEST = 1 / 0.3
"""The largest aspect of a block of masked patches, as in BEiT."""
TIE = 1e-6
"""The weight of a draw that decides between patches at one distance."""


class MaskedAutoencoding(Objective):
    """The mean squared error of the masked patches' pixels.

    `normalised_pixels` has mean 0 and variance 1 in each patch. `block` masks one block of patches in place of patches
    anywhere. With `mask_tokens_in_encoder` the encoder sees mask tokens, as in BERT: the control of MAE's design. The
    decoder has fixed sines and cosines as positions, and the encoder's `mlp_ratio`.
    Differs: the default decoder suits the suite's small encoders; the paper's has width 512, depth 8 and 16 heads. A
    share of patches is rounded, where the published code cuts it off.
    """

    name: ClassVar[str] = "mae"
    task_names: ClassVar[tuple[str, ...]] = ("decoder_", "mask_token")
    inputs: ClassVar[tuple[str, ...]] = ("rank",)
    target: Literal["normalised_pixels", "pixels"] = "normalised_pixels"
    mask_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.75
    mask: Literal["random", "block"] = "random"
    mask_tokens_in_encoder: bool = False
    decoder_embed_dim: PositiveInt = 32
    decoder_depth: PositiveInt = 1
    decoder_num_heads: PositiveInt = 2

    def problems(self, model: ModelSpec) -> list[str]:
        if model.family != "vit" or "patches" not in patch_embed_of(model).gives:
            return ["train.objective.name: mae needs patches that do not overlap; family vit with stem patchify"]
        problems = [] if self.mask_tokens_in_encoder else subset_problems(model)
        if transformer(model).num_patches < 2:
            problems.append("train.objective.name: mae needs at least 2 patches")
        if self.target == "normalised_pixels" and patch_values(model) < 2:
            problems.append("train.objective.target: normalised_pixels needs patches of at least 2 values; pixels")
        if self.decoder_embed_dim % 4 or self.decoder_embed_dim % self.decoder_num_heads:
            problems.append(
                f"train.objective.decoder_embed_dim: {self.decoder_embed_dim} must be divisible by 4 and by "
                f"decoder_num_heads, which is {self.decoder_num_heads}"
            )
        return problems

    def num_visible(self, model: ModelSpec) -> int:
        """Patches per image that stay: at least one does, and at least one is masked."""
        num_patches = transformer(model).num_patches
        return num_patches - min(num_patches - 1, max(1, round(self.mask_ratio * num_patches)))

    def encoded(self, model: ModelSpec) -> ModelSpec:
        """The visible patches as a row of patches."""
        if self.mask_tokens_in_encoder or self.problems(model):
            return model
        side = known(model.patch_size)
        return model.model_copy(update={"img_size": (side, side * self.num_visible(model))})

    def decoder(self, model: ModelSpec) -> ModelSpec:
        """The decoder as a plain transformer on all patches, whatever the encoder lacks or has in addition."""
        return ModelSpec(
            family="vit",
            embed_dim=self.decoder_embed_dim,
            depth=self.decoder_depth,
            num_heads=self.decoder_num_heads,
            mlp_ratio=model.mlp_ratio or 4.0,
            pos_embed="sincos_2d",
            **{field: getattr(model, field) for field in SHARED_BY_DECODER},
        )

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        yield from (replace(tensor, role="task", part="head") for tensor in self._tensors(model))

    def _tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        width, decoder, linear = known(model.embed_dim), self.decoder(model), SCHEMES[model.weight_init].linear
        mask_width = width if self.mask_tokens_in_encoder else self.decoder_embed_dim
        yield Tensor("mask_token", (1, 1, mask_width), MASK_TOKEN_INIT, decay=False)
        encoded = transformer(self.encoded(model)).num_tokens
        yield from affine("decoder_embed", (self.decoder_embed_dim, width), (linear, "zeros"), encoded)
        for layer in range(self.decoder_depth):
            for tensor in block_tensors(decoder, layer):
                yield tensor.at(f"decoder_blocks.{layer}")
        yield from norm("decoder_norm", self.decoder_embed_dim)
        outputs, num_patches = patch_values(model), transformer(model).num_patches
        yield from affine("decoder_pred", (outputs, self.decoder_embed_dim), (linear, "zeros"), num_patches)

    def macs(self, model: ModelSpec) -> dict[str, int]:
        return {f"decoder_{name}": count for name, count in product_macs(self.decoder(model)).items()}

    def module(self, model: ModelSpec, patch_embed: nn.Module) -> nn.Module:
        from vitbench.model.masked_autoencoder import MaskedAutoencoder

        return MaskedAutoencoder(
            model, patch_embed, self.decoder(model), self.num_visible(model), self.mask_tokens_in_encoder
        )

    def draw(self, model: ModelSpec, batches: Sequence[MemberBatch], mixtures: Sequence[Any]) -> Arrays:
        """The rank of each patch `[E, B, N]`; the first stay visible."""
        return {"rank": np.stack([self._ranks(batch, transformer(model).grid) for batch in batches])}

    def _ranks(self, batch: MemberBatch, grid: Grid) -> np.ndarray:
        draws = np.zeros((len(batch.index), grid.area))
        for epoch in np.unique(batch.epoch):
            chosen = batch.epoch == epoch
            draws[chosen] = uniforms(batch.seed, "mask", int(epoch), batch.index[chosen], grid.area)
        return ranks(draws if self.mask == "random" else -distances(draws, grid))

    def loss(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        return self._error(call, unit, given, train=True)

    def validation(self, call: Call, unit: torch.Tensor, given: Given) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self._error(call, unit, given, train=False), None

    def _error(self, call: Call, unit: torch.Tensor, given: Given, *, train: bool) -> torch.Tensor:
        """Mean squared error per member `[E]` of images `unit [E, B, C, H, W]`."""
        from vitbench.train.losses import masked_error, pixel_targets

        pixels, model = call.standardise(unit), call.model
        predicted = call.forward(pixels, given["rank"], train=train)
        targets = pixel_targets(pixels, known(model.patch_size), normalised=self.target == "normalised_pixels")
        return masked_error(predicted, targets, given["rank"] >= self.num_visible(model))

    def timm(self, model: ModelSpec) -> Mapping[str, Any] | str:
        if any(True for _ in readout_of(model).tensors(model)):
            return f"{model.global_pool} pools with weights that masked autoencoding does not train"
        return {}


def patch_values(model: ModelSpec) -> int:
    """Pixels of one patch times channels."""
    return known(model.patch_size) ** 2 * known(model.in_chans)


def ranks(draws: np.ndarray) -> np.ndarray:
    """The rank `[..., N]` of each patch by its draw `[..., N]`, the smallest first."""
    order = np.argsort(draws, axis=-1, kind="stable")
    return np.argsort(order, axis=-1, kind="stable")


def distances(draws: np.ndarray, grid: Grid) -> np.ndarray:
    """How far each patch is from a block's centre, `[B, N]`; the nearest patches are the block.

    The first two draws of `draws [B, N]` place the centre, the last one is the aspect. Differs: BEiT unites several
    blocks until enough patches are masked; here one block has the exact number.
    """
    row, column = (np.floor(draws[:, axis, None] * length) for axis, length in enumerate(grid))
    aspect = LONGEST ** (2 * draws[:, -1:] - 1)
    rows, columns = np.divmod(np.arange(grid.area), grid.columns)
    far = np.maximum(np.abs(rows - row) * np.sqrt(aspect), np.abs(columns - column) / np.sqrt(aspect))
    return np.asarray(far - TIE * draws)
