"""The sizes that a resolved ModelSpec implies: widths, grids, counts. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from vitbench.spec.mechanism import mechanism
from vitbench.spec.trial import ModelSpec, sides, size_words

T = TypeVar("T")

STAGE_WIDTHS = (256, 512, 1024, 2048)
ROOT_WIDTH = 64
ROOT_STRIDES = {"imagenet": 4, "small": 1}


def known(value: T | None) -> T:
    """The value of a field that a resolved spec has set."""
    assert value is not None, "the spec is not resolved"
    return value


class Grid(NamedTuple):
    """Rows and columns of cells: of pixels, patches, or a feature map."""

    rows: int
    columns: int

    @property
    def area(self) -> int:
        """The number of cells."""
        return self.rows * self.columns

    def divided(self, by: int) -> Grid:
        """The grid of blocks of `by` x `by` cells."""
        return Grid(self.rows // by, self.columns // by)

    def halved(self) -> Grid:
        """The grid after a padded layer of stride 2."""
        return Grid(-(-self.rows // 2), -(-self.columns // 2))


def pixel_grid(model: ModelSpec) -> Grid:
    """Height and width of a resolved spec's images."""
    assert model.img_size is not None, "the spec is not resolved"
    return Grid(*sides(model.img_size))


def pixel_words(model: ModelSpec) -> str:
    """`28`, or `16 x 32` if the sides differ."""
    cells = pixel_grid(model)
    return str(cells.rows) if cells.rows == cells.columns else size_words(cells)


def divisors(number: int, least: int = 1) -> str:
    """`1, 2, 4`: the divisors of a number."""
    return ", ".join(str(n) for n in range(least, number + 1) if number % n == 0)


@dataclass(frozen=True)
class Transformer:
    """The encoder's sizes. Tokens are the class token, the distillation token, the registers, then the patches.

    `class_position` says whether the class token has a place among the patches' positions; the other prefix tokens have
    none.
    `num_heads` and `mlp_dim` are 0 if no part of the model reads them.
    """

    embed_dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    grid: Grid
    class_token: bool
    class_position: bool
    dist_token: bool = False
    num_registers: int = 0

    @property
    def head_dim(self) -> int:
        assert self.num_heads > 0, "no part of this model has heads"
        return self.embed_dim // self.num_heads

    @property
    def num_patches(self) -> int:
        return self.grid.area

    @property
    def num_prefix(self) -> int:
        """Tokens before the patches."""
        return self.class_token + self.dist_token + self.num_registers

    @property
    def num_tokens(self) -> int:
        return self.num_prefix + self.num_patches

    @property
    def num_places(self) -> int:
        """Tokens that have a position."""
        return self.num_patches + self.class_position


@dataclass(frozen=True)
class Bottleneck:
    """One residual block: 1x1, 3x3 (with the stride), 1x1; `grid` is its output's."""

    stage: int
    index: int
    in_width: int
    mid_width: int
    out_width: int
    stride: int
    grid: Grid


@dataclass(frozen=True)
class Backbone:
    """A ResNet up to its last feature map; `root_grid` is that of the root's convolution, before any pooling."""

    root: str
    root_width: int
    root_grid: Grid
    blocks: tuple[Bottleneck, ...]

    @property
    def root_kernel(self) -> int:
        return 7 if self.root == "imagenet" else 3

    @property
    def root_stride(self) -> int:
        return 2 if self.root == "imagenet" else 1

    @property
    def width(self) -> int:
        return self.blocks[-1].out_width

    @property
    def grid(self) -> Grid:
        return self.blocks[-1].grid


def scaled_width(width: int, factor: float) -> int:
    """`width * factor` rounded to a multiple of 8 that is at least 90% of it (timm's and BiT's rule)."""
    exact = width * factor
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def backbone(model: ModelSpec) -> Backbone:
    """The ResNet of a resolved `resnet` or `hybrid`."""
    factor, root, cells = known(model.width_factor), known(model.root), pixel_grid(model)
    root_grid = cells.halved() if root == "imagenet" else cells
    cells = root_grid.halved() if root == "imagenet" else cells
    in_width = root_width = scaled_width(ROOT_WIDTH, factor)
    blocks = []
    for stage, (num_blocks, base_width) in enumerate(zip(known(model.layers), STAGE_WIDTHS, strict=False)):
        out_width = scaled_width(base_width, factor)
        mid_width = scaled_width(out_width, 0.25)
        for index in range(num_blocks):
            stride = 2 if stage > 0 and index == 0 else 1
            cells = cells.halved() if stride == 2 else cells
            blocks.append(Bottleneck(stage, index, in_width, mid_width, out_width, stride, cells))
            in_width = out_width
    return Backbone(root, root_width, root_grid, tuple(blocks))


def total_stride(model: ModelSpec) -> int:
    """How many pixels along one edge make one cell of the token grid (of a ResNet: of the last feature map)."""
    if model.family == "vit":
        return known(model.patch_size)
    stride = ROOT_STRIDES[known(model.root)] << (len(known(model.layers)) - 1)
    return stride if model.family == "resnet" else stride * known(model.patch_size)


def patch_grid(model: ModelSpec) -> Grid:
    """The patches of a ViT's images."""
    return pixel_grid(model).divided(known(model.patch_size))


def grid(model: ModelSpec) -> Grid:
    """The token grid (of a ResNet: the last feature map)."""
    if model.family == "vit":
        cells: Grid = mechanism("patch_embed", model.stem).grid(model)
        return cells
    features = backbone(model).grid
    return features if model.family == "resnet" else features.divided(known(model.patch_size))


def num_tokens(model: ModelSpec) -> int:
    """Tokens that attend to each other, prefix tokens included (of a ResNet: cells of the last feature map)."""
    return grid(model).area if model.family == "resnet" else transformer(model).num_tokens


def transformer(model: ModelSpec) -> Transformer:
    """The encoder of a resolved `vit` or `hybrid`."""
    embed_dim = known(model.embed_dim)
    return Transformer(
        embed_dim=embed_dim,
        depth=known(model.depth),
        num_heads=model.num_heads or 0,
        mlp_dim=int(embed_dim * (model.mlp_ratio or 0)),
        grid=grid(model),
        class_token=known(model.class_token),
        class_position=known(model.class_token) and not model.no_embed_class,
        dist_token=model.dist_token,
        num_registers=model.reg_tokens,
    )


def conv_stem_widths(model: ModelSpec) -> tuple[int, ...]:
    """Output widths of the convolutional stem's stride-2 layers: doubling, the last one embed_dim.

    Source: Xiao et al. 2021, section 3.
    """
    layers = known(model.patch_size).bit_length() - 1
    return tuple(known(model.embed_dim) >> (layers - 1 - layer) for layer in range(layers))


def norm_groups(width: int) -> int:
    """Groups of a GroupNorm: 32, or fewer if a group would have less than 2 channels.

    Differs: BiT always has 32, which a narrow network cannot hold; from width 64 on the two are the same.
    """
    groups = 32
    while (width // 2) % groups:
        groups //= 2
    return groups
