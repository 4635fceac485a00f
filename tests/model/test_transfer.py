"""Weights into another head or grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from model_specs import CLASSIFY, MECHANISMS, OBJECTIVES, TINY, images, made, resolved

from vitbench.base.errors import InputError
from vitbench.model.build import load_weights
from vitbench.model.parameters import parameters
from vitbench.model.weights.start import tensors_by_name
from vitbench.model.weights.transfer import interpolate_grid


@pytest.mark.parametrize("name", MECHANISMS)
def test_all_but_the_head_is_carried_over(name: str) -> None:
    model = resolved(MECHANISMS[name], weight_init="jax")
    source = made(model, noise=0.2)
    target = made(resolved(MECHANISMS[name], weight_init="jax", num_classes=7), seed=5)
    load_weights(target, source.state_dict(), tensors_by_name(target.model, CLASSIFY))
    x = images(model)
    with torch.no_grad():
        assert not target(x).any()
        if model.head == "linear":
            torch.testing.assert_close(target.pre_logits(x), source.pre_logits(x))
    fresh = made(resolved(MECHANISMS[name], weight_init="jax", num_classes=7), seed=5)
    assert all(torch.equal(target.state_dict()[key], fresh.state_dict()[key])
               for key in fresh.state_dict() if key.startswith(("head.", "representation.")))  # fmt: skip


@pytest.mark.parametrize("class_rows", [0, 1])
@pytest.mark.parametrize("side", [2, 7, 12])
def test_positions_are_stretched_as_in_vit_jax(side: int, class_rows: int) -> None:
    from scipy.ndimage import zoom

    table = torch.randn(1, class_rows + 16, 6, generator=torch.Generator().manual_seed(0))
    out = interpolate_grid(table, class_rows + side**2, class_rows)
    grid = table[0, class_rows:].reshape(4, 4, 6).numpy()
    expected = zoom(grid, (side / 4, side / 4, 1), order=1).reshape(side**2, 6)
    np.testing.assert_allclose(out[0, class_rows:].numpy(), expected, atol=1e-5)
    assert torch.equal(out[:, :class_rows], table[:, :class_rows])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"pos_embed": "learned_2d"},
        {"pos_embed": "relative_2d"},
        {"pos_embed": "relative_1d", "relative_clip": 5},
        {"pos_embed": "rope_2d"},
        {"pos_placement": "every_layer", "global_pool": "avg"},
    ],
)
def test_a_finer_grid_is_filled(fields: dict[str, Any]) -> None:
    source = made(resolved(TINY, **fields), noise=0.2)
    target = made(resolved(TINY, **fields, img_size=12), seed=5)
    load_weights(target, source.state_dict(), tensors_by_name(target.model, CLASSIFY))
    assert torch.isfinite(target.pre_logits(images(resolved(TINY, img_size=12)))).all()
    for key, tensor in target.state_dict().items():
        old = source.state_dict()[key]
        if old.shape != tensor.shape:
            assert old.min() - 1e-6 <= tensor.min()
            assert tensor.max() <= old.max() + 1e-6
            first = (0, 0) if tensor.dim() == 3 else (0,)
            torch.testing.assert_close(tensor[first], old[first])


def test_masked_patch_weights_become_a_classifiers() -> None:
    for fields in ({}, {"global_pool": "avg", "final_norm": "after_pool"}, {"global_pool": "map"}):
        model = resolved(TINY, **fields)
        source = made(model, OBJECTIVES["mean_colour"], noise=0.2)
        target = made(model, seed=5)
        load_weights(target, source.state_dict(), tensors_by_name(target.model, CLASSIFY))
        assert torch.equal(target.blocks[1].mlp.fc2.weight, source.blocks[1].mlp.fc2.weight)
        assert not target(images(model)).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"global_pool": "avg"}, "the model has no cls_token"),
        ({"pos_embed": "learned_2d"}, "the model has no pos_embed;"),
        ({"final_norm": "after_pool"}, "the model has no norm.bias \\(and 1 more\\)"),
        ({"depth": 3}, "they lack blocks.2"),
        ({"embed_dim": 32}, "shape"),
        ({"patch_size": 4}, "patch_embed.proj.weight has shape"),
        ({"no_embed_class": True}, "pos_embed has shape \\(1, 17, 16\\), the model's is \\(1, 16, 16\\)"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    source, target = made(resolved(TINY)), made(resolved(TINY, **fields))
    before = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    with pytest.raises(InputError, match=message) as raised:
        load_weights(target, source.state_dict(), tensors_by_name(target.model, CLASSIFY))
    assert "\n" not in str(raised.value)
    assert all(torch.equal(before[key], tensor) for key, tensor in target.state_dict().items())


def test_raster_offsets_of_another_grid_are_refused() -> None:
    source, target = (made(resolved(TINY, pos_embed="relative_1d", img_size=side)) for side in (8, 12))
    with pytest.raises(InputError, match="rel_pos"):
        load_weights(target, source.state_dict(), tensors_by_name(target.model, CLASSIFY))


def test_a_stages_task_tensors_are_told_by_their_role_not_by_their_name() -> None:
    """A file of weights has names only; of a stage the listed tensors say what is of the task."""
    from vitbench.model.weights.start import without_task
    from vitbench.spec.trial import DataSpec, TrainSpec, TrialSpec

    masked = TrialSpec(
        model=resolved(TINY, patch_size=4), data=DataSpec(), train=TrainSpec(objective=OBJECTIVES["mean_colour"])
    )
    names = [tensor.name for tensor in parameters(masked.model, masked.train.objective)]
    kept = without_task(dict.fromkeys(names, 0), masked)
    assert set(names) - kept.keys() == {"mask_token", "mpp_head.weight", "mpp_head.bias"}
