"""Attention distance and rollout against direct loops in float64, known yardsticks, and heads made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vitbench.inspection.measures import attention_distance, rollout

SIDE, PREFIX, HEADS, IMAGES = 3, 1, 2, 4
TOKENS = SIDE * SIDE + PREFIX


def random_attention(seed: int, num_prefix: int = PREFIX) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    tokens = SIDE * SIDE + num_prefix
    logits = torch.randn((IMAGES, HEADS, tokens, tokens), generator=generator, dtype=torch.float64)
    return (3 * logits).softmax(-1)


@pytest.mark.parametrize(("side", "cell", "expected"), [(14, 16, 116.492), (7, 32, 115.503)])
def test_uniform_attention_has_the_known_distance(side: int, cell: int, expected: float) -> None:
    assert attention_distance.uniform_distance(side, cell) == pytest.approx(expected, abs=1e-3)
    tokens = side * side + 1
    flat = torch.full((1, 1, tokens, tokens), 1 / tokens)
    between = attention_distance.grid_distances(side, cell)
    assert float(attention_distance.mean_distance(flat, 1, between)) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("num_prefix", [0, 1, 2])
def test_distance_is_the_direct_loops(num_prefix: int) -> None:
    maps = random_attention(0, num_prefix)
    found = attention_distance.mean_distance(maps, num_prefix, attention_distance.grid_distances(SIDE, 4.0))
    for b in range(IMAGES):
        for h in range(HEADS):
            total = 0.0
            for q in range(SIDE * SIDE):
                weights = [float(maps[b, h, num_prefix + q, num_prefix + k]) for k in range(SIDE * SIDE)]
                for k, weight in enumerate(weights):
                    px = 4.0 * math.dist((q // SIDE, q % SIDE), (k // SIDE, k % SIDE))
                    total += weight / sum(weights) * px
            assert float(found[b, h]) == pytest.approx(total / (SIDE * SIDE), rel=1e-12)


def test_local_and_global_heads_are_told_apart() -> None:
    """One head looks at itself, one at its right neighbour, one everywhere."""
    side = 6
    itself, everywhere = torch.eye(36), torch.full((36, 36), 1 / 36)
    right = torch.eye(36).roll(1, dims=1)
    maps = torch.stack([itself, right, everywhere])[None]
    found = attention_distance.mean_distance(maps, 0, attention_distance.grid_distances(side, 1.0))[0]
    uniform = attention_distance.uniform_distance(side, 1.0)
    assert float(found[0]) == 0.0
    assert 1.0 <= float(found[1]) < 0.7 * uniform
    assert float(found[2]) == pytest.approx(uniform)


@pytest.mark.parametrize("residual", [False, True])
def test_rollout_is_the_direct_loops(residual: bool) -> None:
    layers = [random_attention(seed) for seed in (1, 2, 3)]
    rolled = rollout.start(IMAGES, TOKENS, torch.device("cpu"))
    for maps in layers:
        rolled = rollout.step(rolled, maps, residual=residual)
    for b in range(IMAGES):
        expected = np.eye(TOKENS)
        for maps in layers:
            mean = np.zeros((TOKENS, TOKENS))
            for h in range(HEADS):
                mean += maps[b, h].numpy() / HEADS
            if residual:
                mean = 0.5 * mean + 0.5 * np.eye(TOKENS)
            after = np.zeros_like(expected)
            for i in range(TOKENS):
                for j in range(TOKENS):
                    after[i, j] = sum(mean[i, m] * expected[m, j] for m in range(TOKENS))
            expected = after
        assert rolled[b].numpy() == pytest.approx(expected, rel=1e-12)
        row = expected[0, 1:] / expected[0, 1:].sum()
        assert rollout.readout_map(rolled, SIDE, True)[b].flatten().numpy() == pytest.approx(row)
    assert rolled.sum(-1).numpy() == pytest.approx(1.0)


def test_without_a_class_token_the_patches_mean_row_is_read() -> None:
    maps = random_attention(4, 0)
    rolled = rollout.step(rollout.start(IMAGES, 9, torch.device("cpu")), maps, residual=False)
    assert rollout.readout_map(rolled, 3, False).flatten(1).numpy() == pytest.approx(maps.mean(1).mean(1).numpy())


def test_mass_in_a_box_counts_partial_cells() -> None:
    """A box over a cell and a half of each axis, on a 4 x 4 grid of 2-pixel cells."""
    inside = rollout.box_shares(torch.tensor([[2, 0, 5, 3]]), 4, 2.0)
    assert inside[0, 0].tolist() == [0.0, 1.0, 0.5, 0.0]
    assert inside[0, 1].tolist() == [0.0, 0.5, 0.25, 0.0]
    assert float(inside.sum()) == pytest.approx(9 / 4)
    flat = torch.full((1, 4, 4), 1 / 16, dtype=torch.float64)
    assert float(rollout.mass_in_boxes(flat, inside)) == pytest.approx(9 / 64)
    peaked = torch.zeros(2, 4, 4)
    peaked[0, 0, 1] = peaked[1, 3, 3] = 1.0
    assert rollout.pointing_hits(peaked, inside.expand(2, -1, -1)).tolist() == [True, False]
