"""From a spec as written to the one normal form that is trained and hashed: names expanded, derived fields filled,
fields without effect set back to their defaults, the duration turned into steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vitbench.base.errors import InputError
from vitbench.data import Facts, partition_sizes
from vitbench.data.class_names import class_positions
from vitbench.data.image_columns import ALWAYS
from vitbench.data.splits import pool_size
from vitbench.model import costs
from vitbench.model.mechanisms import Readout, Stages, unread_fields
from vitbench.model.objective import STUDENT, Objective, objective_of, spec_of
from vitbench.plan.probes import resolved_probes
from vitbench.spec.mechanism import mechanism
from vitbench.spec.model_names import variant
from vitbench.spec.trial import (
    DURATIONS,
    DataSpec,
    EvaluateSpec,
    ModelSpec,
    TrainSpec,
    TrialSpec,
    sides,
    size_words,
)

MIN_STEPS = 50
"""A FLOPs budget that gives fewer optimizer steps than this is refused."""

VIT_FIELDS = (
    "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "class_token", "dist_token",
    "reg_tokens", "final_norm", "head", "pos_embed", "pos_placement", "no_embed_class", "relative_clip", "stem",
    "global_pool", "token_mixer", "channel_mixer", "stages", "block_norm", "norm_eps", "layer_scale", "without",
)  # fmt: skip
LABELLED = ("smoothing", "cutmix", "mixup_switch_prob", "reprob", "remode", "class_weights", "weight_decay_head")
"""Fields of `train` that only training with labels reads."""
RESNET_FIELDS = ("layers", "width_factor", "root", "norm_layer", "weight_standardize", "preact")


def resolve(spec: TrialSpec, facts: Facts, networks: Mapping[str, TrialSpec] | None = None) -> TrialSpec:
    """The normal form of `spec` on the data that `facts` describes.

    `networks` are the resolved specs of earlier stages whose networks the objective reads, by role.

    Raises InputError, one line per problem, if data and model clash or no duration is given.
    """
    grey = spec.model.in_chans == 1 and spec.data.in_chans is None
    data = _data(spec.data.model_copy(update={"in_chans": 1}) if grey else spec.data, facts)
    partition_sizes(facts.counts, data)  # Raises InputError if a class would have no image.
    model = _model(spec.model, data, facts)
    problems = costs.check(model, spec.train.objective)
    if problems:
        raise InputError("\n".join(problems))
    train = _train(spec.train, model, data, facts, networks or {})
    if objective_of(train.objective).predicts_classes:
        evaluate = resolved_probes(spec.evaluate, model, data, facts)
        return TrialSpec(model=model, data=data, train=train, evaluate=evaluate)
    # A stage without labels has no classes to tell apart, and none to probe.
    model = model.model_copy(update={"head": ModelSpec().head})
    evaluate = EvaluateSpec(test=spec.evaluate.test) if objective_of(train.objective).scores_named else EvaluateSpec()
    return TrialSpec(model=model, data=data, train=train, evaluate=evaluate)


def _data(data: DataSpec, facts: Facts) -> DataSpec:
    img_size = data.img_size or facts.img_size
    if img_size is None:
        raise InputError(f"data {facts.name}: images of unequal size; set data.img_size, as in --set data.img_size=64")
    classes = data.classes
    if classes is not None:
        classes = class_positions(classes, facts.class_names)
        classes = None if len(classes) == facts.num_classes else classes
    flip = facts.flip if data.flip is None else data.flip
    fraction = DataSpec().val_fraction if facts.val_counts else data.val_fraction
    in_chans = None if data.in_chans == facts.in_chans else data.in_chans
    # How images are read is part of the name, and of the fingerprint that stands for it in a trial's identity.
    reading = {"name": data.source, "scale": None, "split": "random", "val_fraction": fraction}
    return data.model_copy(
        update={"img_size": img_size, "classes": classes, "flip": flip, "in_chans": in_chans, **reading}
    )


def patch_suits(patch: int, img_size: int | tuple[int, int]) -> bool:
    """Whether a patch divides images of this size into no more patches than `default_patch` allows."""
    longest = max(sides(img_size))
    return math.gcd(*sides(img_size)) % patch == 0 and longest // patch <= (8 if longest <= 64 else 14)


def default_patch(img_size: int | tuple[int, int]) -> int | None:
    """The smallest p >= 2 that divides both sides into at most 8 patches (14 above 64 px); None if there is none.

    So 8, 28, 32, 64 and 224 px get 2, 4, 4, 8 and 16, the last as in the paper's ViT-B/16.
    """
    common, longest = math.gcd(*sides(img_size)), max(sides(img_size))
    most = 8 if longest <= 64 else 14
    return next((p for p in range(2, common + 1) if common % p == 0 and longest // p <= most), None)


def _model(model: ModelSpec, data: DataSpec, facts: Facts) -> ModelSpec:
    named = variant(model.name) if model.name else {}
    written = model.model_dump(exclude_unset=True, exclude={"name"})
    written = {key: value for key, value in written.items() if value is not None}
    stages: Stages = mechanism("stages", written.get("stages") or named.get("stages") or ModelSpec().stages)
    depth = {} if stages.num_blocks() is None else {"depth": stages.num_blocks()}
    fields: dict[str, Any] = {**named, **depth, **written}
    family = fields.setdefault("family", "vit")
    assert data.img_size is not None
    of_data = {
        "img_size": data.img_size,
        "in_chans": data.in_chans or facts.in_chans,
        "num_classes": len(data.classes) if data.classes is not None else facts.num_classes,
    }
    for key, value in of_data.items():
        if fields.get(key, value) != value:
            raise InputError(f"model.{key}: {fields[key]} does not fit the data {facts.name}, which have {value}")
    fields.update(of_data)
    if family != "resnet":
        _fill_vit(fields, data.img_size)
    if family != "vit":
        fields.setdefault("root", "small" if max(sides(data.img_size)) <= 64 else "imagenet")
        fields.setdefault("preact", family == "resnet")
        fields.setdefault("width_factor", 1.0)
    return _without_idle_fields(ModelSpec(**fields))


def _fill_vit(fields: dict[str, Any], img_size: int | tuple[int, int]) -> None:
    """The transformer's derived fields, in place."""
    for key, value in variant("Mu").items():
        if key != "family":
            fields.setdefault(key, value)
    if fields.get("patch_size") is None:
        fields["patch_size"] = 1 if fields["family"] == "hybrid" else default_patch(img_size)
    if fields["patch_size"] is None:
        raise InputError(
            f"no patch size divides images of {size_words(img_size)} px into few enough patches; set model.patch_size"
        )
    readout: Readout = mechanism("readout", fields.get("global_pool", ModelSpec().global_pool))
    fields.setdefault("class_token", "class_token" in readout.needs)


