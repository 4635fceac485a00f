"""Every tensor of a model's state, from its parts and its objective. No torch.

This is the one source of initialisation: `vitbench.model.build.initialise` draws from it. Names are timm's.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace

from vitbench.model.mechanisms import (
    blocks_of,
    channel_mixer_of,
    patch_embed_of,
    position_of,
    stage_models,
    stages_of,
    token_mixer_of,
)
from vitbench.model.objective import objective_of
from vitbench.model.resnet_tensors import resnet_tensors
from vitbench.model.sizes import known, transformer
from vitbench.model.tensors import SCHEMES, Tensor, norm
from vitbench.spec.trial import ModelSpec, ObjectiveSpec


@functools.lru_cache(maxsize=1024)
def parameters(model: ModelSpec, objective: ObjectiveSpec) -> tuple[Tensor, ...]:
    """Every tensor of the model's `state_dict`, for a resolved spec; the objective adds its heads."""
    if model.family == "resnet":
        return tuple(t if t.part else replace(t, part="backbone") for t in resnet_tensors(model))
    trained = objective_of(objective)
    frozen, encoder = trained.frozen_parts(model) | set(model.freeze), _encoder(model, trained.encoded(model))
    tensors = (replace(tensor, trained=False) if tensor.part in frozen else tensor for tensor in encoder)
    return (*tensors, *trained.tensors(model))


def position_tables(model: ModelSpec, layer: int) -> tuple[Tensor, ...]:
    """The learned tables added to the input of block `layer`; names are relative to their owner.

    The owner of layer 0 is the model, of a later layer that block.
    """
    return position_of(model).tables(model) if layer == 0 or model.pos_placement == "every_layer" else ()


def _encoder(model: ModelSpec, encoded: ModelSpec) -> Iterator[Tensor]:
    """The encoder's tensors; `encoded` says which tokens its blocks see."""
    shape, scheme = transformer(model), SCHEMES[model.weight_init]
    if shape.class_token:
        yield Tensor("cls_token", (1, 1, shape.embed_dim), scheme.class_token, decay=False, part="class_token")
    if shape.dist_token:
        yield Tensor("dist_token", (1, 1, shape.embed_dim), scheme.register, decay=False, part="dist_token")
    if shape.num_registers:
        registers = (1, shape.num_registers, shape.embed_dim)
        yield Tensor("reg_token", registers, scheme.register, decay=False, part="registers")
    yield from (table.at("", "position") for table in position_tables(model, 0))
    yield from (tensor.at("patch_embed", "patch_embed") for tensor in patch_embed_of(model).tensors(model))
    for number, (stage, layer, before) in enumerate(blocks_of(encoded)):
        merge = () if before is None else stages_of(model).merge_tensors(before, stage)
        yield from (tensor.at(f"blocks.{number}.merge", "stages") for tensor in merge)
        yield from (tensor.at(f"blocks.{number}") for tensor in block_tensors(stage, layer))
    if encoded.final_norm != "none":
        name, width = "norm" if encoded.final_norm == "before_pool" else "fc_norm", stage_models(model)[-1].embed_dim
        yield from (replace(tensor, part="final_norm") for tensor in norm(name, known(width), shift=_has_shift(model)))


def block_tensors(model: ModelSpec, layer: int) -> Iterator[Tensor]:
    """The tensors of block `layer`, by their name in the block."""
    mixer = token_mixer_of(model)
    if layer > 0:
        yield from (table.at("", "position") for table in position_tables(model, layer))
    yield from _block_norm(model, "norm1")
    yield from (tensor.at(mixer.slot, "token_mixer") for tensor in mixer.tensors(model))
    yield from (table.at(mixer.slot, "position") for table in position_of(model).attention_tables(model))
    yield from _layer_scale(model, "ls1")
    if model.without != "mlp":
        yield from _block_norm(model, "norm2")
        yield from (tensor.at("mlp", "channel_mixer") for tensor in channel_mixer_of(model).tensors(model))
        yield from _layer_scale(model, "ls2")


def _block_norm(model: ModelSpec, name: str) -> Iterator[Tensor]:
    width = transformer(model).embed_dim
    scale_and_shift = () if model.without == "norm" else norm(name, width, shift=_has_shift(model))
    yield from (replace(tensor, part="block_norm") for tensor in scale_and_shift)


def _has_shift(model: ModelSpec) -> bool:
    """True if norms have a learned shift."""
    return model.block_norm != "rms"


def _layer_scale(model: ModelSpec, name: str) -> Iterator[Tensor]:
    if model.layer_scale is not None:
        width, init = transformer(model).embed_dim, f"constant:{model.layer_scale!r}"
        yield Tensor(f"{name}.gamma", (width,), init, part="layer_scale")
