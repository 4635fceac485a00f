"""What a model costs, in closed form from its spec: parameters, multiply-adds, training FLOPs. No torch.

A multiply-add (MAC) is 2 FLOPs; training costs 3 forward passes, less the gradients of weights that `model.freeze`
names (those of the blocks' inputs are counted, even where nothing before them trains). Counted are matrix products and
convolutions; norms, activations, softmax, weight standardisation and rotations are not (nor does torch's
FlopCounterMode count them).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import get_args

from vitbench.model.mechanisms import blocks_of, patch_embed_of, stage_models, token_mixer_of
from vitbench.model.objective import STUDENT, TRAIN_PER_FORWARD, Pass, objective_of
from vitbench.model.parameters import parameters
from vitbench.model.part_problems import part_problems
from vitbench.model.sizes import grid, known, num_tokens, pixel_grid, pixel_words, total_stride
from vitbench.spec.trial import ModelSpec, ObjectiveSpec, Part, TrialSpec

__all__ = [
    "check", "forward_flops", "forward_macs", "grid", "network_flops", "num_params", "num_tokens", "parameters",
    "pass_flops", "total_stride", "train_flops", "trial_flops",
]  # fmt: skip

FLOPS_PER_MAC = 2


def num_params(model: ModelSpec, objective: ObjectiveSpec) -> int:
    """The number of trained elements; running statistics are not trained."""
    return sum(tensor.size for tensor in parameters(model, objective) if tensor.trained)


def forward_macs(model: ModelSpec, objective: ObjectiveSpec) -> dict[str, int]:
    """Multiply-adds of one image's forward pass, by module name; products without a weight have names of their own."""
    macs = {
        tensor.name.removesuffix(".weight"): tensor.size * tensor.uses
        for tensor in parameters(model, objective)
        if tensor.uses
    }
    if model.family == "resnet":
        return macs
    macs |= {f"patch_embed.{name}": count for name, count in patch_embed_of(model).macs(model).items()}
    trained = objective_of(objective)
    return macs | product_macs(trained.encoded(model)) | trained.macs(model)


def product_macs(model: ModelSpec) -> dict[str, int]:
    """Multiply-adds of the blocks' products that use no weight, for one image, by name."""
    macs = dict[str, int]()
    for number, (stage, layer, _) in enumerate(blocks_of(model)):
        mixer = token_mixer_of(stage)
        macs |= {f"blocks.{number}.{mixer.slot}.{name}": count for name, count in mixer.macs(stage, layer).items()}
    return macs


def hidden_flops(model: ModelSpec) -> int:
    """FLOPs of one image's forward pass that a mixer computes and hides under a mask; not part of `forward_flops`."""
    if model.family == "resnet":
        return 0
    return FLOPS_PER_MAC * sum(token_mixer_of(stage).hidden_macs(stage, layer) for stage, layer, _ in blocks_of(model))


def forward_flops(model: ModelSpec, objective: ObjectiveSpec) -> int:
    """FLOPs of one image's forward pass: 2 per multiply-add."""
    return _forward_flops(model, objective)


@functools.lru_cache(maxsize=4096)
def _forward_flops(model: ModelSpec, objective: ObjectiveSpec) -> int:
    return FLOPS_PER_MAC * sum(forward_macs(model, objective).values())


def pass_flops(
    model: ModelSpec, objective: ObjectiveSpec, others: Mapping[str, int] | None = None
) -> list[tuple[Pass, int]]:
    """The forward passes of one training step and the FLOPs of all views of one image in each.

    `others` gives the FLOPs of one forward pass of each network of another stage, by role.
    """
    passes = objective_of(objective).passes(model)
    return [(each, each.num_views * _view_flops(model, objective, each, others or {})) for each in passes]


def _view_flops(model: ModelSpec, objective: ObjectiveSpec, step_pass: Pass, frozen: Mapping[str, int]) -> int:
    """FLOPs of one view through the trained network, through an average of it, or through a frozen network."""
    if step_pass.role in frozen:
        return frozen[step_pass.role]
    if step_pass.img_size is not None:
        model = model.model_copy(update={"img_size": step_pass.img_size})
    return forward_flops(model, objective)


