"""Masked patch prediction: what each action does to a patch's embedding."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from model_specs import OBJECTIVES, RESNET, TINY, images, made, resolved

from vitbench.model.costs import check
from vitbench.spec import mechanism as registry
from vitbench.spec.trial import ModelSpec, ObjectiveSpec
from vitbench.train.objectives.masked_patch import MaskedPatch

MODEL = resolved(TINY, in_chans=3)
OBJECTIVE = OBJECTIVES["mean_colour"]
IDENTITY = torch.arange(16).expand(2, -1)


def module_and_images() -> tuple[Any, torch.Tensor]:
    return made(MODEL, OBJECTIVE, noise=0.2), images(MODEL, 2)


def expected(module: Any, embedded: torch.Tensor) -> torch.Tensor:
    """The predictions from embedded patches `[B, N, D]`."""
    return module.mpp_head(module.encode(embedded)[:, 1:])


@pytest.mark.parametrize("action", [0, 3])
def test_intact_and_unchanged_leave_the_embedding(action: int) -> None:
    module, x = module_and_images()
    out = module(x, torch.full((2, 16), action), IDENTITY.flip(1))
    torch.testing.assert_close(out, expected(module, module.patch_embed(x)))


def test_masked_is_the_mask_token() -> None:
    module, x = module_and_images()
    action = torch.zeros(2, 16, dtype=torch.uint8)
    action[0, 5] = 1
    embedded = module.patch_embed(x).clone()
    embedded[0, 5] = module.mask_token[0, 0]
    torch.testing.assert_close(module(x, action, IDENTITY), expected(module, embedded))


def test_replaced_is_the_embedding_of_the_source() -> None:
    module, x = module_and_images()
    action, source = torch.zeros(2, 16, dtype=torch.uint8), IDENTITY.clone()
    action[1, 3], source[1, 3] = 2, 9
    action[1, 9], source[1, 9] = 1, 0
    embedded = module.patch_embed(x).clone()
    embedded[1, 3] = embedded[1, 9]
    embedded[1, 9] = module.mask_token[0, 0]
    torch.testing.assert_close(module(x, action, source), expected(module, embedded))


@pytest.mark.parametrize(
    ("target", "in_chans", "patch_size", "width"),
    [
        ("mean_colour", 1, 2, 8),
        ("mean_colour", 3, 2, 512),
        ("downsampled", 1, 2, 8),
        ("downsampled", 1, 8, 4 * 4 * 8),
        ("downsampled", 3, 4, 2 * 2 * 512),
        ("pixels", 3, 4, 48),
    ],
)
def test_outputs_per_patch(target: str, in_chans: int, patch_size: int, width: int) -> None:
    model = resolved(TINY, in_chans=in_chans, patch_size=patch_size, img_size=16)
    num_patches = (16 // patch_size) ** 2
    nothing = torch.zeros(2, num_patches, dtype=torch.long)
    assert made(model, OBJECTIVES[target])(images(model, 2), nothing, nothing).shape == (2, num_patches, width)


def test_a_resnet_has_no_place_for_an_objectives_heads() -> None:
    """An objective that says nothing of ResNets is refused, as its heads would be left out in silence."""

    class Colours(MaskedPatch):
        name: ClassVar[str] = "colours_of_this_test"

        def problems(self, model: ModelSpec) -> list[str]:
            return []

    try:
        assert check(resolved(RESNET), ObjectiveSpec(name=Colours.name)) == [
            "train.objective: colours_of_this_test has heads of its own, and a ResNet has only a classifier's"
        ]
    finally:
        registry._REGISTRY.pop(("objective", Colours.name))
        registry._NAMED.clear()