def _without_idle_fields(model: ModelSpec) -> ModelSpec:
    """Fields that change nothing for this model, back at their defaults, so that equal functions have equal ids."""
    idle: list[str] = ["name"]
    if model.family == "resnet":
        idle += VIT_FIELDS
    elif model.family == "vit":
        idle += RESNET_FIELDS
    if model.family != "resnet":
        idle += unread_fields(model)
        idle += {"mlp": ["channel_mixer"], "norm": ["block_norm"]}.get(model.without or "", [])
    defaults = ModelSpec()
    return model.model_copy(update={key: getattr(defaults, key) for key in idle})


def _train(
    train: TrainSpec, model: ModelSpec, data: DataSpec, facts: Facts, networks: Mapping[str, TrialSpec]
) -> TrainSpec:
    given = [key for key in DURATIONS if getattr(train, key) is not None]
    if len(given) != 1:
        written = ", ".join(f"train.{key}" for key in given) or "none of them"
        raise InputError(f"train: exactly one of {', '.join(DURATIONS)} must be given; found {written}")
    objective = objective_of(train.objective).resolved(model)
    _check_objective(objective, model, train, facts, networks)
    _check_columns(objective, train, data, facts)
    _check_pool(objective, data, facts)
    steps = num_steps(train, model, data, facts, costs.network_flops(networks))
    mixup = train.mixup if train.mixup is not None else 0.2 if train.augment == "medium" else 0.0
    update: dict[str, Any] = {"epochs": None, "images": None, "train_flops": None, "steps": steps, "mixup": mixup}
    update |= _recipe(train, mixup, model)
    if train.opt == "adamw":
        update["momentum"] = TrainSpec().momentum
    update["objective"] = spec_of(objective)
    if objective.kept != STUDENT:
        update |= {key: getattr(TrainSpec(), key) for key in ("model_ema", "model_ema_decay", "model_ema_warmup")}
    update |= {key: getattr(TrainSpec(), key) for key in LABELLED if key not in objective.reads}
    if "mixup" not in objective.reads:
        update["mixup"] = 0.0
    return train.model_copy(update=update)


def _check_objective(
    objective: Objective, model: ModelSpec, train: TrainSpec, facts: Facts, networks: Mapping[str, TrialSpec]
) -> None:
    """Raise InputError if a network or a crop is missing, or if the batch may not be cut."""
    if missing := [role for role in objective.frozen_roles if role not in networks]:
        raise InputError(
            f"train.objective {objective.text()} needs another network ({', '.join(missing)}) from an earlier stage; "
            f"name it in the stage, as in uses: {{{missing[0]}: STAGE}}"
        )
    if objective.num_views > 1 and train.augment == "none" and not objective.cuts_views:
        raise InputError(f"train.objective {objective.text()} compares views of an image; set train.augment: light")
    if objective.compares_images and train.grad_accum > 1:
        raise InputError(
            f"train.grad_accum: {objective.text()} compares the images of a batch, so {train.grad_accum} micro-batches "
            "are another training; set 1"
        )
    if objective.averaged_roles and model.family != "vit" and model.norm_layer == "batch":
        raise InputError(
            f"train.objective {objective.text()}: BatchNorm's running statistics belong to the current weights, not to "
            "their average; set model.norm_layer: group"
        )


