"""A stack is its members, whatever the model; a step never waits for the device; compiled is eager within rounding."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import torch
from tiny_jobs import CPU, RESNET, VIT, images_of, spec, trained, trainer

from vitbench.base.errors import InputError
from vitbench.train.loop import Trained, train_stack
from vitbench.train.step_program import WARM_UP, Graph, program_of
from vitbench.train.trainer import Job, Trainer

POSITIONS = ("none", "learned_1d", "learned_2d", "relative_1d", "relative_2d", "sincos_2d", "rope_2d")
HYBRID = {"family": "hybrid", "layers": (1, 1), "width_factor": 0.25, "root": "small", **{**VIT, "patch_size": 1}}
CONV = {"steps": 10, "sched": "constant", "opt": "sgd"}
"""Adam's first steps move a weight by the whole rate even where its gradient is rounding: standardised kernels."""
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **{f"positions {kind}": ({**VIT, "pos_embed": kind}, {}) for kind in POSITIONS},
    "average": ({**VIT, "global_pool": "avg", "final_norm": "after_pool"}, {}),
    "map": ({**VIT, "global_pool": "map"}, {}),
    "conv stem": ({**VIT, "stem": "conv"}, {"steps": 20}),
    "ResNet, GroupNorm": (RESNET, CONV),
    "ResNet, BatchNorm": ({**RESNET, "norm_layer": "batch"}, CONV),
    "hybrid": (HYBRID, CONV),
    "augment none": (VIT, {"augment": "none"}),
    "augment medium": (VIT, {"augment": "medium"}),
}


def assert_same_training(stacked: Trained, alone: Trained) -> None:
    """Losses within 1e-4, relative; weights within 1e-3, but for the keys' bias, which softmax ignores."""
    losses, expected = ([point.train_loss for point in member.curve] for member in (stacked, alone))
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for name, tensor in alone.state.items():
        own = stacked.state[name]
        if name.endswith("qkv.bias"):
            own, tensor = (torch.cat([x.chunk(3)[0], x.chunk(3)[2]]) for x in (own, tensor))
        torch.testing.assert_close(own, tensor, rtol=0, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_of_three_is_its_members(kind: str) -> None:
    """Rates and decays differ; nothing warns of a slow path."""
    model, train = KINDS[kind]
    own = [{"lr": 3e-3}, {"lr": 1e-3, "weight_decay": 0.3}, {"lr": 5e-3, "weight_decay": 0.0}]
    specs = [spec(model, **{"steps": 50, **train, **each}) for each in own]
    stacked = trained(specs, [0, 1, 2])
    for one, seed, member in zip(specs, (0, 1, 2), stacked, strict=True):
        assert_same_training(member, trained([one], [seed])[0])


def test_a_ragged_rest_is_the_same_trainings() -> None:
    """Five trials as 3 + 2, as 4 + 1 and as 5."""
    specs, seeds = [spec(lr=1e-3 * (k + 1)) for k in range(5)], list(range(5))
    whole = trained(specs, seeds)
    for cut in (3, 4):
        parts = [*trained(specs[:cut], seeds[:cut]), *trained(specs[cut:], seeds[cut:])]
        for member, expected in zip(parts, whole, strict=True):
            assert_same_training(member, expected)


@pytest.mark.parametrize("kind", [{}, {"augment": "medium"}, {"objective": "downsampled"}, {"grad_accum": 2}])
def test_a_step_does_not_wait_for_the_device(kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer([spec(**kind), spec(**kind, lr=1e-3)], [0, 1])
    made.step(0)

    def waits(*_: Any) -> Any:
        raise AssertionError("the host waits for the device")

    for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, waits)
    made.step(1)
    with pytest.raises(AssertionError, match="waits"):
        float(made.loss_sum[0])


def test_the_test_images_are_run_once_for_the_whole_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen = trainer([spec(), spec(), spec()], [0, 1, 2]), []
    forward = made.stack.forward

    def counting(*inputs: torch.Tensor, **given: Any) -> torch.Tensor:
        seen.append(inputs[0].shape[:2].numel())
        return forward(*inputs, **given)

    monkeypatch.setattr(made.stack, "forward", counting)
    answers = made.test()
    assert sum(seen) == sum(len(used.test) for used in made.used)
    assert len(answers) == 3


RECOMPUTED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({**VIT, "pos_embed": "relative_2d"}, {}),
    ({**VIT, "pos_placement": "every_layer", "drop_rate": 0.1, "drop_path_rate": 0.1}, {"grad_accum": 2}),
    (VIT, {"objective": "pixels"}),
    (HYBRID, {}),
]


