"""Shorthand names of models and their meaning: `ViT-Ti/4`, `Axial-ViT-B/32`, `R26x1`, `R26x1+ViT-Ti/16`.

`mixer_names` has `Swin-T` and the like.
"""

from __future__ import annotations

import re
from typing import Any

from vitbench.base.errors import InputError, nearest
from vitbench.spec import mixer_names

SIZES: dict[str, dict[str, Any]] = {
    "Mu": {"embed_dim": 48, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0},
    "Ti": {"embed_dim": 192, "depth": 12, "num_heads": 3, "mlp_ratio": 4.0},
    "S": {"embed_dim": 384, "depth": 12, "num_heads": 6, "mlp_ratio": 4.0},
    "B": {"embed_dim": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4.0},
    "L": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "mlp_ratio": 4.0},
    "H": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "mlp_ratio": 4.0},
}
"""Source: Dosovitskiy et al. 2021, Table 1 (B, L, H); Touvron et al. 2021 (Ti, S). Mu is ours and trains in seconds on
a CPU. Its depth is 2, because at depth 1 positions at the stem, in every layer and shared are one function."""

LAYERS: dict[int, tuple[int, int, int, int]] = {
    14: (1, 1, 1, 1),
    20: (1, 2, 2, 1),
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
"""Bottleneck blocks per stage. Source: Kolesnikov et al. 2020 (BiT); 14, 20 and 26 are for small budgets."""

HYBRIDS: dict[int, tuple[str, bool]] = {
    32: ("imagenet", False),
    16: ("imagenet", True),
    8: ("small", False),
    4: ("small", True),
}
"""{total stride: (root, True if stage 3 takes the blocks of stage 4)}. Source: Dosovitskiy et al. 2021, section 4.1."""

_VIT = re.compile(r"(?P<axial>Axial-)?(?:ViT-)?(?P<size>[A-Za-z]+)(?:/(?P<patch>\d+))?")
_TIMM_VIT = re.compile(r"(?:vit|deit)_(?P<size>[a-z]+)(?:_r(?P<depth>\d+)_s(?P<stride>\d+)|_patch(?P<patch>\d+))_\d+")
_TIMM_RESNET = re.compile(r"resnetv2_(?P<depth>\d+)x(?P<width>\d+)_bit")
TIMM_SIZES = {"tiny": "Ti", "small": "S", "base": "B", "large": "L", "huge": "H"}
_RESNET = re.compile(r"R(?P<depth>\d+)(?:x(?P<width>\d+(?:\.\d+)?))?")
_FORMS = (
    "a name is ViT-{Mu,Ti,S,B,L,H}/PATCH (axial blocks: Axial-ViT-...), R{14,20,26,50,101,152,200}xWIDTH, both as "
    f"R26x1+ViT-Ti/STRIDE, or {mixer_names.FORMS}; timm's vit_tiny_patch16_224 and the like are accepted"
)


def variant(name: str) -> dict[str, Any]:
    """The ModelSpec fields that a shorthand means, as `{field: value}`.

    In a hybrid's name the last number is the total stride: it decides the root, and whether stage 4 is part of stage 3.
    timm's names of the same models are accepted. Raises InputError for other names, with the nearest ones.
    """
    name = _of_timm(name)
    if (fields := mixer_names.named(name)) is not None:
        return fields
    backbone, plus, transformer = name.rpartition("+")
    if plus:
        return _hybrid(name, backbone, transformer)
    return _resnet(name, name) if _RESNET.fullmatch(name) else _vit(name, name)


def _of_timm(name: str) -> str:
    """`ViT-Ti/16` for `vit_tiny_patch16_224`; other names unchanged. The image size follows the data, not the name.

    Raises InputError if the name also states weights.
    """
    bare, dot, tag = name.partition(".")
    vit, resnet = _TIMM_VIT.fullmatch(bare), _TIMM_RESNET.fullmatch(bare)
    mixer = mixer_names.TIMM.get(bare)
    if not (vit and vit["size"] in TIMM_SIZES) and not resnet and not mixer:
        return name
    if dot:
        raise InputError(
            f"model.name: {name!r} names weights ({tag}); write model.name: {bare}, and for the weights "
            f"model.init_from: timm:{name}"
        )
    if mixer:
        return mixer
    if resnet:
        return f"R{resnet['depth']}x{resnet['width']}"
    assert vit is not None
    size = TIMM_SIZES[vit["size"]]
    return f"ViT-{size}/{vit['patch']}" if vit["patch"] else f"R{vit['depth']}x1+ViT-{size}/{vit['stride']}"


def _vit(name: str, part: str) -> dict[str, Any]:
    match = _VIT.fullmatch(part)
    size = match["size"] if match else part.removeprefix("ViT-").partition("/")[0]
    if match is None or size not in SIZES:
        raise InputError(f"model.name: {name!r} is not a model; {_FORMS}.{_near(part, size)}")
    if match["patch"] is not None and int(match["patch"]) == 0:
        raise InputError(f"model.name: {name!r} has patch size 0; it must be at least 1")
    patch = {} if match["patch"] is None else {"patch_size": int(match["patch"])}
    return {"family": "vit", **patch, **SIZES[size], **(_axial(SIZES[size]) if match["axial"] else {})}


def _axial(size: dict[str, Any]) -> dict[str, Any]:
    """Fields of axial blocks: each is a block over rows, then a block over columns, so there are twice as many.

    Source: Dosovitskiy et al. 2021, App. D.6.
    """
    return {"token_mixer": "axial_alternate", "depth": 2 * size["depth"], "global_pool": "avg"}


def _resnet(name: str, part: str) -> dict[str, Any]:
    match = _RESNET.fullmatch(part)
    if match is None:
        raise InputError(f"model.name: {name!r} is not a model; {_FORMS}.{_near(part, part)}")
    depth, width = int(match["depth"]), float(match["width"] or 1)
    if depth not in LAYERS:
        raise InputError(f"model.name: {name!r} has depth {depth}; a ResNet has one of {_words(LAYERS)}")
    if width == 0:
        raise InputError(f"model.name: {name!r} has width factor 0; it must be above 0")
    return {"family": "resnet", "layers": LAYERS[depth], "width_factor": width}


def _hybrid(name: str, backbone: str, transformer: str) -> dict[str, Any]:
    resnet, vit = _resnet(name, backbone), _vit(name, transformer)
    stride = vit.get("patch_size")
    if stride not in HYBRIDS:
        raise InputError(
            f"model.name: {name!r} has total stride {stride or 'none'}; a hybrid's last number is its total stride, "
            f"one of {_words(HYBRIDS)}"
        )
    root, folded = HYBRIDS[stride]
    first, second, third, fourth = resnet["layers"]
    layers = (first, second, third + fourth) if folded else resnet["layers"]
    return {**vit, **resnet, "family": "hybrid", "patch_size": 1, "root": root, "layers": layers}


def _words(allowed: dict[int, Any]) -> str:
    return ", ".join(str(number) for number in sorted(allowed))


def _near(part: str, size: str) -> str:
    """The suggestion, with the patch size that the user wrote."""
    _, slash, patch = part.partition("/")
    names = [f"{prefix}{letters}{slash}{patch}" for prefix in ("ViT-", "", "Axial-ViT-", "Axial-") for letters in SIZES]
    names += mixer_names.all_names(f"{slash}{patch}")
    return nearest(part, [*names, *(f"R{depth}x1" for depth in LAYERS)], limit=1) or nearest(size, SIZES, limit=1)
