"""timm's Swin, PoolFormer and MLP-Mixer: their arguments, what they require of a model, the names of their tensors.

No torch. timm builds PoolFormer and MLP-Mixer in their published sizes only. A ViT and a ResNet have timm's names
already.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from vitbench.model.mechanisms import blocks_of, stage_models, stages_of, token_mixer_of
from vitbench.model.sizes import known, pixel_grid, transformer
from vitbench.spec.mixer_names import TIMM, named
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

NOT_STRUCTURE = frozenset(
    ("name", "img_size", "in_chans", "num_classes", "init_from", "weight_init", "drop_rate", "drop_path_rate")
)
"""Fields that change no answer of given weights, or that timm takes as they are."""
DERIVED = frozenset(("depth", "num_heads", "class_token"))
"""Fields that follow from others where a name does not say them."""
SWIN = "swin_tiny_patch4_window7_224"
"""Any of timm's Swins: arguments say all that differs from it."""
FREE_IN_SWIN = frozenset(("patch_size", "embed_dim", "num_heads", "mlp_ratio", "qkv_bias", "token_mixer", "stages"))
BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Family:
    """One class of timm's.

    `block` and `merge` are the beginnings of its names, by stage and block; `renamed` are others, inside a block or
    outside of all. `convolutional`: the channel mixer's weights are those of 1 x 1 convolutions.
    """

    arguments: Callable[[ModelSpec], tuple[str, dict[str, Any]] | str]
    block: str
    merge: str
    renamed: Mapping[str, str]
    first_conv: str
    classifier: str = "head.fc"
    convolutional: bool = False


def _differences(model: ModelSpec, name: str, free: Iterable[str] = ()) -> list[str]:
    """In which fields `model` differs from timm's model of this name, in words."""
    published = ModelSpec(**(named(TIMM[name]) or {}))
    fields = [field for field in ModelSpec.model_fields if field not in NOT_STRUCTURE and field not in free]
    values = {field: (getattr(model, field), getattr(published, field)) for field in fields}
    return [
        f"model.{field} {ours}; its {name} has {theirs}"
        for field, (ours, theirs) in values.items()
        if ours != theirs and not (theirs is None and field in DERIVED)
    ]


def _swin(model: ModelSpec) -> tuple[str, dict[str, Any]] | str:
    if differences := _differences(model, SWIN, FREE_IN_SWIN):
        return differences[0]
    stages, mixer = stage_models(model), token_mixer_of(model)
    pyramid, window = stages_of(model).model_dump(), mixer.model_dump()
    if model.stages != "flat" and (stages_of(model).name != "patch_merging" or pyramid["widths"] or pyramid["mixers"]):
        return f"model.stages {model.stages}; its Swin merges patches, has one mixer and doubles the width"
    if not window["offset_bias"]:
        return f"model.token_mixer {mixer.text()}; its Swin has an offset_bias"
    grids = [transformer(stage).grid for stage in stages]
    if any(grid.rows != grid.columns and min(grid) <= window["window_size"] for grid in grids):
        return f"windows of {window['window_size']} as high or as wide as a grid; its Swin treats each side by itself"
    return SWIN, {
        "img_size": list(pixel_grid(model)),
        "in_chans": model.in_chans,
        "patch_size": model.patch_size,
        "window_size": window["window_size"],
        "embed_dim": model.embed_dim,
        "depths": [stage.depth for stage in stages],
        "num_heads": [stage.num_heads for stage in stages],
        "mlp_ratio": model.mlp_ratio,
        "qkv_bias": model.qkv_bias,
    }


def _published(model: ModelSpec, prefix: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]] | str:
    """The published model that `model` is, else how it differs from the one that is nearest."""
    names = [name for name in TIMM if name.startswith(prefix)]
    differences = [_differences(model, name) for name in names]
    nearest = min(range(len(names)), key=lambda number: len(differences[number]))
    return differences[nearest][0] if differences[nearest] else (names[nearest], arguments)


def _poolformer(model: ModelSpec) -> tuple[str, dict[str, Any]] | str:
    return _published(model, "poolformer", {"in_chans": model.in_chans})


def _mixer(model: ModelSpec) -> tuple[str, dict[str, Any]] | str:
    return _published(model, "mixer", {"img_size": list(pixel_grid(model)), "in_chans": model.in_chans})


FAMILIES: Mapping[str, Family] = {
    "swin": Family(
        _swin, "layers.{stage}.blocks.{layer}.", "layers.{stage}.downsample.", {"head.": "head.fc."}, "patch_embed.proj"
    ),
    "poolformer": Family(
        _poolformer,
        "stages.{stage}.blocks.{layer}.",
        "stages.{stage}.downsample.",
        {
            "patch_embed.proj.": "stem.conv.", "proj.": "conv.", "ls1.gamma": "layer_scale1.scale",
            "ls2.gamma": "layer_scale2.scale", "fc_norm.": "head.norm.", "head.": "head.fc.",
        },
        "stem.conv",
        convolutional=True,
    ),
    "mixer": Family(
        _mixer,
        "blocks.{layer}.",
        "",
        {"patch_embed.": "stem.", "mixer.": "mlp_tokens.", "mlp.": "mlp_channels."},
        "stem.proj",
        classifier="head",
    ),
}  # fmt: skip
"""By `timm_class` of a token mixer."""


def family_of(model: ModelSpec) -> Family | None:
    """The family that has the model's token mixer; None: timm's ViT or ResNet."""
    timm_class = None if model.family != "vit" else token_mixer_of(model).timm_class
    return None if timm_class is None else FAMILIES[timm_class]


def timm_name(name: str, model: ModelSpec, family: Family) -> str:
    """timm's name of one of our tensors."""
    match = BLOCK.fullmatch(name)
    if match is None:
        return _renamed(name, family)
    number, rest = int(match[1]), match[2]
    stages = [stage for stage, place in enumerate(stage_models(model)) for _ in range(known(place.depth))]
    at = {"stage": stages[number], "layer": blocks_of(model)[number].layer}
    if rest.startswith("merge."):
        return family.merge.format(**at) + _renamed(rest.removeprefix("merge."), family)
    return family.block.format(**at) + _renamed(rest, family)


def _renamed(name: str, family: Family) -> str:
    for ours, theirs in family.renamed.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def in_our_names(given: Mapping[str, T], model: ModelSpec, names: Iterable[str]) -> dict[str, T]:
    """Tensors by our names `names`, where timm's class of the model has others; others keep their name."""
    family = family_of(model)
    ours = {} if family is None else {timm_name(name, model, family): name for name in names}
    return {ours.get(name, name): tensor for name, tensor in given.items()}


def in_timms_names(state: Mapping[str, Tensor], model: ModelSpec, family: Family) -> dict[str, Tensor]:
    """A model's state under timm's names, and in its shapes."""
    convolutions = {name for name in state if family.convolutional and ".mlp.fc" in name and name.endswith(".weight")}
    return {
        timm_name(name, model, family): tensor[..., None, None] if name in convolutions else tensor
        for name, tensor in state.items()
    }
