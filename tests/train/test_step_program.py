"""How a step runs: it never waits for the device; compiled and captured steps give the numbers of eager ones."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from tiny_jobs import CPU, RESNET, VIT, assert_same_training, images_of, spec, trainer

from vitbench.base.errors import InputError
from vitbench.train.loop import train_stack
from vitbench.train.step_program import WARM_UP, Graph, program_of
from vitbench.train.trainer import Job, Trainer

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
HYBRID = {"family": "hybrid", "layers": (1, 1), "width_factor": 0.25, "root": "small", **{**VIT, "patch_size": 1}}


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
    with pytest.warns(UserWarning, match="cannot be a CUDA graph"):
        graph({"x": torch.ones(())})
    graph({"x": torch.ones(())})
    assert sums == WARM_UP + 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_is_eager_within_rounding() -> None:
    one = spec({**VIT, "depth": 1}, steps=8)
    eager, compiled = (
        train_stack(Trainer([Job(one, 0)], images_of(one), CPU, program), lambda *_: None)[0]
        for program in ("eager", "compile")
    )
    assert_same_training(compiled, eager)


@needs_cuda
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


@needs_cuda
def test_a_graph_is_captured_once_per_shape_and_replayed() -> None:
    total = torch.zeros((), device="cuda")
    graph = Graph(lambda inputs: total.add_(inputs["x"].sum()))
    for k in range(WARM_UP + 3):
        graph({"x": torch.full((2,), float(k), device="cuda")})
    assert len(graph.captured) == 1
    assert total.item() == 2 * sum(range(WARM_UP + 3))
    graph({"x": torch.ones(3, device="cuda")})
    assert len(graph.captured) == 1, "a new shape warms up first"
    assert total.item() == 2 * sum(range(WARM_UP + 3)) + 3
