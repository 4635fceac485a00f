"""`model.freeze`: parts that keep their weights take no gradient, cost none, and start where the stage starts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_jobs import RESNET, VIT, images_of, spec, trained
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitbench.base.errors import InputError
from vitbench.model.build import build, initialise
from vitbench.model.costs import num_params, parameters, train_flops
from vitbench.spec.trial import ModelSpec, TrialSpec
from vitbench.train.trainer import Job, initial_state

MLP_FROZEN = {**VIT, "freeze": ["channel_mixer", "block_norm"]}


def step_flops(one: TrialSpec) -> int:
    """FLOPs of forward and backward pass for one image, as torch counts them."""
    module = build(one.model, one.train.objective)
    initialise(module, one.model, one.train.objective, 0)
    images = torch.zeros(1, one.model.in_chans or 1, 8, 8)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        F.cross_entropy(module(images), torch.zeros(1, dtype=torch.long)).backward()
    return counter.get_total_flops()


def test_frozen_weights_stay_and_all_others_move() -> None:
    one = spec(MLP_FROZEN)
    first = initial_state(Job(one, 0), images_of(one))
    (last,) = trained([one], [0])
    unchanged = {name for name in first if torch.equal(first[name], last.state[name])}
    frozen = {tensor.name for tensor in parameters(one.model, one.train.objective) if tensor.part in one.model.freeze}
    assert len(frozen) == 2 * (4 + 4)
    assert unchanged == frozen


def test_they_are_not_counted_as_trained_and_their_gradients_cost_nothing() -> None:
    whole, part = spec(VIT), spec(MLP_FROZEN)
    mlp = 2 * 2 * 16 * 32  # two blocks, two matrices
    norms_and_biases = 2 * (4 * 16 + 32 + 16)
    counts = [num_params(one.model, one.train.objective) for one in (whole, part)]
    assert counts[0] - counts[1] == mlp + norms_and_biases
    saved = train_flops(whole.model, whole.train.objective, 1) - train_flops(part.model, part.train.objective, 1)
    assert saved == step_flops(whole) - step_flops(part) == 2 * mlp * 5  # four patches and the class token


def test_a_stage_freezes_the_weights_that_it_starts_from() -> None:
    whole, part = spec(VIT), spec(MLP_FROZEN)
    parent = {name: tensor + 1 for name, tensor in initial_state(Job(whole, 0), images_of(whole)).items()}
    start = initial_state(Job(part, 0, parent), images_of(part))
    assert torch.equal(start["blocks.1.mlp.fc1.weight"], parent["blocks.1.mlp.fc1.weight"])


def test_equal_sets_are_equal_and_the_default_is_in_no_id() -> None:
    assert spec({**VIT, "freeze": ["block_norm", "channel_mixer", "block_norm"]}) == spec(MLP_FROZEN) != spec(VIT)
    assert "freeze" not in spec(VIT).model.model_dump(exclude_defaults=True)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({**VIT, "freeze": ["layer_scale"]}, "model.freeze: this model has no weights in layer_scale; they are in"),
        ({**RESNET, "freeze": ["patch_embed"]}, "model.freeze: patch_embed: parts of a transformer; a ResNet trains"),
    ],
)  # fmt: skip
def test_parts_that_the_model_lacks_are_refused(model: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        spec(model)
    assert str(error.value).startswith(message)
    assert len(str(error.value).splitlines()) == 1


def test_a_head_cannot_be_frozen() -> None:
    with pytest.raises(ValueError, match="freeze"):
        ModelSpec(freeze=("head",))  # type: ignore[arg-type]
