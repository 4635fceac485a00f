"""What a model costs, in closed form from its spec: parameters, multiply-adds, training FLOPs. No torch.

A multiply-add (MAC) is 2 FLOPs; a training step is 3 forward passes. Counted are matrix products and convolutions;
norms, activations, softmax, weight standardisation and rotations are not (nor does torch's FlopCounterMode count them).
"""

from __future__ import annotations

import functools
import math

from vitbench.model.sizes import (
    cells_side,
    grid,
    known,
    num_tokens,
    pixel_grid,
    relative_reaches,
    total_stride,
    transformer,
)
from vitbench.model.tensors import Parameter, parameters
from vitbench.spec.trial import ABSOLUTE, ModelSpec, ObjectiveSpec, TrialSpec, size_words

__all__ = [
    "Parameter", "check", "forward_flops", "forward_macs", "grid", "num_params", "num_tokens", "parameters",
    "total_stride", "train_flops", "trial_flops",
]  # fmt: skip

FLOPS_PER_MAC = 2
TRAIN_PER_FORWARD = 3


def num_params(model: ModelSpec, objective: ObjectiveSpec) -> int:
    """The number of trained elements; running statistics are not trained."""
    return sum(tensor.size for tensor in parameters(model, objective) if tensor.trained)


def forward_macs(model: ModelSpec, objective: ObjectiveSpec) -> dict[str, int]:
    """Multiply-adds of one image's forward pass, by module name; attention's products are `scores` and `values`."""
    macs = {
        tensor.name.removesuffix(".weight"): tensor.size * tensor.uses
        for tensor in parameters(model, objective)
        if tensor.uses
    }
    return macs if model.family == "resnet" else macs | _attention_macs(model, objective)


def _attention_macs(model: ModelSpec, objective: ObjectiveSpec) -> dict[str, int]:
    shape = transformer(model)
    pairs = shape.num_tokens**2 * shape.embed_dim
    relative = {
        "relative_1d": shape.num_places**2 * shape.embed_dim,
        "relative_2d": sum(shape.grid) * shape.num_places * shape.embed_dim,
    }.get(model.pos_embed)
    macs: dict[str, int] = {}
    for layer in range(shape.depth):
        macs |= {f"blocks.{layer}.attn.scores": pairs, f"blocks.{layer}.attn.values": pairs}
        if relative:
            macs[f"blocks.{layer}.attn.rel_pos"] = relative
    if model.global_pool == "map" and objective.name == "classify":
        pooled = shape.num_patches * shape.embed_dim
        macs |= {"attn_pool.scores": pooled, "attn_pool.values": pooled}
    return macs


def forward_flops(model: ModelSpec, objective: ObjectiveSpec) -> int:
    """FLOPs of one image's forward pass: 2 per multiply-add."""
    return _forward_flops(model, objective)


@functools.lru_cache(maxsize=4096)
def _forward_flops(model: ModelSpec, objective: ObjectiveSpec) -> int:
    return FLOPS_PER_MAC * sum(forward_macs(model, objective).values())


def train_flops(model: ModelSpec, objective: ObjectiveSpec, num_images: int) -> int:
    """FLOPs of training on `num_images` images (repeats counted): 3 forward passes each.

    Source: Dosovitskiy et al. 2021, Table 6, whose exaFLOPs this reproduces.
    """
    return TRAIN_PER_FORWARD * forward_flops(model, objective) * num_images


def trial_flops(spec: TrialSpec) -> int:
    """FLOPs of all training of one resolved trial."""
    train = spec.train
    return train_flops(spec.model, train.objective, known(train.steps) * train.batch_size)


def check(model: ModelSpec, objective: ObjectiveSpec | None = None) -> list[str]:
    """Why a resolved spec cannot be built, each with what would fit; empty where it can."""
    objective = objective or ObjectiveSpec()
    problems = [] if model.family == "vit" else _backbone_problems(model)
    if model.family == "resnet":
        if model.head != "linear":
            problems.append(f"model.head: {model.head} is a transformer's; a ResNet's is linear")
        if objective.name == "masked_patch":
            problems.append("train.objective.name: masked_patch needs patches; a ResNet has none (classify)")
        return problems
    grid = _grid_problems(model) if model.family == "vit" else _cell_problems(model) if not problems else []
    problems += grid + _encoder_problems(model)
    if not problems:
        problems += _position_problems(model)
    return problems + (_mask_problems(model, objective) if objective.name == "masked_patch" else [])


