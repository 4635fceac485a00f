"""Images whose sides differ: rows and columns are not confused, whatever knows positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_specs import HYBRID, OBJECTIVES, POSITIONS, RESNET, TINY, images, made, resolved

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, facts
from vitbench.model.costs import check
from vitbench.model.parameters import parameters
from vitbench.model.sizes import grid
from vitbench.plan.resolve import default_patch, resolve
from vitbench.plan.trial_id import trial_id
from vitbench.spec.trial import DataSpec, ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec

TALL, WIDE = (12, 6), (6, 12)
TRANSPOSED = {
    "pos_embed_x": "pos_embed_y", "pos_embed_y": "pos_embed_x", "rel_pos_h": "rel_pos_w", "rel_pos_w": "rel_pos_h",
}  # fmt: skip


def transposed(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the wide model as the tall one holds it: rows and columns of the grid change places."""
    if name == "patch_embed.proj.weight":
        return tensor.transpose(2, 3)
    if name.rpartition(".")[2] != "pos_embed":
        return tensor
    patches = tensor[:, -18:].view(1, 3, 6, -1).transpose(1, 2).reshape(1, 18, -1)
    return torch.cat([tensor[:, :-18], patches], dim=1)


def twin(name: str) -> str:
    """The name of the table along the other axis."""
    head, dot, last = name.rpartition(".")
    return head + dot + TRANSPOSED.get(last, last)


TURNED = [name for name in POSITIONS if name.startswith(("none", "learned_1d", "relative_2d"))]


@pytest.mark.parametrize("name", TURNED)
def test_a_tall_image_is_a_wide_one_turned(name: str) -> None:
    """With tables and projection transposed, the transposed image has the same logits. learned_2d and the fixed
    encodings keep columns and rows in different halves, and relative_1d counts in raster order: these differ."""
    wide = made(resolved(TINY, **POSITIONS[name], img_size=WIDE), noise=0.3)
    tall = made(resolved(TINY, **POSITIONS[name], img_size=TALL), noise=0.3)
    tall.load_state_dict({twin(key): transposed(key, tensor) for key, tensor in wide.state_dict().items()})
    x = images(wide.model)
    with torch.no_grad():
        torch.testing.assert_close(tall(x.transpose(2, 3)), wide(x))
        if name != "none":
            assert (wide(x.flip(2)) - wide(x)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["sincos_2d", "rope_2d", "learned_2d"])
def test_positions_are_those_of_the_larger_square(name: str) -> None:
    """Row y and column x have the same vector in a 3 x 6 grid as in a 6 x 6 grid."""
    from vitbench.model.mechanisms import position_of

    def table(img_size: Any) -> torch.Tensor:
        model = resolved(TINY, **POSITIONS[name], img_size=img_size, global_pool="avg")
        module = made(model)
        if name == "learned_2d":
            with torch.no_grad():
                for sign, axis in ((1.0, module.pos_embed_x), (-1.0, module.pos_embed_y)):
                    axis.copy_(sign * torch.arange(axis.shape[1]).view(1, -1, 1).expand_as(axis))
        turn = position_of(model).rotation(model, torch.device("cpu"))
        found = module.positions(0, torch.device("cpu"))[0] if turn is None else torch.cat(turn, -1)
        return found.detach().view(*grid(model), -1)

    assert torch.equal(table((6, 12)), table(12)[:3])


@pytest.mark.parametrize("target", OBJECTIVES)
def test_masked_patches_are_predicted_for_every_cell(target: str) -> None:
    model = resolved(TINY, img_size=(4, 10), patch_size=2)
    module, x = made(model, OBJECTIVES[target]), images(model)
    action = torch.zeros(3, 10, dtype=torch.long)
    out = module(x, action, action)
    assert out.shape[:2] == (3, 10)
    source = torch.arange(10).flip(0).expand(3, 10)
    replaced = module._with_replaced_patches(x, torch.full_like(action, 2), source)
    assert torch.equal(replaced[:, :, :2, :2], x[:, :, 2:, 8:])


def test_sizes_of_every_family() -> None:
    assert grid(resolved(TINY, img_size=(4, 10))) == (2, 5)
    assert grid(resolved(RESNET, img_size=(16, 24))) == (2, 3)
    assert grid(resolved(HYBRID, img_size=(16, 24))) == (4, 6)
    relative = resolved(TINY, img_size=(4, 10), pos_embed="relative_2d")
    shapes = {p.name: p.shape for p in parameters(relative, ObjectiveSpec())}
    assert (shapes["blocks.0.attn.rel_pos_h"], shapes["blocks.0.attn.rel_pos_w"]) == ((3, 8), (9, 8))


def test_a_patch_divides_both_sides() -> None:
    model = ModelSpec(**{**TINY, "img_size": (16, 20), "patch_size": 8, "class_token": True})
    assert check(model) == ["model.patch_size: 8 does not divide images of 16 x 20 px; 1, 2, 4 do"]
    assert default_patch((16, 32)) == 4
    assert default_patch((16, 24)) == 4
    assert default_patch((7, 9)) is None
    assert [default_patch(side) for side in (8, 28, 32, 64, 224)] == [2, 4, 4, 8, 16]


def resolved_trial(img_size: Any) -> TrialSpec:
    written = TrialSpec(data=DataSpec(name="fake", img_size=img_size), train=TrainSpec(steps=5))
    return resolve(written, facts("fake", DataOptions()))


def test_equal_sides_are_one_number_and_share_an_id() -> None:
    pair = DataSpec.model_validate({"img_size": [8, 8]})
    assert pair.img_size == 8
    ids = {trial_id(resolved_trial(size), 0, "f", None) for size in (8, (8, 8), None)}
    assert len(ids) == 1
    assert trial_id(resolved_trial((8, 16)), 0, "f", None) not in ids
    assert resolved_trial((8, 16)).model.img_size == (8, 16)


@pytest.mark.parametrize("size", [[8], [8, 0], [8, 16, 3], "8x16", 2.5, True])
def test_other_sizes_are_refused_in_one_line(size: Any) -> None:
    with pytest.raises(ValueError, match=r"\[height, width\]"):
        DataSpec.model_validate({"img_size": size})


def test_positions_of_another_grid_are_refused() -> None:
    from vitbench.model.weights.start import with_start

    first, same, other = (resolved_trial(size) for size in ((8, 16), (8, 16), (16, 8)))
    assert with_start(same, [first]) == same
    wider = resolved_trial((8, 32))
    for spec in (wider, other):  # A table of as many rows would fit, but its places would be others.
        with pytest.raises(InputError, match="only square ones are interpolated"):
            with_start(spec, [first])
