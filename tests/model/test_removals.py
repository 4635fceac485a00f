"""Blocks without norm, residual connections or MLP: what they compute, their tensors, ids, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_specs import CLASSIFY, TINY, made, resolved
from torch import Tensor

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, facts
from vitbench.inspection.export import architecture
from vitbench.model import costs
from vitbench.plan.resolve import resolve
from vitbench.spec.trial import DataSpec, ModelSpec, TrainSpec, TrialSpec

POOL: dict[str, Any] = {**TINY, "token_mixer": "pool", "global_pool": "avg"}


def formula(block: Any, x: Tensor, without: str) -> Tensor:
    """One block, written out."""
    if without == "norm":
        x = x + block.mixer(x)
        return x + block.mlp(x)
    if without == "residual":
        return block.mlp(block.norm2(block.mixer(block.norm1(x))))  # type: ignore[no-any-return]
    return x + block.mixer(block.norm1(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("without", ["norm", "residual", "mlp"])
@torch.no_grad()
def test_a_block_lacks_what_it_says(without: str) -> None:
    network = made(resolved(POOL, without=without), noise=0.3)
    x = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    for block in network.blocks:
        torch.testing.assert_close(block(x, None), formula(block, x, without))


def test_tensors_and_flops_go_with_the_parts() -> None:
    def sizes(**fields: Any) -> tuple[int, int]:
        model = resolved(POOL, **fields)
        assert sum(p.numel() for p in made(model).parameters()) == costs.num_params(model, CLASSIFY)
        return costs.num_params(model, CLASSIFY), costs.forward_flops(model, CLASSIFY)

    whole = sizes()
    norm, mlp = 2 * 16, 2 * 16 * 32 + 32 + 16
    assert sizes(without="norm") == (whole[0] - 2 * 2 * norm, whole[1])
    assert sizes(without="residual") == whole
    assert sizes(without="mlp") == (whole[0] - 2 * (norm + mlp), whole[1] - 2 * 2 * (16 * 2 * 16 * 32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"drop_path_rate": 0.1}, "without residual connections a dropped branch leaves nothing; set 0"),
        ({"layer_scale": 1e-5}, "without residual connections 1e-05 of the signal is left by every branch; set null"),
    ],
)
def test_a_removal_that_leaves_nothing_is_refused(fields: dict[str, Any], message: str) -> None:
    (problem,) = costs.check(ModelSpec(**{**POOL, **fields, "without": "residual", "class_token": False}))
    assert message in problem


def test_fields_of_what_is_gone_are_not_in_the_id() -> None:
    def spec(**fields: Any) -> TrialSpec:
        model = ModelSpec(**{"patch_size": 2, "embed_dim": 16, "global_pool": "avg", "without": "mlp", **fields})
        written = TrialSpec(model=model, data=DataSpec(name="fake"), train=TrainSpec(steps=50))
        return resolve(written, facts("fake", DataOptions()))

    assert spec(mlp_ratio=2.0) == spec(mlp_ratio=4.0)
    assert spec(without="norm") == spec(without="norm", block_norm="group")
    assert spec() != spec(without=None)


def test_export_refuses_in_one_line() -> None:
    with pytest.raises(InputError, match=r"model.without residual; its vits have None") as raised:
        architecture(resolved(TINY, without="residual"), CLASSIFY)
    assert "\n" not in str(raised.value)
