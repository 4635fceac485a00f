"""A ViT whose patches are decoded to a class for every pixel.

Source: Zheng et al. 2021 (SETR), section 3.2 and the published code. Differs: GroupNorm in place of BatchNorm, so that
no image depends on the others of its batch; all enlarging is bilinear with pixel centres (`align_corners: false`).

Shapes: B batch, D embed_dim, W channels of the decoder, K classes and the background, y and x cells.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vitbench.model.layers import LayerNorm
from vitbench.model.sizes import known, norm_groups
from vitbench.model.vit import Encoder
from vitbench.spec.trial import ModelSpec


def enlarged(x: Tensor, factor: int) -> Tensor:
    """`[B, C, y, x]` -> `[B, C, factor y, factor x]`, bilinear.

    It is a weighted sum of shifted copies: the gradient of torch's interpolation differs from run to run on a GPU.
    """
    return _enlarged_rows(_enlarged_rows(x, factor).transpose(2, 3), factor).transpose(2, 3)


def _enlarged_rows(x: Tensor, factor: int) -> Tensor:
    """`[B, C, y, x]` -> `[B, C, factor y, x]`; beyond the border the last row goes on."""
    before, after = torch.cat([x[:, :, :1], x[:, :, :-1]], dim=2), torch.cat([x[:, :, 1:], x[:, :, -1:]], dim=2)
    phases = []
    for phase in range(factor):
        offset = (phase + 0.5) / factor - 0.5
        phases.append(torch.lerp(x, after if offset > 0 else before, abs(offset)))
    return torch.stack(phases, dim=3).flatten(2, 3)


def convolution(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """A convolution without bias, GroupNorm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    parts = {"conv": conv, "norm": nn.GroupNorm(norm_groups(outputs), outputs), "act": nn.ReLU()}
    return nn.Sequential(OrderedDict(parts))


class Naive(nn.Module):
    """Two layers on the grid of patches, then one enlarging."""

    def __init__(self, widths: tuple[int, int, int], patch_size: int) -> None:
        super().__init__()
        width, hidden, classes = widths
        self.patch_size = patch_size
        self.conv = convolution(width, hidden, 1)
        self.classes = nn.Conv2d(hidden, classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return enlarged(self.classes(self.conv(maps[-1])), self.patch_size)


class Progressive(nn.Module):
    """PUP: 3 x 3 convolutions, each followed by an enlarging by 2; the classes come before the last one."""

    def __init__(self, widths: tuple[int, int, int], patch_size: int) -> None:
        super().__init__()
        width, hidden, classes = widths
        num = patch_size.bit_length() - 1
        self.convs = nn.ModuleList(convolution(width if i == 0 else hidden, hidden, 3) for i in range(num))
        self.classes = nn.Conv2d(hidden, classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = maps[-1]
        for number, conv in enumerate(self.convs):
            x = conv(enlarged(x, 2) if number > 0 else x)
        return enlarged(self.classes(x), 2)


class MultiLevel(nn.Module):
    """MLA: maps of several blocks, added from the deepest to the first, each decoded alone and then all together."""

    def __init__(self, widths: tuple[int, int, int], patch_size: int, num_levels: int) -> None:
        super().__init__()
        width, hidden, classes = widths
        self.first, self.second = level_factors(patch_size)
        self.norms = nn.ModuleList(LayerNorm(width) for _ in range(num_levels))
        self.reduce = nn.ModuleList(convolution(width, hidden, 1) for _ in range(num_levels))
        self.smooth = nn.ModuleList(convolution(hidden, hidden, 3) for _ in range(num_levels))
        half = hidden // 2
        self.branches = nn.ModuleList(
            nn.Sequential(convolution(hidden, half, 3), convolution(half, half, 3)) for _ in range(num_levels)
        )
        self.classes = nn.Conv2d(num_levels * half, classes, 3, padding=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        total, levels = torch.zeros(()), []
        for number in reversed(range(len(maps))):
            normed = self.norms[number](maps[number].movedim(1, -1)).movedim(-1, 1)
            total = self.reduce[number](normed) + total
            levels.append(enlarged(self.branches[number](self.smooth[number](total)), self.first))
        return enlarged(self.classes(torch.cat(levels[::-1], dim=1)), self.second)


def level_factors(patch_size: int) -> tuple[int, int]:
    """By what MLA enlarges before and after its classes: 16 = 4 x 4, 4 = 2 x 2, 8 = 4 x 2."""
    first: int = 2 ** -(-(patch_size.bit_length() - 1) // 2)
    return first, patch_size // first


class SegmentingViT(Encoder):
    """Images -> logits `[B, K, H, W]`. `taps` are the blocks, counted from 1, whose tokens the decoder reads."""

    def __init__(self, model: ModelSpec, patch_embed: nn.Module, decoder: nn.Module, taps: tuple[int, ...]) -> None:
        super().__init__(model, patch_embed)
        self.decode_head, self.taps = decoder, taps

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.decode_head(self.maps(images))
        return out

    def maps(self, images: Tensor) -> list[Tensor]:
        """The patches `[B, D, y, x]` after each tap; those of the last block are normalised, except where each level
        has a norm of its own."""
        x, kept = self.placed_tokens(self.patch_embed(images)), []
        for layer, (block, turn) in enumerate(zip(self.blocks, self._rotations(x.device), strict=True)):
            x = block(self._placed(x, layer) if layer > 0 else x, turn)
            if layer + 1 in self.taps:
                kept.append(x)
        kept[-1] = self.fc_norm(self.norm(kept[-1]))
        rows = self.shape.grid.rows
        return [rearrange(t[:, self.num_prefix_tokens :], "b (y x) d -> b d y x", y=rows) for t in kept]


def decoder_of(name: str, model: ModelSpec, widths: tuple[int, int, int], num_levels: int) -> nn.Module:
    """The decoder of this name; `widths` are those of the tokens, of its layers and of its outputs."""
    side = known(model.patch_size)
    if name == "mla":
        return MultiLevel(widths, side, num_levels)
    return Naive(widths, side) if name == "naive" else Progressive(widths, side)


def pixel_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean cross entropy of the pixels per member `[E]`: logits `[E, B, K, H, W]`, masks `[E, B, H, W]`."""
    log_p = F.log_softmax(logits.float(), dim=2).gather(2, masks.long().unsqueeze(2))
    return -log_p.mean((1, 2, 3, 4))
