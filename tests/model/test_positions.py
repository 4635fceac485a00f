"""What each position encoding knows: nothing, places, or offsets."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from einops import rearrange
from model_specs import POSITIONS, TINY, images, made, resolved

from vitbench.model.mechanisms import position_of

SIDE = 4
OFFSETS_ONLY = ["relative_2d", "relative_2d clipped", "rope_2d", "relative_1d", "none"]
PLACES = ["learned_1d", "learned_2d", "sincos_2d"]


def permuted(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Images whose 2 x 2 patches stand in another order."""
    patches = rearrange(x, "b c (y p) (x q) -> b (y x) c p q", p=2, q=2)[:, order]
    return rearrange(patches, "b (y x) c p q -> b c (y p) (x q)", y=SIDE)


@pytest.mark.parametrize("pool", ["token", "avg", "map"])
@pytest.mark.parametrize("name", POSITIONS)
def test_only_none_ignores_the_order_of_patches(name: str, pool: str) -> None:
    model = resolved(TINY, **POSITIONS[name], global_pool=pool)
    module, x = made(model, noise=0.3), images(model)
    order = torch.randperm(SIDE**2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        change = (module(permuted(x, order)) - module(x)).abs().max().item()
    assert change < 1e-5 if name == "none" else change > 1e-3


def uniform_logits(name: str, pool: str) -> torch.Tensor:
    """First-layer logits `[H, N, N]` relative to the diagonal, on an image whose patches are all alike."""
    model = resolved(TINY, **POSITIONS[name], global_pool=pool)
    module = made(model, noise=0.3)
    with torch.no_grad():
        maps = module.attention(torch.full((1, 1, 8, 8), 0.7))
    prefix = int(pool == "token")
    logits = maps[0, 0, :, prefix:, prefix:].log()
    return logits - logits.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)


def spread_within_offsets(logits: torch.Tensor) -> float:
    """The largest difference between pairs of patches that are the same number of rows and columns apart."""
    cells = list(product(range(SIDE), range(SIDE)))
    groups: dict[tuple[int, int], list[torch.Tensor]] = {}
    for (i, (y, x)), (j, (v, u)) in product(enumerate(cells), enumerate(cells)):
        groups.setdefault((v - y, u - x), []).append(logits[:, i, j])
    return max((torch.stack(group).amax(0) - torch.stack(group).amin(0)).max().item() for group in groups.values())


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("name", OFFSETS_ONLY + PLACES)
def test_relative_logits_depend_on_offsets_only(name: str, pool: str) -> None:
    spread = spread_within_offsets(uniform_logits(name, pool))
    assert spread < 1e-5 if name in OFFSETS_ONLY else spread > 1e-2


def test_only_the_raster_offset_confuses_a_step_with_a_wrap() -> None:
    last_of_row, first_of_next = 1 * SIDE + 3, 2 * SIDE
    for name, confused in (("relative_1d", True), ("relative_2d", False), ("rope_2d", False)):
        logits = uniform_logits(name, "avg")
        assert torch.allclose(logits[:, last_of_row, first_of_next], logits[:, 0, 1], atol=1e-5) == confused


def test_clip_ends_the_telling_apart() -> None:
    logits = uniform_logits("relative_2d clipped", "avg")
    assert torch.allclose(logits[:, 0, 2], logits[:, 0, 3], atol=1e-5)
    assert not torch.allclose(logits[:, 0, 1], logits[:, 0, 2], atol=1e-3)


def test_a_class_token_without_a_place_has_no_relative_logit() -> None:
    for name in ("relative_1d", "relative_2d"):
        module = made(resolved(TINY, pos_embed=name, no_embed_class=True), noise=0.3)
        plain = made(resolved(TINY, pos_embed="none"))
        plain.load_state_dict(module.state_dict(), strict=False)
        x = torch.full((1, 1, 8, 8), 0.7)
        with torch.no_grad():
            ours, bare = module.attention(x)[0, 0], plain.attention(x)[0, 0]
        torch.testing.assert_close(ours[:, 0], bare[:, 0])
        assert (ours[:, 1:] - bare[:, 1:]).abs().max() > 1e-3


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("name", ["relative_1d", "relative_2d"])
def test_relative_logits_are_their_definition(name: str, prefix: int) -> None:
    """Written as loops: query times the vectors of the offsets; the class token before the raster, or at (0, 0)."""
    model = resolved(TINY, pos_embed=name, global_pool="token" if prefix else "avg")
    attention = made(model, noise=0.3).blocks[0].attn
    num, reach = prefix + SIDE**2, (prefix + SIDE**2 if name == "relative_1d" else SIDE) - 1
    q = torch.randn(1, 2, num, 8, generator=torch.Generator().manual_seed(0))
    logits = position_of(model).bias(attention, model, q)
    cells = [(0, 0)] * prefix + list(product(range(SIDE), range(SIDE)))
    for i, j in product(range(num), range(num)):
        if name == "relative_1d":
            vector = attention.rel_pos[j - i + reach]
        else:
            down, right = cells[j][0] - cells[i][0], cells[j][1] - cells[i][1]
            vector = attention.rel_pos_h[down + reach] + attention.rel_pos_w[right + reach]
        torch.testing.assert_close(logits[0, :, i, j], q[0, :, i] @ vector, atol=1e-5, rtol=1e-4)


def test_learned_2d_joins_column_and_row() -> None:
    model = resolved(TINY, pos_embed="learned_2d")
    module = made(model)
    places = position_of(model).added(module, model, torch.device("cpu"))
    assert places.shape == (1, 1 + SIDE**2, 16)
    row, column = 2, 3
    expected = torch.cat([module.pos_embed_x[0, column], module.pos_embed_y[0, row]])
    assert torch.equal(places[0, 1 + row * SIDE + column], expected)
    assert torch.equal(places[0, 0], module.pos_embed_cls[0, 0])


def test_learned_2d_equals_learned_1d_with_its_table() -> None:
    model = resolved(TINY, pos_embed="learned_2d")
    module, baked = made(model, noise=0.3), made(resolved(TINY))
    state = {name: tensor for name, tensor in module.state_dict().items() if not name.startswith("pos_embed")}
    baked.load_state_dict({**state, "pos_embed": module.positions(0, torch.device("cpu"))})
    x = images(model)
    with torch.no_grad():
        torch.testing.assert_close(baked(x), module(x))


def test_sincos_is_its_formula() -> None:
    model = resolved(TINY, pos_embed="sincos_2d")
    places = position_of(model).added(made(model), model, torch.device("cpu"))[0].double().numpy()
    for y, x in product(range(SIDE), range(SIDE)):
        waves = [[np.sin(p * f) for f in _frequencies()] + [np.cos(p * f) for f in _frequencies()] for p in (x, y)]
        np.testing.assert_allclose(places[y * SIDE + x], np.concatenate(waves), atol=1e-6)


def _frequencies() -> list[float]:
    return [10_000.0 ** -(i / 4) for i in range(4)]


def test_placements_agree_where_they_must() -> None:
    stem, shared, own = (made(resolved(TINY, pos_placement=p)) for p in ("stem", "every_layer_shared", "every_layer"))
    device = torch.device("cpu")
    assert torch.equal(stem.positions(0, device), shared.positions(1, device))
    assert torch.equal(stem.positions(0, device), own.positions(0, device))
    assert stem.positions(1, device) is None
    assert not torch.equal(own.positions(1, device), own.positions(0, device))