def _pixels(model: ModelSpec) -> str:
    """`28`, or `16 x 32` where the sides differ."""
    cells = pixel_grid(model)
    return str(cells.rows) if cells.rows == cells.columns else size_words(cells)


def _divisors(number: int, least: int = 1) -> str:
    return ", ".join(str(n) for n in range(least, number + 1) if number % n == 0)


def _backbone_problems(model: ModelSpec) -> list[str]:
    stages = len(known(model.layers))
    if stages > 4:
        return [f"model.layers: {stages} stages; at most 4"]
    stride = total_stride(model)
    if min(pixel_grid(model)) < stride:
        small = " (root: small makes it 4 times smaller)" if model.root == "imagenet" else ""
        return [
            f"model: the feature map is empty: images of {_pixels(model)} px under a total stride of {stride}{small}"
        ]
    return []


def _grid_problems(model: ModelSpec) -> list[str]:
    cells, patch = pixel_grid(model), known(model.patch_size)
    common = math.gcd(*cells)
    if common % patch:
        return [f"model.patch_size: {patch} does not divide images of {_pixels(model)} px; {_divisors(common)} do"]
    if model.stem != "conv":
        return []
    if patch < 2 or patch & (patch - 1):
        return [f"model.stem: conv halves the side, so patch_size must be 2, 4, 8, ...; it is {patch}"]
    if known(model.embed_dim) % patch:
        return [f"model.stem: conv with patch {patch} needs embed_dim divisible by {patch}; it is {model.embed_dim}"]
    return []


def _cell_problems(model: ModelSpec) -> list[str]:
    patch = known(model.patch_size)
    cells = grid(model.model_copy(update={"patch_size": 1}))
    common = math.gcd(*cells)
    if model.stem == "conv":
        return ["model.stem: a hybrid's stem is its backbone; patchify"]
    if common % patch:
        shown = cells.rows if cells.rows == cells.columns else f"{cells.rows} x {cells.columns}"
        return [f"model.patch_size: {patch} does not divide the feature map of {shown} cells; {_divisors(common)} do"]
    return []


def _encoder_problems(model: ModelSpec) -> list[str]:
    dim, heads = known(model.embed_dim), known(model.num_heads)
    problems = []
    if dim % heads:
        problems.append(f"model.num_heads: {heads} does not divide embed_dim {dim}; {_divisors(dim)} do")
    if int(dim * known(model.mlp_ratio)) < 1:
        problems.append(f"model.mlp_ratio: {model.mlp_ratio} of embed_dim {dim} is less than one unit")
    if model.global_pool == "token" and not model.class_token:
        problems.append("model.global_pool: token reads the class token; set class_token: true, or avg or map")
    return problems


def _position_problems(model: ModelSpec) -> list[str]:
    kind, placement, shape = model.pos_embed, model.pos_placement, transformer(model)
    problems = []
    if placement != "stem" and kind not in ABSOLUTE:
        problems.append(f"model.pos_placement: {placement} is for {', '.join(ABSOLUTE)}; {kind} has only stem")
    if placement == "every_layer" and kind == "sincos_2d":
        problems.append("model.pos_placement: sincos_2d is fixed, so every_layer is every_layer_shared")
    for needed, least in (("learned_2d", 2), ("sincos_2d", 4)):
        if kind == needed and shape.embed_dim % least:
            problems.append(f"model.pos_embed: {kind} needs embed_dim divisible by {least}; it is {shape.embed_dim}")
    if kind == "rope_2d" and shape.head_dim % 4:
        problems.append(f"model.pos_embed: rope_2d needs embed_dim / num_heads divisible by 4; it is {shape.head_dim}")
    return problems + _clip_problems(model)


def _clip_problems(model: ModelSpec) -> list[str]:
    if model.relative_clip is None:
        return []
    if model.pos_embed not in ("relative_1d", "relative_2d"):
        return [f"model.relative_clip: {model.pos_embed} has no relative offsets to clip"]
    largest = max(relative_reaches(model.model_copy(update={"relative_clip": None})))
    if model.relative_clip > largest:
        return [f"model.relative_clip: {model.relative_clip} is above the largest offset of this grid, {largest}"]
    return []


def _mask_problems(model: ModelSpec, objective: ObjectiveSpec) -> list[str]:
    if model.family == "hybrid" or model.stem == "conv":
        return ["train.objective.name: masked_patch needs patches that do not overlap; family vit with stem patchify"]
    if objective.target == "downsampled" and cells_side(model) == 0:
        return ["train.objective.target: downsampled needs patches of at least 2 px; mean_colour or pixels"]
    return []
