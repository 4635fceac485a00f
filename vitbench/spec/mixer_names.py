"""Shorthand names of published models with another token mixer: `Swin-T`, `PoolFormer-S12`, `Mixer-S/16`."""

from __future__ import annotations

import re
from typing import Any

FORMS = "Swin-{Mu,T,S,B}, PoolFormer-{Mu,S12,S24}, Mixer-{Mu,S,B,L}/PATCH"

SWIN: dict[str, dict[str, Any]] = {
    "Mu": {"embed_dim": 48, "num_heads": 2, "mlp_ratio": 2.0, "stages": "patch_merging(depths=[2, 2])"},
    "T": {"embed_dim": 96, "num_heads": 3, "stages": "patch_merging(depths=[2, 2, 6, 2])"},
    "S": {"embed_dim": 96, "num_heads": 3, "stages": "patch_merging(depths=[2, 2, 18, 2])"},
    "B": {"embed_dim": 128, "num_heads": 4, "stages": "patch_merging(depths=[2, 2, 18, 2])"},
}
"""Source: Liu et al. 2021, section 3.3. Mu is ours: two stages of two blocks, for small images."""

POOLFORMER: dict[str, dict[str, Any]] = {
    "Mu": {"embed_dim": 48, "mlp_ratio": 2.0, "stages": "convolution(depths=[2, 2])"},
    "S12": {"embed_dim": 64, "stages": "convolution(depths=[2, 2, 6, 2], widths=[128, 320, 512])"},
    "S24": {"embed_dim": 64, "stages": "convolution(depths=[4, 4, 12, 4], widths=[128, 320, 512])"},
}
"""Source: Yu et al. 2022, Table 1. Mu is ours."""

MIXER: dict[str, dict[str, Any]] = {
    "Mu": {"embed_dim": 48, "depth": 2, "mlp_ratio": 2.0},
    "S": {"embed_dim": 512, "depth": 8},
    "B": {"embed_dim": 768, "depth": 12},
    "L": {"embed_dim": 1024, "depth": 24},
}
"""Source: Tolstikhin et al. 2021, Table 1. Mu is ours."""

POOLED: dict[str, Any] = {"family": "vit", "global_pool": "avg", "pos_embed": "none", "mlp_ratio": 4.0}
"""What the three have in common: no class token, no positions, the mean of the last tokens."""
FAMILIES: dict[str, tuple[dict[str, dict[str, Any]], dict[str, Any]]] = {
    "Swin": (SWIN, {"stem": "patchify(norm=true)", "norm_eps": 1e-5, "weight_init": "timm"}),
    "PoolFormer": (
        POOLFORMER,
        {
            "token_mixer": "pool",
            "stem": "overlap",
            "block_norm": "group",
            "layer_scale": 1e-5,
            "final_norm": "after_pool",
            "weight_init": "timm",
        },
    ),
    "Mixer": (MIXER, {"token_mixer": "mlp"}),
}
"""{family: (sizes, what all its models have)}. PoolFormer's final norm is timm's; in the authors' code it is a norm of
one group before the pooling."""
PATCHED = {"Swin": 4, "PoolFormer": 4}
"""The patch size of the published models of a family, whose names do not say it."""

_NAME = re.compile(r"(?P<family>Swin|PoolFormer|Mixer)-(?P<size>[A-Za-z0-9]+)(?:/(?P<patch>[1-9]\d*))?")
TIMM: dict[str, str] = {
    **{f"swin_{word}_patch4_window7_224": f"Swin-{word[0].upper()}/4" for word in ("tiny", "small", "base")},
    **{f"poolformer_{size.lower()}": f"PoolFormer-{size}/4" for size in ("S12", "S24")},
    **{f"mixer_{size.lower()}{patch}_224": f"Mixer-{size}/{patch}" for size in "SBL" for patch in (16, 32)},
}
"""{timm's name: ours}."""


def named(name: str) -> dict[str, Any] | None:
    """The ModelSpec fields that a name means, or None if it is not one of these names."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    sizes, common = FAMILIES[match["family"]]
    if match["size"] not in sizes:
        return None
    fields = {**POOLED, **common, **sizes[match["size"]]}
    published = match["size"] != "Mu"
    if match["family"] == "Swin":
        fields["token_mixer"] = "shifted_window(window_size=7)" if published else "shifted_window"
    patch = match["patch"] or (PATCHED.get(match["family"]) if published else None)
    return fields if patch is None else {**fields, "patch_size": int(patch)}


def all_names(suffix: str) -> list[str]:
    """Every name, with the patch size that the user wrote."""
    return [f"{family}-{size}{suffix}" for family, (sizes, _) in FAMILIES.items() for size in sizes]
