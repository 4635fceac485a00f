"""Every tensor of a model's state: its name, its shape, how it is drawn, how often one image uses it. No torch.

This is the one source of initialisation: `vitbench.model.initialise` draws from it. Names are timm's.

Source: vit_jax (`weight_init: jax`, the default) and timm (`weight_init: timm`).
Differs: vit_jax and timm fuse query, key and value differently; here each third is drawn as vit_jax draws it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from vitbench.model.sizes import (
    Backbone,
    Bottleneck,
    Transformer,
    backbone,
    conv_stem_widths,
    known,
    pixel_grid,
    prediction_width,
    relative_reaches,
    transformer,
)
from vitbench.spec.trial import ModelSpec, ObjectiveSpec


@dataclass(frozen=True)
class Parameter:
    """One tensor. `uses`: multiply-adds per element for one image. `trained`: False for running statistics."""

    name: str
    shape: tuple[int, ...]
    init: str
    uses: int = 0
    trained: bool = True

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Scheme:
    """The initialisations of one `weight_init`, by kind of tensor."""

    linear: str
    qkv: str
    mlp_bias: str
    representation: str
    position: str
    class_token: str
    head: str
    conv: str
    conv_head: str
    last_scale: str


SCHEMES = {
    "jax": Scheme(
        linear="xavier_uniform",
        qkv="xavier_uniform_qkv",
        mlp_bias="normal:1e-06",
        representation="lecun_normal",
        position="normal:0.02",
        class_token="zeros",
        head="zeros",
        conv="lecun_normal",
        conv_head="zeros",
        last_scale="zeros",
    ),
    "timm": Scheme(
        linear="trunc_normal:0.02",
        qkv="trunc_normal:0.02",
        mlp_bias="zeros",
        representation="trunc_normal:0.02",
        position="trunc_normal:0.02",
        class_token="normal:1e-06",
        head="trunc_normal:0.02",
        conv="kaiming_normal",
        conv_head="normal:0.01",
        last_scale="ones",
    ),
}
MASK_TOKEN_INIT = "normal:0.02"


def parameters(model: ModelSpec, objective: ObjectiveSpec) -> tuple[Parameter, ...]:
    """Every tensor of the model's `state_dict`, for a resolved spec.

    With `masked_patch` there are a mask token and a head per patch, and no class head.
    """
    if model.family == "resnet":
        return tuple(_resnet(model))
    return tuple(_vit(model, objective))


def position_tables(model: ModelSpec, layer: int) -> tuple[Parameter, ...]:
    """The learned absolute tables added to the input of block `layer`; names are relative to their owner.

    The owner of layer 0 is the model, of a later layer that block.
    """
    if layer > 0 and model.pos_placement != "every_layer":
        return ()
    shape, init = transformer(model), SCHEMES[model.weight_init].position
    if model.pos_embed == "learned_1d":
        return (Parameter("pos_embed", (1, shape.num_places, shape.embed_dim), init),)
    if model.pos_embed != "learned_2d":
        return ()
    half = shape.embed_dim // 2
    row = (Parameter("pos_embed_cls", (1, 1, shape.embed_dim), init),) if shape.class_position else ()
    return (
        Parameter("pos_embed_x", (1, shape.grid.columns, half), init),
        Parameter("pos_embed_y", (1, shape.grid.rows, half), init),
        *row,
    )


def relative_tables(model: ModelSpec) -> tuple[Parameter, ...]:
    """The tables of one attention layer's relative offsets, shared by its heads; names are relative to it."""
    names = {"relative_1d": ("rel_pos",), "relative_2d": ("rel_pos_h", "rel_pos_w")}.get(model.pos_embed, ())
    if not names:
        return ()
    width, init = transformer(model).head_dim, SCHEMES[model.weight_init].position
    reaches = relative_reaches(model)
    return tuple(Parameter(name, (2 * reach + 1, width), init) for name, reach in zip(names, reaches, strict=True))


