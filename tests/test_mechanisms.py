"""Every mechanism keeps the contract; a mechanism is tested by one line in MECHANISMS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from vitbench.inspection.contract import check_mechanism, planning_loads_torch
from vitbench.model.sizes import transformer
from vitbench.model.tensors import Tensor
from vitbench.model.token_mixers.depthwise import DepthwiseConvolution
from vitbench.spec import mechanism as registry
from vitbench.spec.trial import ModelSpec

MECHANISMS = [
    ("patch_embed", "patchify"),
    ("patch_embed", "conv"),
    ("patch_embed", "overlap"),
    ("stages", "flat"),
    ("stages", "patch_merging"),
    ("stages", "convolution"),
    ("patch_embed", "dct"),
    ("patch_embed", "frequency_tokens"),
    ("patch_embed", "pixel_tokens"),
    ("position", "none"),
    ("position", "learned_1d"),
    ("position", "learned_2d"),
    ("position", "sincos_2d"),
    ("position", "relative_1d"),
    ("position", "relative_2d"),
    ("position", "rope_2d"),
    ("position", "alibi_2d"),
    ("token_mixer", "attention"),
    ("token_mixer", "depthwise"),
    ("token_mixer", "window"),
    ("token_mixer", "shifted_window"),
    ("token_mixer", "axial_alternate"),
    ("token_mixer", "local"),
    ("token_mixer", "sparse_strided"),
    ("token_mixer", "sparse_fixed"),
    ("token_mixer", "causal"),
    ("token_mixer", "mlp"),
    ("token_mixer", "pool"),
    ("token_mixer", "identity"),
    ("token_mixer", "random"),
    ("channel_mixer", "mlp"),
    ("readout", "token"),
    ("readout", "avg"),
    ("readout", "map"),
    ("objective", "classify"),
    ("objective", "masked_patch"),
    ("objective", "mae"),
    ("objective", "dino"),
    ("objective", "moco_v3"),
    ("objective", "distill"),
    ("objective", "pseudo_label"),
    ("objective", "igpt_ar"),
    ("objective", "igpt_bert"),
    ("objective", "diffuse"),
    ("objective", "contrastive"),
    ("objective", "segment"),
    ("objective", "detect"),
    ("objective", "vilt"),
    ("objective", 'vilt(negatives="relation")'),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), MECHANISMS)
def test_a_mechanism_keeps_the_contract(kind: str, name: str) -> None:
    assert check_mechanism(kind, name) == []


def test_every_mechanism_is_listed() -> None:
    """A hybrid's backbone is tested with the families."""
    kinds = {kind for kind, _ in MECHANISMS}
    found = {(kind, name) for kind in kinds for name in registry.registered(kind)}
    assert found - set(MECHANISMS) == {("patch_embed", "backbone")}


def test_planning_loads_no_torch() -> None:
    assert not planning_loads_torch()


class WrongFlops(DepthwiseConvolution):
    name: ClassVar[str] = "wrong_flops"

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        for tensor in super().tensors(model):
            yield Tensor(tensor.name, tensor.shape, tensor.init, 2 * tensor.uses, decay=tensor.decay)


class NameClash(DepthwiseConvolution):
    name: ClassVar[str] = "name_clash"

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        yield from super().tensors(model)
        yield Tensor("bias", (transformer(model).embed_dim,), "zeros")


class NoDecayFlag(DepthwiseConvolution):
    name: ClassVar[str] = "no_decay_flag"

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        for tensor in super().tensors(model):
            yield Tensor(tensor.name, tensor.shape, tensor.init, tensor.uses)


class LyingExport(DepthwiseConvolution):
    name: ClassVar[str] = "lying_export"

    def timm(self, model: ModelSpec) -> dict[str, Any] | str:
        return {}


class HiddenState(DepthwiseConvolution):
    name: ClassVar[str] = "hidden_state"

    def module(self, model: ModelSpec, layer: int) -> Any:
        module = super().module(model, layer)
        forward, calls = module.forward, [0]

        def counting(x: Any) -> Any:
            calls[0] += 1
            return forward(x) * (1.0 + 0.1 * calls[0])

        module.forward = counting  # type: ignore[method-assign]
        return module


class IdleField(DepthwiseConvolution):
    name: ClassVar[str] = "idle_field"
    colour: int = 3


FAULTS = [
    (WrongFlops, "costs: "),
    (NameClash, "state: two tensors are called blocks.0.mixer.bias"),
    (NoDecayFlag, "decay: blocks.0.mixer.weight does not say"),
    (LyingExport, "exporting: "),
    (HiddenState, "resuming: after a resume"),
    (IdleField, "fields: colour changes neither tensors nor answers"),
]


for _planted, _ in FAULTS:  # A planted mechanism is registered only while its test runs.
    registry._REGISTRY.pop(("token_mixer", _planted.name))


@pytest.mark.slow
@pytest.mark.parametrize(("planted", "complaint"), FAULTS)
def test_a_planted_fault_is_caught(planted: type[DepthwiseConvolution], complaint: str) -> None:
    registry._REGISTRY["token_mixer", planted.name] = planted
    try:
        complaints = check_mechanism("token_mixer", planted.name)
    finally:
        del registry._REGISTRY["token_mixer", planted.name]
        registry._NAMED.clear()
    assert any(line.startswith(complaint) for line in complaints), complaints
