"""The tensors of a ResNet and of a hybrid's backbone. No torch. Names are timm's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vitbench.model.sizes import Backbone, Bottleneck, backbone, known
from vitbench.model.tensors import SCHEMES, Tensor, affine, norm
from vitbench.spec.trial import ModelSpec


def resnet_tensors(model: ModelSpec) -> Iterator[Tensor]:
    """Every tensor of a ResNet."""
    features = backbone(model)
    yield from backbone_tensors(model, features, "")
    init = SCHEMES[model.weight_init].conv_head
    shape = (known(model.num_classes), features.width, 1, 1)
    yield from (replace(t, role="task", part="head") for t in affine("head.fc", shape, (init, "zeros"), 1))


def backbone_tensors(model: ModelSpec, features: Backbone, prefix: str) -> Iterator[Tensor]:
    """A ResNet up to its last feature map; `prefix` is empty or ends in a dot."""
    width, kernel = features.root_width, features.root_kernel
    weight = (width, known(model.in_chans), kernel, kernel)
    init = SCHEMES[model.weight_init].conv
    root = [*affine(f"{prefix}stem.conv", weight, (init, ""), features.root_grid.area, bias=False)]
    root += [] if model.preact else _conv_norm(model, f"{prefix}stem.norm", width)
    yield from (replace(tensor, part="root") for tensor in root)
    in_area = features.blocks[0].grid.area
    for block in features.blocks:
        yield from _bottleneck(model, block, in_area, f"{prefix}stages.{block.stage}.blocks.{block.index}")
        in_area = block.grid.area
    if model.preact:
        yield from _conv_norm(model, f"{prefix}norm", features.width)


def _bottleneck(model: ModelSpec, block: Bottleneck, in_area: int, name: str) -> Iterator[Tensor]:
    scheme, area = SCHEMES[model.weight_init], block.grid.area
    middle, preact = block.mid_width, known(model.preact)
    if block.index == 0:
        shortcut = (block.out_width, block.in_width, 1, 1)
        yield from affine(f"{name}.downsample.conv", shortcut, (scheme.conv, ""), area, bias=False)
        if not preact:
            yield from _conv_norm(model, f"{name}.downsample.norm", block.out_width)
    convs = [(middle, block.in_width, 1, 1), (middle, middle, 3, 3), (block.out_width, middle, 1, 1)]
    for number, weight in enumerate(convs, start=1):
        uses = in_area if number == 1 else area
        yield from affine(f"{name}.conv{number}", weight, (scheme.conv, ""), uses, bias=False)
        last = number == 3 and not preact
        width = weight[1] if preact else weight[0]
        yield from _conv_norm(model, f"{name}.norm{number}", width, scheme.last_scale if last else "ones")


def _conv_norm(model: ModelSpec, name: str, width: int, scale: str = "ones") -> Iterator[Tensor]:
    yield from norm(name, width, scale)
    if model.norm_layer == "batch":
        yield Tensor(f"{name}.running_mean", (width,), "zeros", trained=False)
        yield Tensor(f"{name}.running_var", (width,), "ones", trained=False)
        yield Tensor(f"{name}.num_batches_tracked", (), "zeros", trained=False)