def _affine(
    name: str, weight: tuple[int, ...], inits: tuple[str, str], uses: int, bias: bool = True
) -> Iterator[Parameter]:
    """A linear or convolutional layer; `inits` are the weight's and the bias's."""
    yield Parameter(f"{name}.weight", weight, inits[0], uses)
    if bias:
        yield Parameter(f"{name}.bias", weight[:1], inits[1])


def _norm(name: str, width: int, scale: str = "ones") -> Iterator[Parameter]:
    yield Parameter(f"{name}.weight", (width,), scale)
    yield Parameter(f"{name}.bias", (width,), "zeros")


def _vit(model: ModelSpec, objective: ObjectiveSpec) -> Iterator[Parameter]:
    shape, scheme = transformer(model), SCHEMES[model.weight_init]
    if shape.class_token:
        yield Parameter("cls_token", (1, 1, shape.embed_dim), scheme.class_token)
    yield from position_tables(model, 0)
    yield from _patch_embed(model, shape)
    for layer in range(shape.depth):
        yield from _block(model, shape, layer)
    if model.final_norm != "none":
        yield from _norm("norm" if model.final_norm == "before_pool" else "fc_norm", shape.embed_dim)
    if objective.name == "masked_patch":
        yield Parameter("mask_token", (1, 1, shape.embed_dim), MASK_TOKEN_INIT)
        outputs = (prediction_width(model, objective), shape.embed_dim)
        yield from _affine("mpp_head", outputs, (scheme.head, "zeros"), shape.num_patches)
    else:
        yield from _readout(model, shape)


def _patch_embed(model: ModelSpec, shape: Transformer) -> Iterator[Parameter]:
    """The projection to embed_dim, behind a backbone or a convolutional stem where there is one."""
    patch, in_width = known(model.patch_size), known(model.in_chans)
    if model.family == "hybrid":
        features = backbone(model)
        yield from _backbone(model, features, "patch_embed.backbone.")
        in_width = features.width
    elif model.stem == "conv":
        cells = pixel_grid(model)
        for index, width in enumerate(conv_stem_widths(model)):
            cells = cells.divided(2)
            name, init = f"patch_embed.stem.{index}", SCHEMES[model.weight_init].conv
            yield from _affine(f"{name}.conv", (width, in_width, 3, 3), (init, ""), cells.area, bias=False)
            yield from _norm(f"{name}.norm", width)
            in_width = width
        patch = 1
    bound = f"uniform:{(in_width * patch**2) ** -0.5:.6g}"
    inits = (bound, bound) if model.weight_init == "timm" else ("lecun_normal", "zeros")
    yield from _affine("patch_embed.proj", (shape.embed_dim, in_width, patch, patch), inits, shape.num_patches)


def _block(model: ModelSpec, shape: Transformer, layer: int) -> Iterator[Parameter]:
    name, scheme = f"blocks.{layer}", SCHEMES[model.weight_init]
    dim, tokens = shape.embed_dim, shape.num_tokens
    if layer > 0:
        for table in position_tables(model, layer):
            yield Parameter(f"{name}.{table.name}", table.shape, table.init)
    yield from _norm(f"{name}.norm1", dim)
    yield from _affine(f"{name}.attn.qkv", (3 * dim, dim), (scheme.qkv, "zeros"), tokens, bias=model.qkv_bias)
    for table in relative_tables(model):
        yield Parameter(f"{name}.attn.{table.name}", table.shape, table.init)
    yield from _affine(f"{name}.attn.proj", (dim, dim), (scheme.linear, "zeros"), tokens)
    yield from _norm(f"{name}.norm2", dim)
    yield from _mlp(f"{name}.mlp", shape, scheme, tokens)


