"""The closed forms of `vitbench.model.costs` against the modules: names, shapes, FLOPs as torch counts them."""

from __future__ import annotations

import pytest
import torch
from model_specs import CLASSIFY, MECHANISMS, OBJECTIVES, TINY, made, named, resolved
from torch.utils.flop_counter import FlopCounterMode

from vitbench.model import costs
from vitbench.model.build import build
from vitbench.model.mechanisms import stage_models
from vitbench.model.objective import objective_of
from vitbench.model.sizes import pixel_grid
from vitbench.spec.trial import ModelSpec, ObjectiveSpec

NAMED = [
    "Swin-T",
    "PoolFormer-S12",
    "Mixer-S/16",
    "ViT-Mu/2",
    "ViT-Ti/4",
    "ViT-S/32",
    "ViT-B/16",
    "ViT-L/16",
    "ViT-H/14",
    "R14x0.5",
    "R50x1",
    "R200x3",
]
HYBRIDS = ["R26x1+ViT-Ti/4", "R14x0.25+ViT-Mu/8", "R50x1+ViT-B/16", "R50x1+ViT-L/32"]
CASES = {
    **{name: (resolved(fields), CLASSIFY) for name, fields in MECHANISMS.items()},
    **{name: (named(name), CLASSIFY) for name in NAMED + HYBRIDS},
    **{target: (resolved(TINY, patch_size=4), objective) for target, objective in OBJECTIVES.items()},
    "two class tokens": (resolved(TINY, dist_token=True), CLASSIFY),
    "igpt_ar": (resolved(MECHANISMS["pixel tokens causal"]), ObjectiveSpec(name="igpt_ar")),
    "igpt_bert": (resolved(MECHANISMS["pixel tokens colour"]), ObjectiveSpec(name="igpt_bert")),
    "masked avg": (resolved(TINY, global_pool="map", final_norm="after_pool", in_chans=3), OBJECTIVES["mean_colour"]),
}


def on_meta(model: ModelSpec, objective: ObjectiveSpec) -> torch.nn.Module:
    with torch.device("meta"):
        return build(model, objective).eval()


@pytest.mark.parametrize("case", CASES)
def test_names_and_shapes_are_the_modules(case: str) -> None:
    model, objective = CASES[case]
    module = on_meta(model, objective)
    listed = {tensor.name: tensor.shape for tensor in costs.parameters(model, objective)}
    assert listed == {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert len(listed) == len(costs.parameters(model, objective))
    assert costs.num_params(model, objective) == sum(p.numel() for p in module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_flops_are_torchs(case: str) -> None:
    model, objective = CASES[case]
    module = on_meta(model, objective)
    inputs = [torch.empty(1, model.in_chans, *pixel_grid(model), device="meta")]
    places = torch.zeros(1, costs.grid(model).area, dtype=torch.long, device="meta")
    inputs += [places] * len(objective_of(objective).inputs)
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    assert costs.forward_flops(model, objective) + costs.hidden_flops(model) == counter.get_total_flops()


def test_flops_by_module_are_torchs() -> None:
    model = resolved(MECHANISMS["map"])
    with FlopCounterMode(display=False, depth=9) as counter:
        on_meta(model, CLASSIFY)(torch.empty(1, 1, 8, 8, device="meta"))
    counted = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    macs = costs.forward_macs(model, CLASSIFY)
    attn = ("qkv", "proj", "scores", "values")
    assert counted["ViT.blocks.0.attn"] == 2 * sum(macs[f"blocks.0.attn.{part}"] for part in attn)
    assert counted["ViT.head"] == 2 * macs["head"]


def test_flops_on_the_cpu_are_those_on_meta() -> None:
    model = resolved(MECHANISMS["relative_2d"])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made(model)(torch.zeros(1, 1, 8, 8))
    assert costs.forward_flops(model, CLASSIFY) == counter.get_total_flops()


@pytest.mark.parametrize("case", [name for name, (model, _) in CASES.items() if model.family != "resnet"])
def test_num_tokens_is_the_sequences_length(case: str) -> None:
    model, objective = CASES[case]
    module = on_meta(model, objective)
    tokens = module.forward_features(torch.empty(2, model.in_chans, *pixel_grid(model), device="meta"))
    last = stage_models(model)[-1]
    assert tokens.shape == (2, costs.num_tokens(last), last.embed_dim)
