"""The BiT ResNet, and the post-activation one that stands under a hybrid's transformer.

`preact: true` is BiT as in timm's resnetv2_*_bit (symmetric padding, a norm after the last stage); `preact: false` is
vit_jax's backbone as in timm's vit_base_r50_s16 (TensorFlow's padding, norm before activation). State names are timm's.

Source: Kolesnikov et al. 2020 (BiT); Dosovitskiy et al. 2021, section 4.1.
Differs: `root: small` (3x3, stride 1, no pooling) is ours, for images of at most 64 px; no BiT weights exist for it.

Shapes: B batch, C channels, Y X rows and columns of the last feature map, F its width.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitbench.model.layers import PatchProjection, StochasticDepth, depth_rates, dropout
from vitbench.model.sizes import Backbone, Bottleneck, backbone, known, norm_groups
from vitbench.spec.trial import ModelSpec

STANDARDIZE_EPS = 1e-8


def same_pad(x: Tensor, kernel: int, stride: int) -> Tensor:
    """`x` padded by zeros as TensorFlow's SAME: to ceil(side / stride) outputs, the odd row and column at the end."""
    around: list[int] = []
    for side in (x.shape[-1], x.shape[-2]):  # F.pad takes the last axis first.
        total = max(0, (-(-side // stride) - 1) * stride + kernel - side)
        around += [total // 2, total - total // 2]
    return F.pad(x, around)


class Conv(nn.Conv2d):
    """A convolution without bias that keeps the side (stride 1) or halves it; its weights may be standardised."""

    def __init__(self, model: ModelSpec, in_width: int, width: int, kernel: int, stride: int = 1) -> None:
        same = stride > 1 and not model.preact
        super().__init__(in_width, width, kernel, stride, 0 if same else (kernel - 1) // 2, bias=False)
        self.same, self.standardize = same, model.weight_standardize

    def forward(self, x: Tensor) -> Tensor:
        if self.same:
            x = same_pad(x, self.kernel_size[0], self.stride[0])
        weight = standardized(self.weight) if self.standardize else self.weight
        return F.conv2d(x, weight, None, self.stride, self.padding)


def standardized(weight: Tensor) -> Tensor:
    """Weights of mean 0 and variance 1 over (input channel, row, column), per output channel."""
    variance, mean = torch.var_mean(weight, dim=(1, 2, 3), correction=0, keepdim=True)
    return (weight - mean) * torch.rsqrt(variance + STANDARDIZE_EPS)


def conv_norm(model: ModelSpec, width: int) -> nn.Module:
    """GroupNorm, or BatchNorm where the spec says so."""
    return nn.BatchNorm2d(width) if model.norm_layer == "batch" else nn.GroupNorm(norm_groups(width), width)


class Shortcut(nn.Module):
    """The 1x1 convolution on the skip path of a stage's first block; normed where activation comes after."""

    def __init__(self, model: ModelSpec, block: Bottleneck) -> None:
        super().__init__()
        self.conv = Conv(model, block.in_width, block.out_width, 1, block.stride)
        self.norm = nn.Identity() if model.preact else conv_norm(model, block.out_width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x))
        return out


class Residual(nn.Module):
    """What both bottlenecks hold: three convolutions, three norms, a shortcut in the first block of a stage."""

    def __init__(self, model: ModelSpec, block: Bottleneck, drop_path_rate: float) -> None:
        super().__init__()
        widths = [block.in_width, block.mid_width, block.mid_width, block.out_width]
        normed = widths[:3] if model.preact else widths[1:]
        self.downsample = Shortcut(model, block) if block.index == 0 else None
        self.conv1 = Conv(model, widths[0], widths[1], 1)
        self.conv2 = Conv(model, widths[1], widths[2], 3, block.stride)
        self.conv3 = Conv(model, widths[2], widths[3], 1)
        self.norm1, self.norm2, self.norm3 = (conv_norm(model, width) for width in normed)
        self.drop_path = StochasticDepth(drop_path_rate)


class PreActBottleneck(Residual):
    """Norm and activation before each convolution (BiT)."""

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        skip = x if self.downsample is None else self.downsample(active)
        y = F.relu(self.norm2(self.conv1(active)))
        y = F.relu(self.norm3(self.conv2(y)))
        out: Tensor = skip + self.drop_path(self.conv3(y))
        return out


class PostActBottleneck(Residual):
    """Norm after each convolution, activation after the sum (vit_jax)."""

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(skip + self.drop_path(self.norm3(self.conv3(y))))


class Root(nn.Module):
    """The first convolution, and for full-size images the pooling: a quarter of the side, or (`small`) all of it."""

    def __init__(self, model: ModelSpec, features: Backbone) -> None:
        super().__init__()
        self.pool, self.same, self.preact = features.root == "imagenet", not model.preact, model.preact
        width, kernel = features.root_width, features.root_kernel
        self.conv = Conv(model, known(model.in_chans), width, kernel, features.root_stride)
        self.norm = nn.Identity() if model.preact else conv_norm(model, width)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        x = x if self.preact else F.relu(self.norm(x))
        if not self.pool:
            return x
        return F.max_pool2d(same_pad(x, 3, 2) if self.same else F.pad(x, (1, 1, 1, 1)), 3, stride=2)


class ResNetFeatures(nn.Module):
    """Images `[B, C, H, W]` -> the last feature map `[B, F, Y, X]`."""

    def __init__(self, model: ModelSpec) -> None:
        super().__init__()
        features = backbone(model)
        self.model, self.num_features = model, features.width
        bottleneck = PreActBottleneck if model.preact else PostActBottleneck
        rates = iter(depth_rates(model.drop_path_rate if model.family == "resnet" else 0.0, len(features.blocks)))
        self.stem = Root(model, features)
        self.stages = nn.Sequential()
        for stage, blocks in groupby(features.blocks, key=lambda block: block.stage):
            layers = nn.Sequential(*(bottleneck(model, block, next(rates)) for block in blocks))
            self.stages.add_module(str(stage), nn.Sequential(OrderedDict(blocks=layers)))
        self.norm = conv_norm(model, features.width) if model.preact else nn.Identity()

    def forward_features(self, images: Tensor) -> Tensor:
        """The last feature map, activated: `[B, F, Y, X]`."""
        x = self.norm(self.stages(self.stem(images)))
        return F.relu(x) if self.model.preact else x

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_features(images)


class ResNet(ResNetFeatures):
    """Images `[B, C, H, W]` -> logits `[B, num_classes]`, by the mean over the last feature map."""

    def __init__(self, model: ModelSpec) -> None:
        super().__init__(model)
        fc = nn.Conv2d(self.num_features, known(model.num_classes), 1)
        self.head = nn.Sequential(OrderedDict(drop=dropout(model.drop_rate), fc=fc))

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits `[B, num_classes]` of a feature map, or its mean `[B, F]`."""
        features = x.mean(dim=(2, 3))
        if pre_logits:
            return features
        out: Tensor = self.head(features[:, :, None, None])
        return out.flatten(1)

    def pre_logits(self, images: Tensor) -> Tensor:
        """Features `[B, F]` before the classifier."""
        return self.forward_head(self.forward_features(images), pre_logits=True)


class HybridEmbed(PatchProjection):
    """A hybrid's way from images `[B, C, H, W]` to tokens `[B, N, D]`: the feature map in patches of its cells."""

    def __init__(self, model: ModelSpec) -> None:
        backbone = ResNetFeatures(model)
        super().__init__(backbone.num_features, known(model.embed_dim), known(model.patch_size))
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(self.backbone(images))
