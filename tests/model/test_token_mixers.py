"""Token mixers against timm's code, dense attention under a mask, and flex_attention; their traps and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_specs import CLASSIFY, TINY, images, made, resolved
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vitbench.model import costs, token_places
from vitbench.model.build import build, initialise
from vitbench.model.mechanisms import position_of, token_mixer_of
from vitbench.model.sizes import Grid, transformer
from vitbench.model.weights.start import misfit, tensors_by_name
from vitbench.spec.experiment import Experiment
from vitbench.spec.load import load
from vitbench.spec.mechanism import canonical
from vitbench.spec.trial import ModelSpec

GRID = Grid(8, 8)
EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def model_of(mixer: str, **fields: Any) -> ModelSpec:
    """A ViT of width 16 and two blocks on 8 x 8 patches, without positions and class token."""
    given = {**TINY, "img_size": 16, "global_pool": "avg", "pos_embed": "none", "token_mixer": mixer, **fields}
    return resolved(given)


def noisy(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return module.eval()


def mixer_of(model: ModelSpec, layer: int = 0) -> torch.nn.Module:
    return noisy(token_mixer_of(model).module(model, layer))


def tokens(model: ModelSpec, count: int = 3) -> Tensor:
    shape = transformer(model)
    return torch.randn(count, shape.num_patches, shape.embed_dim, generator=torch.Generator().manual_seed(1))


def mixed(module: torch.nn.Module, model: ModelSpec, x: Tensor) -> Tensor:
    out = module(x, None) if "attention_maps" in token_mixer_of(model).gives else module(x)
    assert isinstance(out, Tensor)
    return out


@pytest.mark.parametrize(("side", "layer"), [(2, 0), (4, 0), (2, 1), (4, 1)])
@torch.no_grad()
def test_windows_are_timms_swin(side: int, layer: int) -> None:
    """Random tables: a transposed index and a roll the wrong way both show."""
    swin = pytest.importorskip("timm.models.swin_transformer")
    model = model_of(f"shifted_window(window_size={side})")
    module = mixer_of(model, layer)
    block = swin.SwinTransformerBlock(16, (8, 8), num_heads=2, window_size=side, shift_size=layer * (side // 2))
    block.attn.load_state_dict(module.state_dict(), strict=False)
    x = tokens(model)
    expected = block.eval()._attn(x.view(-1, 8, 8, 16)).reshape(-1, 64, 16)
    assert (mixed(module, model, x) - expected).abs().max() < 1e-5


def dense(module: Any, x: Tensor, seen: Tensor) -> Tensor:
    """The same weights, every pair computed, under a mask `[N, N]`."""
    q, k, v = module._queries_keys_values(x, None)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=1.0)
    answer: Tensor = module.proj(out.transpose(1, 2).flatten(2))
    return answer


def _cells() -> tuple[Tensor, Tensor]:
    index = torch.arange(64)
    return index // 8, index % 8


def _local(side: int) -> Tensor:
    y, x = _cells()
    return ((y[:, None] - y).abs() <= side // 2) & ((x[:, None] - x).abs() <= side // 2)


def _strided(stride: int) -> Tensor:
    apart = torch.arange(64)[:, None] - torch.arange(64)
    return (apart.abs() < stride) | (apart % stride == 0)


MASKS = {
    "local": (lambda: _local(3), 0),
    "local(kernel_size=5)": (lambda: _local(5), 0),
    "sparse_strided": (lambda: _strided(8), 0),
    "sparse_strided(stride=5)": (lambda: _strided(5), 0),
    "sparse_fixed": (lambda: (_cells()[0][:, None] == _cells()[0]) | (_cells()[1] == 7), 0),
    "sparse_fixed(summary=2)": (lambda: (_cells()[0][:, None] == _cells()[0]) | (_cells()[1] >= 6), 0),
    "axial_alternate": (lambda: _cells()[0][:, None] == _cells()[0], 0),
    "axial_alternate in odd blocks": (lambda: _cells()[1][:, None] == _cells()[1], 1),
    "window(window_size=4, offset_bias=false)": (
        lambda: (_cells()[0][:, None] // 4 == _cells()[0] // 4) & (_cells()[1][:, None] // 4 == _cells()[1] // 4),
        0,
    ),
}


@pytest.mark.parametrize("case", MASKS)
@torch.no_grad()
def test_sparse_attention_is_dense_attention_under_a_mask(case: str) -> None:
    seen, layer = MASKS[case]
    model = model_of(case.partition(" in odd")[0])
    module, x = mixer_of(model, layer), tokens(model)
    assert (mixed(module, model, x) - dense(module, x, seen())).abs().max() < 1e-5
    maps = module.probabilities(x, None)  # type: ignore[operator]
    assert ((maps > 0) == seen()).all()
    assert torch.allclose(maps.sum(-1), torch.ones(()))


@torch.no_grad()
def test_the_strided_pattern_is_flex_attentions() -> None:
    flex = pytest.importorskip("torch.nn.attention.flex_attention")
    model = model_of("sparse_strided")
    module, x = mixer_of(model), tokens(model)
    q, k, v = module._queries_keys_values(x, None)  # type: ignore[operator]

    def seen(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return ((query - key).abs() < 8) | ((query - key) % 8 == 0)

    block_mask = flex.create_block_mask(seen, None, None, 64, 64, device="cpu")
    out = flex.flex_attention(q, k, v, block_mask=block_mask, scale=1.0)
    expected = module.proj(out.transpose(1, 2).flatten(2))  # type: ignore[operator]
    assert (mixed(module, model, x) - expected).abs().max() < 1e-5


PATTERNS = {
    "local": lambda grid: token_places.neighbourhoods(grid, 3),
    "strided": lambda grid: token_places.strided(grid.area, grid.columns),
    "strided by 2": lambda grid: token_places.strided(grid.area, 2),
    "fixed": lambda grid: token_places.fixed(grid.area, grid.columns, 1),
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("grid", [Grid(4, 4), Grid(2, 5), Grid(5, 2)])
def test_every_patch_sees_itself_and_later_ones_so_no_row_is_empty_or_causal(pattern: str, grid: Grid) -> None:
    patterns = PATTERNS[pattern](grid)
    assert all(patch in keys for patch, keys in enumerate(patterns))
    assert max(patterns[0]) > 0, "the first patch sees a later one"
    assert all(len(set(keys)) == len(keys) for keys in patterns)


@torch.no_grad()
def test_without_positions_a_neighbourhood_has_no_order() -> None:
    """Two neighbours change places: nothing changes in the middle, unless positions act inside the attention."""
    changed = {}
    for position in ("none", "relative_2d"):
        model = model_of("local", pos_embed=position)
        module, x = mixer_of(model), tokens(model)
        swapped = x.clone()
        swapped[:, [18, 36]] = x[:, [36, 18]]  # Two corners of the 3 x 3 patches around patch 27.
        changed[position] = float((mixed(module, model, x) - mixed(module, model, swapped))[:, 27].abs().max())
    assert changed["none"] < 1e-5
    assert changed["relative_2d"] > 1e-3


@pytest.mark.parametrize("mixer", ["mlp", "random"])
def test_weights_of_tokens_belong_to_one_number_of_patches(mixer: str) -> None:
    given = {tensor.name: tensor.shape for tensor in costs.parameters(model_of(mixer), CLASSIFY)}
    problem = misfit(given, tensors_by_name(model_of(mixer, img_size=8), CLASSIFY))
    assert problem is not None
    assert "and it cannot be interpolated" in problem


def test_tables_of_offsets_are_not_decayed() -> None:
    tables = [t for t in costs.parameters(model_of("window"), CLASSIFY) if t.name.endswith("_bias_table")]
    assert [table.decays for table in tables] == [False, False]


def test_shipped_windows_have_one_kind_of_position() -> None:
    """A learned bias and positions added to the tokens are both on by default."""
    experiment = load(EXPERIMENTS / "token_mixer.yaml")
    assert isinstance(experiment, Experiment)
    mixers = {name: canonical("token_mixer", arm["model.token_mixer"]) for name, arm in experiment.arms.items()}
    windows = [name for name, text in mixers.items() if "window" in text]
    assert len(windows) == 4
    for name in windows:
        biased = "offset_bias=false" not in mixers[name]
        assert not (biased and experiment.arms[name].get("model.pos_embed") != "none"), name


@pytest.mark.parametrize("mixer", ["local", "axial_alternate", "window(offset_bias=false)", "sparse_fixed"])
@pytest.mark.parametrize("position", ["relative_2d", "rope_2d", "alibi_2d"])
@torch.no_grad()
def test_positions_inside_attention_act_on_the_pairs_that_are_left(mixer: str, position: str) -> None:
    """Softmax over fewer pairs: the maps are those of full attention, set to zero and scaled to a sum of 1."""
    model, full = (model_of(name, pos_embed=position) for name in (mixer, "attention"))
    sparse, whole = mixer_of(model), mixer_of(full)
    x, turn = tokens(model), position_of(model).rotation(model, torch.device("cpu"))
    maps, everything = (module.probabilities(x, turn) for module in (sparse, whole))  # type: ignore[operator]
    left = everything * (maps > 0)
    assert (maps - left / left.sum(-1, keepdim=True)).abs().max() < 1e-5


@torch.no_grad()
def test_pooling_is_timms() -> None:
    metaformer = pytest.importorskip("timm.models.metaformer")
    model = model_of("pool")
    x = tokens(model)
    expected = metaformer.Pooling(3)(x.transpose(1, 2).view(-1, 16, 8, 8)).flatten(2).transpose(1, 2)
    assert (mixed(mixer_of(model), model, x) - expected).abs().max() < 1e-6


@torch.no_grad()
def test_the_token_mlp_is_timms() -> None:
    mlp_mixer = pytest.importorskip("timm.models.mlp_mixer")
    model = model_of("mlp")
    module, x = mixer_of(model), tokens(model)
    block = mlp_mixer.MixerBlock(16, 64, mlp_ratio=(0.5, 4.0))
    block.mlp_tokens.load_state_dict(module.state_dict())
    expected = block.mlp_tokens(x.transpose(1, 2)).transpose(1, 2)
    assert module.fc1.weight.shape == (8, 64)  # type: ignore[union-attr]
    assert (mixed(module, model, x) - expected).abs().max() < 1e-6


def test_a_random_matrix_is_fixed_sums_to_one_and_follows_the_seed() -> None:
    model = model_of("random")
    matrices = []
    for seed in (0, 0, 1):
        module = build(model, CLASSIFY)
        initialise(module, model, CLASSIFY, seed)
        matrices.append([block.mixer.weight for block in module.blocks])  # type: ignore[union-attr]
    first, again, other = matrices
    assert torch.allclose(first[0].sum(-1), torch.ones(64))
    assert (first[0] >= 0).all()
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], first[1])
    assert costs.num_params(model, CLASSIFY) == costs.num_params(model_of("identity"), CLASSIFY)


@torch.no_grad()
def test_a_shift_lets_two_windows_talk_and_nothing_else_does() -> None:
    """Two blocks: a change in the first window reaches the second one only if the windows are shifted."""
    reached = {}
    for name in ("window", "shifted_window"):
        model = model_of(f"{name}(window_size=4)")
        module = noisy(made(model))
        before = images(model)
        after = before.clone()
        after[:, :, :4, :4] += 1.0
        difference = (module.forward_features(after) - module.forward_features(before)).abs().sum(-1)  # type: ignore[operator]
        reached[name] = (difference > 1e-6).view(-1, 8, 8).any(0)
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[:4, :4] = True
    assert torch.equal(reached["window"], inside)
    assert reached["shifted_window"].sum() > inside.sum()
    assert not reached["shifted_window"].all(), "the far corner is two shifts away"


def test_cells_that_the_roll_brings_together_are_apart() -> None:
    regions = token_places.window_regions(GRID, 4, 2)
    groups = token_places.windows(GRID, 4, 2)
    assert sorted(cell for group in groups for cell in group) == list(range(64))
    for group, parts in zip(groups, regions, strict=True):
        for a, part in zip(group, parts, strict=True):
            for b, other in zip(group, parts, strict=True):
                near = abs(a // 8 - b // 8) < 4 and abs(a % 8 - b % 8) < 4
                assert (part == other) == near


@pytest.mark.parametrize(
    ("mixer", "pairs"), [("window(window_size=4)", 64 * 16), ("axial_alternate", 64 * 8), ("attention", 64 * 64)]
)
def test_only_the_pairs_of_a_group_are_counted_and_computed(mixer: str, pairs: int) -> None:
    model = model_of(mixer)
    assert token_mixer_of(model).macs(model, 0) == {"scores": pairs * 16, "values": pairs * 16}
    assert costs.hidden_flops(model) == 0
    assert computed(model) == 2 * (64 * 16 * 4 * 16 + 2 * pairs * 16)


@pytest.mark.parametrize(
    ("mixer", "pairs"), [("local", 22**2), ("sparse_strided", 904 + 448), ("sparse_fixed", 8 * 8 * 8 + 64 * 7)]
)
def test_pairs_under_a_mask_are_computed_and_not_counted(mixer: str, pairs: int) -> None:
    model = model_of(mixer)
    assert token_mixer_of(model).macs(model, 0) == {"scores": pairs * 16, "values": pairs * 16}
    assert computed(model) == computed(model_of("attention"))
    (note,) = token_mixer_of(model).notes([model])
    assert f"FLOPs count the {pairs:,} pairs that {mixer} needs; all 4,096 are computed" in note
    assert costs.hidden_flops(model) == 2 * (computed(model) - 2 * (64 * 16 * 4 * 16 + 2 * pairs * 16))


def computed(model: ModelSpec) -> int:
    """FLOPs of one mixer for one image, as torch counts them."""
    module = mixer_of(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        mixed(module, model, tokens(model, 1))
    return int(counter.get_total_flops())


def test_costs_relative_to_attention_at_64_tokens() -> None:
    """Forward FLOPs of the blocks at width 64, as counted for timm's models and by hand (window .893, Mixer .643)."""

    def blocks(mixer: str) -> int:
        model = model_of(mixer, embed_dim=64, mlp_ratio=4.0)
        return sum(count for name, count in costs.forward_macs(model, CLASSIFY).items() if name.startswith("blocks"))

    full = blocks("attention")
    shares = {
        name: round(blocks(name) / full, 3) for name in ("window(window_size=4)", "mlp", "pool", "random", "local")
    }
    assert shares == {"window(window_size=4)": 0.893, "mlp": 0.643, "pool": 0.571, "random": 0.643, "local": 0.874}


