"""A recipe is every setting of one training that a recommendation may choose; its frame is what all trainings share."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vitbench.base.errors import InputError
from vitbench.data import Facts
from vitbench.model import costs
from vitbench.model.sizes import num_tokens
from vitbench.plan.resolve import MIN_STEPS, default_patch, resolve
from vitbench.spec.model_names import SIZES
from vitbench.spec.paths import set_path
from vitbench.spec.trial import ModelSpec, ObjectiveSpec, TrialSpec, sides

RATE = "train.lr"
MOST_TOKENS = 400
"""Attention over more tokens than this leaves no budget for questions."""


@dataclass(frozen=True)
class Frame:
    """What every training of a recommendation shares: the images, the batch and the compute.

    Frames are equal if a recipe is the same model in both.
    """

    data: str
    facts: Facts = field(compare=False)
    img_size: int | tuple[int, int]
    val_fraction: float
    batch_size: int
    train_flops: float | None = field(default=None, compare=False)

    @property
    def flops(self) -> float:
        """The compute of one training, once it is allocated."""
        assert self.train_flops is not None
        return self.train_flops

    def base(self) -> dict[str, Any]:
        """The `base` of every experiment, without test images."""
        data: dict[str, Any] = {"name": self.data, "val_fraction": self.val_fraction}
        if self.img_size != self.facts.img_size:
            data["img_size"] = self.img_size if isinstance(self.img_size, int) else list(self.img_size)
        train: dict[str, Any] = {"batch_size": self.batch_size}
        train |= {"steps": 1} if self.train_flops is None else {"train_flops": self.train_flops}
        return {"data": data, "train": train, "evaluate": {"test": False}}


@dataclass(frozen=True)
class Recipe:
    """The settings of one training by spec path, in order. `pretrain`: share of the compute spent on masked patches."""

    family: str
    settings: tuple[tuple[str, Any], ...]
    pretrain: float = 0.0

    def get(self, path: str, default: Any = None) -> Any:
        """The value at a spec path."""
        return dict(self.settings).get(path, default)

    def changed(self, changes: Mapping[str, Any]) -> Recipe:
        """The recipe with other values at some paths."""
        return replace(self, settings=tuple(({**dict(self.settings), **changes}).items()))

    @property
    def rate(self) -> float:
        """The learning rate."""
        return float(self.get(RATE))

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for equal trainings, whatever the order of their settings."""
        return self.family, self.pretrain, *sorted((path, repr(value)) for path, value in self.settings)


def model_of(recipe: Recipe, frame: Frame) -> ModelSpec:
    """The resolved model. Raises InputError if it does not fit the images."""
    return _model(recipe.settings, frame)


@functools.lru_cache(maxsize=1024)
def _model(settings: tuple[tuple[str, Any], ...], frame: Frame) -> ModelSpec:
    nested: dict[str, Any] = frame.base()
    nested["train"] = {"batch_size": frame.batch_size, "steps": 1}
    for path, value in settings:
        nested = set_path(nested, path, value)
    return resolve(TrialSpec.model_validate(nested), frame.facts).model


def forward_flops(recipe: Recipe, frame: Frame) -> int:
    """FLOPs of one image's forward pass."""
    return costs.forward_flops(model_of(recipe, frame), ObjectiveSpec())


def num_params(recipe: Recipe, frame: Frame) -> int:
    """Trained parameters."""
    return costs.num_params(model_of(recipe, frame), ObjectiveSpec())


def fits(recipe: Recipe, frame: Frame) -> bool:
    """Whether the model can be built on these images, has a moderate number of tokens, and trains for enough steps."""
    try:
        model = model_of(recipe, frame)
    except (InputError, ValueError):
        return False
    step_flops = 3.0 * frame.batch_size * forward_flops(recipe, frame)
    share = min(recipe.pretrain, 1.0 - recipe.pretrain) or 1.0
    if frame.train_flops is not None and share * frame.train_flops / step_flops < MIN_STEPS + 1:
        return False
    return model.family == "resnet" or num_tokens(model) <= MOST_TOKENS


def default_vit(frame: Frame, size: str) -> Recipe:
    """The ViT that a user would start from: a named size, the default patch, a class token, learned positions."""
    settings = {
        "model.name": f"ViT-{size}/{default_patch(frame.img_size)}",
        "model.global_pool": "token",
        "model.pos_embed": "learned_1d",
        "model.token_mixer": "attention",
        "train.augment": "light",
        RATE: middle_rate(SIZES[size]["embed_dim"]),
    }
    return Recipe("vit", tuple(settings.items()))


def middle_rate(embed_dim: int) -> float:
    """A learning rate to search around, lower for wider networks: 8e-3 at width 48, 1e-3 at 192."""
    return float(f"{8e-3 * (48 / embed_dim) ** 1.5:.1g}")


def families(vit: Recipe, frame: Frame, size: str) -> dict[str, Recipe]:
    """A ViT, and the ResNet and the hybrid whose forward pass costs as much as closely as their widths allow."""
    target = forward_flops(vit, frame)
    common = {path: value for path, value in vit.settings if not path.startswith("model.")}
    side, fields = max(sides(frame.img_size)), SIZES[size]
    step = 4 * int(fields["num_heads"])
    root = {"model.root": "small" if side <= 16 else "imagenet"}
    num_stages = 2 if side <= 16 else 3 if side <= 40 else 4
    resnet = {"model.family": "resnet", "model.layers": (1,) * num_stages, **root}
    transformer = {f"model.{key}": value for key, value in fields.items() if key != "embed_dim"}
    heads = {path: value for path, value in vit.settings if path in ("model.global_pool", "model.pos_embed")}
    hybrid = {
        "model.family": "hybrid",
        "model.layers": (1, 1) if side <= 64 else (1, 1, 1),
        **root,
        **transformer,
        **heads,
        "model.embed_dim": step * (5 * int(fields["embed_dim"]) // 6 // step),
        "model.token_mixer": "attention",
    }
    out = {"vit": vit}
    for family, settings in (("resnet", resnet), ("hybrid", hybrid)):
        recipe = Recipe(family, tuple({**settings, **common}.items()))
        widths = [recipe.changed({"model.width_factor": k / 64}) for k in range(2, 129)]
        widths = [width for width in widths if fits(width, frame)]
        if widths:
            out[family] = min(widths, key=lambda r: abs(math.log(forward_flops(r, frame) / target)))
    return out