def train_flops(
    model: ModelSpec, objective: ObjectiveSpec, num_images: int, others: Mapping[str, int] | None = None
) -> int:
    """FLOPs of training on `num_images` images (repeats counted): all networks, and the trained one's backward pass.

    `others` gives the FLOPs of one forward pass of each network of another stage, by role.

    Source: Dosovitskiy et al. 2021, Table 6, whose exaFLOPs this reproduces.
    """
    passes = pass_flops(model, objective, others)
    flops_per_image = sum(flops * (TRAIN_PER_FORWARD if each.role == STUDENT else 1) for each, flops in passes)
    if model.freeze:
        trained_passes = [each for each, _ in passes if each.role == STUDENT]
        flops_per_image -= sum(each.num_views * _frozen_flops(model, objective, each) for each in trained_passes)
    return num_images * flops_per_image


def _frozen_flops(model: ModelSpec, objective: ObjectiveSpec, step_pass: Pass) -> int:
    """FLOPs that the gradients of the weights that `model.freeze` names would take, for one view."""
    seen = model if step_pass.img_size is None else model.model_copy(update={"img_size": step_pass.img_size})
    tensors = (tensor for tensor in parameters(seen, objective) if tensor.part in model.freeze)
    return FLOPS_PER_MAC * sum(tensor.size * tensor.uses for tensor in tensors)


def trial_flops(spec: TrialSpec, networks: Mapping[str, TrialSpec], num_pool: int = 0) -> int:
    """FLOPs of all training of one resolved trial, with the forward passes of `networks` of other stages, by role.

    `num_pool` images get their labels from a network before the first step.
    """
    train, others = spec.train, network_flops(networks)
    steps = train_flops(spec.model, train.objective, known(train.steps) * train.batch_size, others)
    return steps + labelling_flops(train.objective, num_pool, others)


def labelling_flops(objective: ObjectiveSpec, num_pool: int, others: Mapping[str, int]) -> int:
    """FLOPs of the forward passes by which a network of another stage labels `num_pool` images."""
    labeller = objective_of(objective).labeller
    return 0 if labeller is None else num_pool * others[labeller]


def network_flops(networks: Mapping[str, TrialSpec]) -> dict[str, int]:
    """FLOPs of one image's forward pass through each network of another stage, by role."""
    return {role: forward_flops(spec.model, spec.train.objective) for role, spec in networks.items()}


def check(model: ModelSpec, objective: ObjectiveSpec | None = None) -> list[str]:
    """Why a resolved spec cannot be built, one line each, with what would fit; empty if it can."""
    trained = objective_of(objective or ObjectiveSpec())
    problems = [] if model.family == "vit" else _backbone_problems(model)
    if model.family == "resnet":
        if model.head != "linear":
            problems.append(f"model.head: {model.head} is a transformer's; a ResNet's is linear")
        if model.freeze:
            problems.append(f"model.freeze: {', '.join(model.freeze)}: parts of a transformer; a ResNet trains whole")
        if model.parallel > 1:
            problems.append(f"model.parallel: {model.parallel} blocks of a transformer; a ResNet has none; set 1")
    elif not problems:
        problems = part_problems(model)
    problems = problems + trained.problems(model)
    if model.freeze and not problems:
        problems = _freeze_problems(model, objective or ObjectiveSpec())
    if model.family == "vit" and not problems and not trained.predicts_classes and len(stage_models(model)) > 1:
        problems = [f"train.objective: {trained.text()} works on one grid; set model.stages: flat"]
    if model.dist_token and "dist_token" not in trained.gives:
        problems.append(
            f"model.dist_token: train.objective {trained.text()} trains no second token; classify and distill do"
        )
    if model.family == "resnet" and not problems and not trained.predicts_classes:
        problems.append(f"train.objective: {trained.text()} has heads of its own, and a ResNet has only a classifier's")
    return problems


def _freeze_problems(model: ModelSpec, objective: ObjectiveSpec) -> list[str]:
    """Parts to freeze that the model does not have."""
    present = {tensor.part for tensor in parameters(model, objective)}
    where = ", ".join(sorted(present & set(get_args(Part))))
    missing = [part for part in model.freeze if part not in present]
    return [f"model.freeze: this model has no weights in {part}; they are in {where}" for part in missing]


def _backbone_problems(model: ModelSpec) -> list[str]:
    stages = len(known(model.layers))
    if stages > 4:
        return [f"model.layers: {stages} stages; at most 4"]
    stride = total_stride(model)
    if min(pixel_grid(model)) < stride:
        small = " (root: small makes it 4 times smaller)" if model.root == "imagenet" else ""
        size = f"images of {pixel_words(model)} px under a total stride of {stride}"
        return [f"model: the feature map is empty: {size}{small}"]
    return []
