"""A trial's weights as timm reads them: `model.safetensors` and `config.json`, or the reason why timm cannot.

Names are timm's already; what changes is the position table, which timm has only as one learned row a token. The
configuration is what timm's own `save_for_hf` would write of the same model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitbench.base.durable import replace_durably
from vitbench.base.errors import InputError, ResultsError, nearest
from vitbench.data import DataOptions, facts
from vitbench.model.mechanisms import Part, parts_of, position_of, stage_models
from vitbench.model.objective import Objective, objective_of
from vitbench.model.parameters import parameters
from vitbench.model.sizes import backbone, known, pixel_grid, transformer
from vitbench.model.weights.start import WEIGHTS_FILE
from vitbench.model.weights.timm_names import Family, family_of, in_timms_names
from vitbench.spec.trial import ModelSpec, ObjectiveSpec, TrialSpec
from vitbench.store.record import Record
from vitbench.store.trials import Store

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE = "config.json"
MAX_LISTED = 5
VIT = "vit_base_patch16_224"
"""Any of timm's plain ViTs: `model_args` say all that differs from it."""
HYBRIDS: Mapping[tuple[int, ...], str] = {
    (3, 4, 9): "vit_base_r50_s16_224",
    (2, 2, 2, 2): "vit_base_r26_s32_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}
"""timm fixes a hybrid's backbone by the model's name; the rest is in `model_args`."""
BIT: Mapping[tuple[tuple[int, ...], float], str] = {
    ((3, 4, 6, 3), 1.0): "resnetv2_50x1_bit",
    ((3, 4, 6, 3), 3.0): "resnetv2_50x3_bit",
    ((3, 4, 23, 3), 1.0): "resnetv2_101x1_bit",
    ((3, 4, 23, 3), 3.0): "resnetv2_101x3_bit",
    ((3, 8, 36, 3), 2.0): "resnetv2_152x2_bit",
    ((3, 8, 36, 3), 4.0): "resnetv2_152x4_bit",
}
BATCH_NORM = "resnetv2_50"
"""timm's ViT that accepts any depth and width in `model_args`."""


@dataclass(frozen=True)
class Architecture:
    """A model in timm's terms; `prefix` leads to its backbone's or projection's first convolution."""

    name: str
    model_args: dict[str, Any]
    first_conv: str
    classifier: str


def find_trial(store: Store, text: str) -> Record:
    """The record of a trial id or of the beginning of one. Raises InputError if no trial or several trials match."""
    ids = sorted(path.parent.name for path in store.trials.glob("*/record.json"))
    matches = [trial_id for trial_id in ids if trial_id.startswith(text)]
    if len(matches) > 1:
        listed = ", ".join(matches[:MAX_LISTED]) + (", ..." if len(matches) > MAX_LISTED else "")
        raise InputError(f"trial {text!r}: {len(matches)} trials in {store.root} begin with it: {listed}")
    if not matches:
        raise InputError(f"trial {text!r}: none of the {len(ids)} trials in {store.root}.{nearest(text, ids)}")
    record = store.read(matches[0])
    assert record is not None
    return record


def kept_weights(record: Record, store: Store) -> Path:
    """The file of a finished trial's weights. Raises InputError if it left none, or they were not kept."""
    path = store.weights(record.trial_id)
    if record.status != "ok":
        raise InputError(f"trial {record.trial_id} {record.status}: {record.reason}; it left no weights")
    if not path.is_file():
        raise InputError(
            f"trial {record.trial_id}: its weights were not kept (--keep all keeps also those of tuning trials); "
            f"move {store.folder(record.trial_id)} away and run its experiment again"
        )
    return path


def export(record: Record, store: Store, folder: Path, data: DataOptions) -> Architecture:
    """Write a trial's weights and configuration into a new folder; what timm calls the model.

    Raises InputError if timm has no such model, the weights were not kept, or the folder is in use.
    """
    spec = record.trial_spec
    chosen = architecture(spec.model, spec.train.objective)
    weights = kept_weights(record, store)
    require_new_folder(folder)
    described = _config(spec, chosen, *standardisation(spec, record, data))
    from vitbench.train.checkpoint import pack, read_weights

    replace_durably(folder / WEIGHTS_FILE, pack(timm_state(spec, read_weights(weights))))
    replace_durably(folder / CONFIG_FILE, (json.dumps(described, indent=2) + "\n").encode())
    return chosen


def require_new_folder(folder: Path) -> None:
    """Raise InputError if the folder is in use."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--to {folder}: is there already and not empty; name a new folder")


def architecture(model: ModelSpec, objective: ObjectiveSpec) -> Architecture:
    """timm's name for a resolved model, and its arguments. Raises InputError with the reason where timm has none."""
    if model.family == "resnet":
        if reason := _resnet_obstacle(model):
            raise InputError(f"timm cannot hold this model: {reason}")
        bit = BIT.get((known(model.layers), known(model.width_factor)))
        args = {"layers": list(known(model.layers)), "width_factor": model.width_factor, "stem_type": "fixed"}
        name, args = (BATCH_NORM, args) if model.norm_layer == "batch" else (known(bit), {})
        return Architecture(name, args, "stem.conv", "head.fc")
    if (family := family_of(model)) is not None:
        return _of_family(model, family, objective)
    args = _vit_args(model, objective)
    if model.family != "hybrid":
        return Architecture(VIT, args, "patch_embed.proj", "head")
    if reason := _backbone_obstacle(model):
        raise InputError(f"timm cannot hold this model: {reason}")
    return Architecture(HYBRIDS[known(model.layers)], args, "patch_embed.backbone.stem.conv", "head")


def _of_family(model: ModelSpec, family: Family, objective: ObjectiveSpec) -> Architecture:
    """timm's Swin, PoolFormer or MLP-Mixer. Raises InputError with the reason where timm has none like `model`."""
    heads, answer = objective_of(objective).timm(model), family.arguments(model)
    for part in (heads, answer):
        if isinstance(part, str):
            raise InputError(f"timm cannot hold this model: {part}")
    assert not isinstance(answer, str)
    return Architecture(*answer, family.first_conv, family.classifier)


def _vit_args(model: ModelSpec, objective: ObjectiveSpec) -> dict[str, Any]:
    """Arguments of timm's VisionTransformer, as the model's parts give them.

    Raises InputError with the reason of the first part that timm cannot build: a part that says nothing is refused.
    """
    args: dict[str, Any] = {
        "img_size": list(pixel_grid(model)),
        "in_chans": model.in_chans,  # timm builds a hybrid's backbone before it reads input_size
        "patch_size": model.patch_size,
        "embed_dim": model.embed_dim,
        "depth": model.depth,
        "class_token": model.class_token,
        "final_norm": model.final_norm != "none",
        "fc_norm": model.final_norm == "after_pool",
    }
    if model.reg_tokens:
        args["reg_tokens"] = model.reg_tokens
    if model.layer_scale is not None:
        args["init_values"] = model.layer_scale
    if other := _other_than(
        model, {"without": None, "parallel": 1, "block_norm": "layer", "norm_eps": ModelSpec().norm_eps}
    ):
        raise InputError(f"timm cannot hold this model: {other}")
    parts: list[Part | Objective] = [position_of(model), *parts_of(model), objective_of(objective)]
    for part in parts:
        answer = part.timm(model)
        if isinstance(answer, str):
            raise InputError(f"timm cannot hold this model: {answer}")
        args |= answer
    return args


def _backbone_obstacle(model: ModelSpec) -> str | None:
    if known(model.layers) not in HYBRIDS:
        return f"model.layers {list(known(model.layers))}; its hybrids have {_words(HYBRIDS)}"
    fixed = {
        "root": "imagenet",
        "width_factor": 1.0,
        "norm_layer": "group",
        "weight_standardize": True,
        "preact": False,
    }
    return _other_than(model, fixed)


def _resnet_obstacle(model: ModelSpec) -> str | None:
    common = {"root": "imagenet", "preact": True}
    if model.norm_layer == "batch":
        return _other_than(model, {**common, "weight_standardize": False})
    if (known(model.layers), known(model.width_factor)) not in BIT:
        sizes = "; ".join(f"{list(layers)} x {width:g}" for layers, width in BIT)
        return f"model.layers {list(known(model.layers))} x {model.width_factor:g}; with GroupNorm it has {sizes}"
    return _other_than(model, {**common, "weight_standardize": True})


def _other_than(model: ModelSpec, fixed: Mapping[str, Any]) -> str | None:
    """The first field that is not as timm fixes it."""
    for key, value in fixed.items():
        if getattr(model, key) != value:
            return f"model.{key} {getattr(model, key)}; its {model.family}s have {value}"
    return None


def _words(layers: Mapping[tuple[int, ...], str]) -> str:
    return ", ".join(str(list(key)) for key in layers)


def timm_state(spec: TrialSpec, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A trial's tensors under timm's names: what predicts masked patches dropped, positions as one table."""
    from vitbench.model.build import build

    table = {tensor.name: tensor for tensor in parameters(spec.model, spec.train.objective)}
    predicts = objective_of(spec.train.objective).predicts_classes
    out = {name: tensor for name, tensor in state.items() if predicts or table[name].role != "task"}
    if spec.model.family == "resnet":
        return out
    if (family := family_of(spec.model)) is not None:
        return in_timms_names(out, spec.model, family)
    module = build(spec.model, spec.train.objective)
    module.load_state_dict(state)
    positions: Tensor | None = module.positions(0, state["patch_embed.proj.weight"].device)  # type: ignore[operator]
    if positions is None:
        return out
    shape, position = transformer(spec.model), position_of(spec.model)
    rows = positions if position.class_row(spec.model) else positions[:, shape.num_prefix :]
    return {**{name: t for name, t in out.items() if table[name].part != "position"}, "pos_embed": rows.detach()}


def standardisation(spec: TrialSpec, record: Record, options: DataOptions) -> tuple[dict[str, Any], list[str]]:
    """What standardised the trial's inputs, and its classes' names (none where the data set has none).

    Raises ResultsError if the data set has changed.
    """
    import torch

    from vitbench.train.resident import load_images

    images = load_images(spec.data, options, torch.device("cpu"))
    if images.fingerprint != record.data_fingerprint:
        raise ResultsError(
            f"trial {record.trial_id}: {spec.data.name} differs from the images that it was trained on, "
            "so the mean and deviation of its inputs are unknown"
        )
    names = facts(spec.data.name, options).class_names
    class_names = [names[c] for c in spec.data.labels or range(images.num_classes)] if names else []
    return {"mean": images.mean.flatten().tolist(), "std": images.std.flatten().tolist()}, class_names


def _config(spec: TrialSpec, chosen: Architecture, standardised: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The content of config.json, in the layout of timm's `save_config_for_hf`."""
    model = spec.model
    classifies = objective_of(spec.train.objective).predicts_classes
    num_classes = known(model.num_classes) if classifies else 0
    return {
        "architecture": chosen.name,
        "num_classes": num_classes,
        "num_features": backbone(model).width if model.family == "resnet" else stage_models(model)[-1].embed_dim,
        "global_pool": "avg" if model.family == "resnet" else model.global_pool,
        **({"label_names": names} if names and classifies else {}),
        "model_args": chosen.model_args,
        "pretrained_cfg": {
            "input_size": [model.in_chans, *pixel_grid(model)],
            "fixed_input_size": model.family != "resnet",
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            **standardised,
            "num_classes": num_classes,
            "pool_size": None,
            "first_conv": chosen.first_conv,
            "classifier": chosen.classifier,
        },
    }
