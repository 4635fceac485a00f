"""A trial's weights as transformers' `ViTForImageClassification` reads them, or the reason why it cannot.

Its ViT reads the class token, adds one learned position per token at the stem, and norms before it pools.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vitbench.base.errors import InputError
from vitbench.inspection.export import VIT, architecture
from vitbench.model.objective import objective_of
from vitbench.spec.trial import TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

REFUSED = "transformers' ViT cannot hold this model"
FREE = ("img_size", "in_chans", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "pos_embed",
        "no_embed_class")  # fmt: skip
"""Arguments of timm's ViT for which transformers' has an equal, whatever their value."""
FIXED = {"class_token": True, "global_pool": "token", "final_norm": True, "fc_norm": False}
"""Arguments that its ViT has at one value only."""
PROCESSOR_FILE = "preprocessor_config.json"
BLOCK_NAMES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
NAMES = {
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "norm": "vit.layernorm",
    "head": "classifier",
}


def timm_arguments(spec: TrialSpec) -> dict[str, Any]:
    """timm's arguments of a model that transformers' ViT can hold as well.

    Raises InputError with the reason: what timm cannot hold, and any argument that its ViT has no equal for.
    """
    if not objective_of(spec.train.objective).predicts_classes:
        raise InputError(f"{REFUSED}: train.objective.name {spec.train.objective.name} trains no classifier")
    chosen = architecture(spec.model, spec.train.objective)
    if chosen.name != VIT:
        raise InputError(f"{REFUSED}: model.family {spec.model.family}; it has vit")
    for key, value in chosen.model_args.items():
        if key not in FREE and (key not in FIXED or FIXED[key] != value):
            raise InputError(f"{REFUSED}: {key} is {value} in timm's terms; it has {FIXED.get(key, 'no such part')}")
    return chosen.model_args


def vit_config(args: Mapping[str, Any], num_classes: int, class_names: list[str]) -> dict[str, Any]:
    """The content of config.json, a `ViTConfig`."""
    height, width = args["img_size"]
    names = class_names or [f"class {number}" for number in range(num_classes)]
    return {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": args["embed_dim"],
        "num_hidden_layers": args["depth"],
        "num_attention_heads": args["num_heads"],
        "intermediate_size": int(args["embed_dim"] * args["mlp_ratio"]),
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "image_size": height if height == width else [height, width],
        "patch_size": args["patch_size"],
        "num_channels": args["in_chans"],
        "qkv_bias": args["qkv_bias"],
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }


def processor_config(args: Mapping[str, Any], standardised: Mapping[str, list[float]]) -> dict[str, Any]:
    """The content of preprocessor_config.json: resize to the model's size, scale to [0, 1], standardise."""
    height, width = args["img_size"]
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": standardised["mean"],
        "image_std": standardised["std"],
    }


def vit_state(args: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's tensors under transformers' names: query, key and value apart, positions as one row per token."""
    import torch

    rows = 1 + math.prod(side // args["patch_size"] for side in args["img_size"])
    positions = torch.zeros(1, rows, args["embed_dim"])
    if (table := state.get("pos_embed")) is not None:
        positions[:, rows - table.shape[1] :] = table
    out = {NAMES["pos_embed"]: positions}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        if layer.endswith("attn.qkv"):
            block = f"vit.encoder.layer.{layer.split('.')[1]}.attention.attention"
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                out[f"{block}.{part}.{kind}"] = third.clone()
        elif layer.startswith("blocks."):
            _, number, inner = layer.split(".", 2)
            out[f"vit.encoder.layer.{number}.{BLOCK_NAMES[inner]}.{kind}"] = tensor
        elif name != "pos_embed":
            out[NAMES[name] if name in NAMES else f"{NAMES[layer]}.{kind}"] = tensor
    return out