def _check_columns(objective: Objective, train: TrainSpec, data: DataSpec, facts: Facts) -> None:
    """Raise InputError if the data lack a column that the objective reads, or if it would not fit the images."""
    columns = sorted(objective.columns - ALWAYS)
    if missing := [column for column in columns if column not in facts.columns]:
        raise InputError(
            f"train.objective {objective.text()} reads {', '.join(missing)}; {facts.name} has no such column"
        )
    if columns and train.augment != "none":
        raise InputError(
            f"train.augment: {train.augment} moves the pixels, and {', '.join(columns)} would stay where they are; "
            "set none"
        )
    if columns and facts.img_size is not None and data.img_size != facts.img_size:
        raise InputError(
            f"data.img_size: {size_words(data.img_size or 0)} px, and {', '.join(columns)} are for images of "
            f"{size_words(facts.img_size)} px; leave it out"
        )
    for column in columns:
        if column in ("boxes", "masks") and data.classes is not None:
            raise InputError(f"data.classes: {column} show all classes of an image; leave it out")
    if problems := objective.data_problems(facts):
        raise InputError("\n".join(problems))


def _check_pool(objective: Objective, data: DataSpec, facts: Facts) -> None:
    """Raise InputError if images without labels are missing, or if test images are among them."""
    if objective.labelled_share is None:
        return
    if facts.num_test_in_train:
        raise InputError(
            f"train.objective {objective.name}: {facts.num_test_in_train} test images of {facts.name} are also "
            "training images, so the images without labels would include them; remove them"
        )
    if pool_size(facts.counts, data, objective.labelled_share) <= 0:
        raise InputError(
            f"train.objective {objective.name}: labelled_fraction {objective.labelled_share:g} leaves no image without "
            f"a label; the stage trains on data.train_fraction {data.train_fraction:g}"
        )


def _recipe(train: TrainSpec, mixup: float, model: ModelSpec) -> dict[str, Any]:
    """The defaults of recipe fields without effect. Raises InputError for a field that cannot be used."""
    weights, idle = train.class_weights, []
    if isinstance(weights, tuple) and len(weights) != model.num_classes:
        raise InputError(f"train.class_weights: {len(weights)} weights for {model.num_classes} classes")
    if train.model_ema and model.family != "vit" and model.norm_layer == "batch":
        raise InputError(
            "train.model_ema: BatchNorm's running statistics belong to the current weights, not to their average; "
            "set model.norm_layer: group"
        )
    if isinstance(weights, tuple) and len(set(weights)) == 1:
        idle += ["class_weights"]
    if not (mixup and train.cutmix):
        idle += ["mixup_switch_prob"]
    if not train.reprob:
        idle += ["remode"]
    if not train.model_ema:
        idle += ["model_ema_decay", "model_ema_warmup"]
    if train.repeats > 1 and train.augment == "none":
        raise InputError(f"train.repeats: {train.repeats} views of an image are equal with augment none; use light")
    if train.repeats > train.batch_size:
        raise InputError(
            f"train.repeats: {train.repeats} views of an image do not fit in batch_size {train.batch_size}"
        )
    if train.sched != "rsqrt":
        idle += ["timescale_fraction"]
    if train.cooldown_fraction and train.sched in ("cosine", "linear"):
        raise InputError(f"train.cooldown_fraction: sched {train.sched} already falls to 0; use constant or rsqrt")
    if train.warmup_fraction + train.cooldown_fraction > 1.0:
        raise InputError(
            f"train.cooldown_fraction: {train.cooldown_fraction:g} and warmup_fraction {train.warmup_fraction:g} are "
            "more than the whole training"
        )
    if train.weight_decay_head == train.weight_decay:
        idle += ["weight_decay_head"]
    if train.layer_decay == 1.0:
        idle += ["layer_decay"]
    return {key: getattr(TrainSpec(), key) for key in idle}


def num_steps(train: TrainSpec, model: ModelSpec, data: DataSpec, facts: Facts, others: Mapping[str, int]) -> int:
    """Optimizer steps of one training; the one place where a duration is converted.

    `others` gives the FLOPs of one forward pass of each network of an earlier stage, by role.
    """
    batch = train.batch_size
    if train.steps is not None:
        return train.steps
    if train.images is not None:
        return max(1, round(train.images / batch))
    if train.epochs is not None:
        num_train, _ = partition_sizes(facts.counts, data)
        return max(1, round(train.epochs * num_train / batch))
    assert train.train_flops is not None
    step_flops = costs.train_flops(model, train.objective, batch, others)
    num_pool = pool_size(facts.counts, data, objective_of(train.objective).labelled_share)
    steps = int((train.train_flops - costs.labelling_flops(train.objective, num_pool, others)) // step_flops)
    if steps < MIN_STEPS:
        raise InputError(
            f"train.train_flops: {train.train_flops:.3g} gives {steps} steps of {step_flops:.3g} FLOPs; "
            f"needs at least {MIN_STEPS}, which is {MIN_STEPS * step_flops:.3g}"
        )
    return steps
