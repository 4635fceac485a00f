"""Pixels as words: a token is the palette's entry nearest to a pixel.

Source: Chen et al. 2020 (iGPT), section 3.1 and the published code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from vitbench.model.mechanisms import PatchEmbed, token_mixers_of
from vitbench.model.patch_embeds.patchify import grid_problems
from vitbench.model.sizes import divisors, known, pixel_grid, pixel_words, transformer
from vitbench.model.tensors import Tensor
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    from torch import nn

    from vitbench.model.palette import Floats, TrainingPixels

MOST_TOKENS = 1024
"""The largest sequence: 32 x 32, the shortest of the source. Attention of 48 x 48 costs five times as much."""
GREY_LEVELS = 17
"""Evenly spaced levels of grey images without `colours`: those of scikit-learn's digits."""
EMBED_INIT, UNFITTED = "normal:0.02", "ramp:2"
"""First values of the tokens' vectors; of a palette that no images were measured for, in standard deviations."""


class PixelTokens(PatchEmbed):
    """The mean colour of each patch as an entry of a palette, and that entry's learned vector.

    With `patch_size: 1` a token is a pixel; larger patches make a smaller image. The palette has 17 evenly spaced
    levels of grey, or `colours` entries that k-means finds in the training images. With `start` a learned token comes
    first and the last pixel is left out, so that no token shows its own pixel.
    Differs: distances between colours are those of standardised pixels.
    """

    name: ClassVar[str] = "pixel_tokens"
    gives: ClassVar[frozenset[str]] = frozenset({"patches"})
    colours: Annotated[int, Field(ge=2, le=512)] | None = None
    start: bool = False

    def problems(self, model: ModelSpec) -> list[str]:
        problems, number = grid_problems(model), transformer(model).num_patches
        if self.colours is None and known(model.in_chans) > 1:
            problems.append(
                f"model.stem: pixel_tokens has a palette for grey images, and these have {model.in_chans} channels; "
                "set colours, as in {name: pixel_tokens, colours: 64}, or data.in_chans: 1"
            )
        if self.start and not all("causal" in mixer.gives for mixer in token_mixers_of(model)):
            problems.append(
                "model.stem: with start a token shows the pixel before its own, which only a causal mixer can make use "
                "of; set model.token_mixer: causal, or leave out start"
            )
        if number > MOST_TOKENS and not problems:
            problems.append(
                f"model.patch_size: {model.patch_size} makes {number:,} tokens of images of {pixel_words(model)} px, "
                f"and pixel_tokens has at most {MOST_TOKENS:,}; {_fitting(model)}"
            )
        return problems

    def num_colours(self) -> int:
        """Entries of the palette."""
        return self.colours or GREY_LEVELS

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        shape, number = transformer(model), self.num_colours()
        yield Tensor("palette", (number, known(model.in_chans)), UNFITTED, trained=False)
        yield Tensor("log_share", (number,), "zeros", trained=False)
        yield Tensor("embed", (number, shape.embed_dim), EMBED_INIT, shape.num_patches, decay=False)
        if self.start:
            yield Tensor("start", (1, 1, shape.embed_dim), EMBED_INIT, decay=False)

    def module(self, model: ModelSpec) -> nn.Module:
        from vitbench.model.pixel_prediction import ColourEmbedding

        return ColourEmbedding(model, self.num_colours(), self.start)

    def fitted(self, model: ModelSpec, images: TrainingPixels) -> dict[str, Floats]:
        """The palette, and the logarithm of each entry's share of the pixels; every entry counts one pixel more."""
        from vitbench.model.palette import clusters, nearest

        pixels, side = images.read(), known(model.patch_size)
        num, channels, height, width = pixels.shape
        blocks = pixels.reshape(num, channels, height // side, side, width // side, side).mean((3, 5))
        colours = np.ascontiguousarray(blocks.transpose(0, 2, 3, 1)).reshape(-1, channels)
        if self.colours is None:
            levels = np.linspace(0, 1, GREY_LEVELS, dtype=np.float32)
            palette = images.standardise(levels.reshape(-1, 1, 1, 1)).reshape(-1, 1)
        else:
            palette = clusters(colours, self.colours)
        counts = np.bincount(nearest(colours, palette), minlength=len(palette)) + 1
        return {"palette": palette, "log_share": np.log(counts / counts.sum()).astype(np.float32)}


def _fitting(model: ModelSpec) -> str:
    """What to set so that there are few enough tokens."""
    rows, columns = pixel_grid(model)
    sizes = [int(size) for size in divisors(min(rows, columns)).split(", ")]
    fits = [p for p in sizes if rows % p == 0 == columns % p and (rows // p) * (columns // p) <= MOST_TOKENS]
    return f"set {fits[0]} or more, or a smaller data.img_size" if fits else "set a smaller data.img_size"