@pytest.mark.parametrize(("model", "train"), RECOMPUTED)
def test_recomputed_blocks_change_no_bit(model: dict[str, Any], train: dict[str, Any]) -> None:
    one = spec(model, steps=4, **train)
    plain, again = (
        train_stack(Trainer([Job(one, 0)], images_of(one), CPU, recompute=recompute), lambda *_: None)[0]
        for recompute in (False, True)
    )
    assert plain.curve == again.curve
    assert all(torch.equal(tensor, again.state[name]) for name, tensor in plain.state.items())


def test_recomputed_blocks_are_not_kept() -> None:
    one = spec({**VIT, "depth": 6})

    def kept(recompute: bool) -> int:
        found: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        made = Trainer([Job(one, 0)], images_of(one), CPU, recompute=recompute)
        images = torch.zeros(1, 16, 1, 8, 8)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            made.stack.forward(images, train=True)
        return sum(found.values())

    assert kept(True) < 0.5 * kept(False)


@pytest.mark.parametrize("model", [RESNET, HYBRID])
def test_channels_last_is_a_matter_of_memory(model: dict[str, Any]) -> None:
    made = trainer([spec(model)], [0])
    images = torch.randn(1, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert not made.stack.channels_last, "on CUDA alone"
    plain = made.stack.forward(images, train=True)
    made.stack.channels_last = True
    torch.testing.assert_close(made.stack.forward(images, train=True), plain)


def test_a_step_that_no_graph_can_hold_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = torch.zeros(())

    def refuse(*_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    graph = Graph(lambda given: sums.add_(given["x"]))
    monkeypatch.setattr(graph, "_beside", graph.function)
    monkeypatch.setattr(graph, "_capture", refuse)
    for _ in range(WARM_UP):
        graph({"x": torch.ones(())})
    with pytest.warns(UserWarning, match="no CUDA graph"):
        graph({"x": torch.ones(())})
    graph({"x": torch.ones(())})
    assert sums == WARM_UP + 2


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_is_eager_within_rounding() -> None:
    one = spec({**VIT, "depth": 1}, steps=8)
    eager, compiled = (
        train_stack(Trainer([Job(one, 0)], images_of(one), CPU, program), lambda *_: None)[0]
        for program in ("eager", "compile")
    )
    assert_same_training(compiled, eager)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device; there is none here")
def test_a_graph_is_eager_bit_for_bit() -> None:
    one, device = spec(steps=20, augment="medium"), torch.device("cuda")
    from vitbench.data import DataOptions
    from vitbench.train.resident import load_images

    images = load_images(one.data, DataOptions(), device)
    eager, graph = (
        train_stack(Trainer([Job(one, 0)], images, device, program), lambda *_: None)[0]
        for program in ("eager", "graph")
    )
    assert all(torch.equal(tensor, graph.state[name]) for name, tensor in eager.state.items())


def test_the_program_follows_device_length_and_dropout() -> None:
    short, long, drops = spec(steps=20), spec(steps=500), spec({**VIT, "drop_rate": 0.1}, steps=500)
    assert program_of("auto", "cpu", 1e20, long) == "eager"
    assert program_of("auto", "cuda", 1e9, short) == "eager"
    assert program_of("auto", "cuda:1", 1e9, long) == "graph"
    assert program_of("auto", "cuda", 1e18, long) == "compile"
    assert program_of("graph", "cuda", 1e18, drops) == "eager"
    assert program_of("compile", "cpu", 1e9, long) == "compile"
    with pytest.raises(InputError, match="--program fast: allowed are auto, eager, graph, compile"):
        program_of("fast", "cpu", 1e9, long)
    with pytest.raises(InputError, match="need a CUDA device"):
        program_of("graph", "cpu", 1e9, long)


def test_a_graph_is_captured_once_a_shape_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The book-keeping around a graph, with a capture that records the call; CUDA itself is not exercised."""
    calls: list[float] = []
    graph = Graph(lambda given: calls.append(float(given["x"].sum())))
    replayed: list[int] = []

    class Recorded:
        def replay(self) -> None:
            replayed.append(1)

    monkeypatch.setattr(Graph, "_beside", lambda self, given: self.function(given))
    monkeypatch.setattr(Graph, "_capture", lambda self, given: (Recorded(), {k: v.clone() for k, v in given.items()}))
    for k in range(6):
        graph({"x": torch.full((2,), float(k))})
    assert calls == [0.0, 2.0, 4.0]
    assert len(replayed) == 3
    ((_, static),) = graph.captured.values()
    assert static["x"].tolist() == [5.0, 5.0]
    graph({"x": torch.zeros(3)})
    assert len(graph.captured) == 1