def _mlp(name: str, shape: Transformer, scheme: Scheme, uses: int) -> Iterator[Parameter]:
    inits = (scheme.linear, scheme.mlp_bias)
    yield from _affine(f"{name}.fc1", (shape.mlp_dim, shape.embed_dim), inits, uses)
    yield from _affine(f"{name}.fc2", (shape.embed_dim, shape.mlp_dim), inits, uses)


def _readout(model: ModelSpec, shape: Transformer) -> Iterator[Parameter]:
    """Attention pooling where chosen, the pre-training head's hidden layer where chosen, the classifier."""
    dim, scheme = shape.embed_dim, SCHEMES[model.weight_init]
    linear = (scheme.linear, "zeros")
    if model.global_pool == "map":
        yield Parameter("attn_pool.latent", (1, 1, dim), "lecun_normal")
        yield from _affine("attn_pool.q", (dim, dim), linear, 1)
        yield from _affine("attn_pool.kv", (2 * dim, dim), linear, shape.num_patches)
        yield from _affine("attn_pool.proj", (dim, dim), linear, 1)
        yield from _norm("attn_pool.norm", dim)
        yield from _mlp("attn_pool.mlp", shape, scheme, 1)
    if model.head == "mlp_tanh":
        yield from _affine("representation", (dim, dim), (scheme.representation, "zeros"), 1)
    yield from _affine("head", (known(model.num_classes), dim), (scheme.head, "zeros"), 1)


def _resnet(model: ModelSpec) -> Iterator[Parameter]:
    features = backbone(model)
    yield from _backbone(model, features, "")
    init = SCHEMES[model.weight_init].conv_head
    yield from _affine("head.fc", (known(model.num_classes), features.width, 1, 1), (init, "zeros"), 1)


def _backbone(model: ModelSpec, features: Backbone, prefix: str) -> Iterator[Parameter]:
    width, kernel = features.root_width, features.root_kernel
    weight = (width, known(model.in_chans), kernel, kernel)
    init = SCHEMES[model.weight_init].conv
    yield from _affine(f"{prefix}stem.conv", weight, (init, ""), features.root_grid.area, bias=False)
    if not model.preact:
        yield from _conv_norm(model, f"{prefix}stem.norm", width)
    in_area = features.blocks[0].grid.area
    for block in features.blocks:
        yield from _bottleneck(model, block, in_area, f"{prefix}stages.{block.stage}.blocks.{block.index}")
        in_area = block.grid.area
    if model.preact:
        yield from _conv_norm(model, f"{prefix}norm", features.width)


def _bottleneck(model: ModelSpec, block: Bottleneck, in_area: int, name: str) -> Iterator[Parameter]:
    scheme, area = SCHEMES[model.weight_init], block.grid.area
    middle, preact = block.mid_width, known(model.preact)
    if block.index == 0:
        shortcut = (block.out_width, block.in_width, 1, 1)
        yield from _affine(f"{name}.downsample.conv", shortcut, (scheme.conv, ""), area, bias=False)
        if not preact:
            yield from _conv_norm(model, f"{name}.downsample.norm", block.out_width)
    convs = [(middle, block.in_width, 1, 1), (middle, middle, 3, 3), (block.out_width, middle, 1, 1)]
    for number, weight in enumerate(convs, start=1):
        uses = in_area if number == 1 else area
        yield from _affine(f"{name}.conv{number}", weight, (scheme.conv, ""), uses, bias=False)
        last = number == 3 and not preact
        width = weight[1] if preact else weight[0]
        yield from _conv_norm(model, f"{name}.norm{number}", width, scheme.last_scale if last else "ones")


def _conv_norm(model: ModelSpec, name: str, width: int, scale: str = "ones") -> Iterator[Parameter]:
    yield from _norm(name, width, scale)
    if model.norm_layer == "batch":
        yield Parameter(f"{name}.running_mean", (width,), "zeros", trained=False)
        yield Parameter(f"{name}.running_var", (width,), "ones", trained=False)
        yield Parameter(f"{name}.num_batches_tracked", (), "zeros", trained=False)