@pytest.mark.parametrize(
    ("mixer", "fields", "message"),
    [
        ("window", {"global_pool": "token"}, "window has no place for a class token; set global_pool: avg or map"),
        ("sparse_strided", {"global_pool": "token"}, "sparse_strided has no place for a class token"),
        ("axial_alternate", {"global_pool": "token"}, "axial_alternate has no place for a class token"),
        ("mlp", {"reg_tokens": 2}, "mlp has no place for register tokens; set 0"),
        ("window(window_size=3)", {}, "windows of 3 do not divide 8 x 8 patches; 1, 2, 4, 8 do"),
        ("shifted_window(window_size=8)", {}, "have no shift, so this is `window`"),
        ("shifted_window", {"depth": 1}, "have no shift, so this is `window`"),
        (
            "window",
            {"pos_embed": "relative_2d"},
            "both relative encodings; set offset_bias: false, or another pos_embed",
        ),
        ("local(kernel_size=4)", {}, "local needs an odd kernel_size; it is 4"),
        ("local(kernel_size=15)", {}, "a neighbourhood of 15 holds all 8 x 8 patches, so this is `attention`"),
        ("sparse_fixed(summary=8)", {}, "summary 8 is a whole row of 8 patches; use less"),
        ("axial_alternate", {"depth": 1}, "axial_alternate needs two blocks"),
        ("pool(pool_size=4)", {}, "pool needs an odd pool_size; it is 4"),
        ("pool", {"pos_embed": "relative_2d"}, "needs attention maps, which pool does not give"),
        ("mlp", {"pos_embed": "rope_2d"}, "needs attention maps, which mlp does not give"),
        ("mlp", {"pos_embed": "rope_2d", "num_heads": None}, "needs attention maps, which mlp does not give"),
    ],
)
def test_what_does_not_go_together_is_one_line(mixer: str, fields: dict[str, Any], message: str) -> None:
    given = {**TINY, "img_size": 16, "global_pool": "avg", "pos_embed": "none", "token_mixer": mixer, **fields}
    problems = costs.check(ModelSpec(**given, class_token=given["global_pool"] == "token"))
    assert any(message in line for line in problems), problems
