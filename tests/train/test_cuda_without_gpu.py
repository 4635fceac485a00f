"""CUDA's rules without a GPU: one device, no waiting in a step, and graphs that replay what a step computes.

Values, streams and missing kernels need a GPU: `vitbench bench cuda`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from fake_cuda import CUDA, WaitError, step_on_fake_cuda, tensors_of
from recorded_graph import stand_in
from tiny_jobs import CPU, RESNET, VIT, images_of
from tiny_jobs import spec as tiny_spec
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, facts
from vitbench.data.image_columns import ALWAYS
from vitbench.inspection.specimen import SCENES_PER_FAKE, TINY, networks_of
from vitbench.model.mechanisms import MODEL_KINDS
from vitbench.model.objective import objective_of
from vitbench.plan.resolve import resolve
from vitbench.spec.mechanism import registered
from vitbench.spec.trial import DataSpec, Family, ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec
from vitbench.train.step_program import WARM_UP, Given, Graph
from vitbench.train.trainer import Job, Trainer

Names = dict[str, str]
KINDS = (*MODEL_KINDS, "objective")
NEEDS_FAMILY = {"patch_embed": {"backbone"}}
"""Mechanisms of a family; `FAMILIES` has them."""
TRIES = 3
"""Names of one kind that are tried beside the other mechanisms of a model; a name that fits nowhere stands alone."""
FAMILIES: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "resnet": RESNET,
    "hybrid": {"family": "hybrid", "layers": (1, 1), "width_factor": 0.25, "root": "small", **VIT, "patch_size": 1},
}
SWITCHES: list[dict[str, Any]] = [
    {"mixup": 0.2, "cutmix": 1.0, "reprob": 0.25},
    {"cutmix": 1.0, "class_weights": "balanced", "smoothing": 0.1},
    {"clip_grad": None, "layer_decay": 0.8, "model_ema": True},
    {"grad_accum": 3},
]
"""Values of numbers; options by name come from the fields themselves."""


def train_settings() -> Iterator[dict[str, Any]]:
    """Settings of `train` that together have every named option of every field, and the switches."""
    options = [
        {name: option}
        for name, field in TrainSpec.model_fields.items()
        if get_origin(field.annotation) is Literal
        for option in get_args(field.annotation)
        if option != field.default
    ]
    for option, switch in itertools.zip_longest(options, SWITCHES, fillvalue={}):
        yield {**switch, **option}


def spec_of(names: Names, pool: str = "token", patch_size: int = 2, **train: Any) -> TrialSpec:
    """The tiny ViT with the named mechanisms. Raises InputError."""
    objective = objective_of(ObjectiveSpec(name=names.get("objective", "classify")))
    model = {**TINY, "global_pool": pool, "patch_size": patch_size, **objective.required}
    model |= {MODEL_KINDS[kind]: name for kind, name in names.items() if kind in MODEL_KINDS}
    settings = {"steps": 4, "batch_size": 12, "objective": ObjectiveSpec(name=names.get("objective", "classify"))}
    data = "fake"
    if objective.columns - ALWAYS:
        data, settings["augment"] = "scenes", "none"
        model["patch_size"] *= SCENES_PER_FAKE
    written = TrialSpec(
        model=ModelSpec(**model), data=DataSpec(name=data, val_fraction=0.2), train=TrainSpec(**{**settings, **train})
    )
    return resolve(written, facts(data, DataOptions()), networks_of(written))


def held(names: Names, **train: Any) -> TrialSpec | None:
    """A tiny ViT with all these mechanisms; None if no such model exists."""
    for pool, patch_size in (("token", 2), ("avg", 2), ("token", 4)):
        try:
            return spec_of(names, pool, patch_size, **train)
        except InputError:
            continue
    return None


def covering() -> list[Names]:
    """Sets of mechanisms that one model can hold, few in number, which together have every registered mechanism."""
    left = {kind: sorted(registered(kind).keys() - NEEDS_FAMILY.get(kind, set())) for kind in KINDS}
    models: list[Names] = []
    while any(left.values()):
        names: Names = {}
        for kind in KINDS:
            fits = (name for name in left[kind][:TRIES] if held({**names, kind: name}) is not None)
            if (name := next(fits, None)) is not None:
                names[kind] = name
                left[kind].remove(name)
        assert names, f"no tiny ViT holds any of {left}"
        models.append(names)
    return models


def on_device(stack: Trainer) -> None:
    """Fail if a tensor of a trainer is elsewhere."""
    elsewhere = [name for name, tensor in tensors_of(stack) if tensor.device != CUDA]
    assert not elsewhere


def covering_specs() -> Iterator[TrialSpec]:
    """Specs that together have every mechanism and every setting."""
    models = covering()
    for train in train_settings():
        names, spec = next((names, spec) for names in models if (spec := held(names, **train)) is not None)
        models.remove(names)
        yield spec
    yield from (spec for names in models if (spec := held(names)) is not None)


@pytest.mark.slow
def test_every_mechanism_and_setting() -> None:
    """Faults are collected, so that one run shows all of them."""
    faults, validated = list[str](), set[str]()
    for spec in covering_specs():
        objective = spec.train.objective.name.partition("(")[0]
        try:
            on_device(step_on_fake_cuda(spec, validate=objective not in validated))
        except Exception as error:
            changes = spec.model_dump(exclude_defaults=True)
            faults.append(f"{changes}: {type(error).__name__}: {str(error)[:300]}")
        validated.add(objective)
    assert not faults, "\n".join(faults)
    assert validated == registered("objective").keys()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str) -> None:
    dropping = {"drop_rate": 0.1, "drop_path_rate": 0.1} if family == "vit" else {}
    on_device(step_on_fake_cuda(tiny_spec({**FAMILIES[family], **dropping}, augment="medium"), validate=True))


def test_every_family_is_listed() -> None:
    assert FAMILIES.keys() == set(get_args(Family))


@pytest.mark.slow
def test_a_stack() -> None:
    on_device(step_on_fake_cuda(tiny_spec({**VIT, "depth": 1}, augment="medium"), num_members=2))


def labels_on_the_cpu(stack: Trainer) -> None:
    stack.class_of = torch.zeros(stack.class_of.shape, dtype=torch.int64)


def rates_on_the_cpu(stack: Trainer) -> None:
    stack.rates = torch.ones(stack.rates.shape)


def statistics_on_the_cpu(stack: Trainer) -> None:
    object.__setattr__(stack.images, "mean", torch.zeros(1, 1, 1))
    object.__setattr__(stack.images, "std", torch.ones(stack.images.std.shape))


def after_the_loss(plant: Any) -> Any:
    """A fault that calls `plant(loss)` in every step."""

    def planted(stack: Trainer) -> None:
        losses = stack._losses
        stack._losses = lambda given: plant(losses(given))  # type: ignore[method-assign]

    return planted


def asks_for_a_number(loss: torch.Tensor) -> torch.Tensor:
    return loss * loss.sum().item()


def decides_by_a_number(loss: torch.Tensor) -> torch.Tensor:
    return loss if loss.sum() > 0 else -loss


def reads_on_the_host(loss: torch.Tensor) -> torch.Tensor:
    loss.detach().cpu()
    return loss


def picks_by_value(loss: torch.Tensor) -> torch.Tensor:
    return loss[loss.detach() > 0]


def copies_and_waits(loss: torch.Tensor) -> torch.Tensor:
    return loss * torch.ones(1).to(loss.device)


MIXED = r"two (different )?devices"
"""Of torch's message; its class has a name of its own since 2.15 only."""
PLANTED = [
    (labels_on_the_cpu, RuntimeError, MIXED),
    (rates_on_the_cpu, RuntimeError, MIXED),
    (statistics_on_the_cpu, RuntimeError, MIXED),
    (after_the_loss(asks_for_a_number), DataDependentOutputException, None),
    (after_the_loss(decides_by_a_number), DataDependentOutputException, None),
    (after_the_loss(picks_by_value), DynamicOutputShapeException, None),
    (after_the_loss(reads_on_the_host), WaitError, None),
    (after_the_loss(copies_and_waits), WaitError, None),
]


def test_planted_faults_are_caught() -> None:
    """Mixed devices and waits; the same step without a fault passes."""
    spec = tiny_spec({**VIT, "depth": 1})
    on_device(step_on_fake_cuda(spec))
    for plant, error, message in PLANTED:
        with pytest.raises(error, match=message):
            step_on_fake_cuda(spec, plant=plant)


GRAPHED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (VIT, {"augment": "medium", "model_ema": True, "grad_accum": 3}),
    (VIT, {"objective": "downsampled", "clip_grad": 0.1}),
    (RESNET, {"opt": "sgd", "cutmix": 1.0, "reprob": 0.5}),
]
NUM_STEPS = WARM_UP + 4


def graphed(spec: TrialSpec, program: Any, plant: Any = None) -> Trainer:
    """A trainer on the CPU after some steps."""
    stack = Trainer([Job(spec, 0)], images_of(spec), CPU, program)
    if plant is not None:
        plant(stack)
    for step in range(NUM_STEPS):
        stack.step(step)
    return stack


@pytest.mark.parametrize(("model", "train"), GRAPHED)
def test_replayed_steps_are_the_steps(
    model: dict[str, Any], train: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal bits, with one graph for each size of a micro-batch (16 images in 3 parts: 6, 5, 5)."""
    stand_in(monkeypatch)
    spec = tiny_spec(model, **train)
    eager, replayed = graphed(spec, "eager"), graphed(spec, "graph")
    assert torch.equal(eager.stack.flat, replayed.stack.flat)
    assert torch.equal(eager.evaluated, replayed.evaluated)
    assert torch.equal(eager.loss_sum, replayed.loss_sum)
    captured: list[Any] = [program.captured for program in (replayed._add, replayed._move)]  # type: ignore[attr-defined]
    assert len(captured[0]) == min(2, spec.train.grad_accum)
    assert [graph.num_replays for graph, _ in captured[1].values()] == [NUM_STEPS - WARM_UP]


def a_number_of_the_host(stack: Trainer) -> None:
    """The rate is multiplied by a count that Python keeps."""
    move, count = stack._update, itertools.count(1)

    def counting(given: Given) -> None:
        move({**given, "lr": given["lr"] * float(next(count))})

    stack._move = Graph(counting) if isinstance(stack._move, Graph) else counting


def a_new_tensor(stack: Trainer) -> None:
    """The sum of losses is a new tensor in every step."""
    move = stack._update

    def allocating(given: Given) -> None:
        stack.loss_sum = stack.loss_sum + stack.total
        move(given)

    stack._move = Graph(allocating) if isinstance(stack._move, Graph) else allocating


@pytest.mark.parametrize("plant", [a_number_of_the_host, a_new_tensor])
def test_the_stand_in_sees_what_a_graph_cannot_hold(plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    spec = tiny_spec({**VIT, "depth": 1})
    eager, replayed = (graphed(spec, program, plant) for program in ("eager", "graph"))
    sums = [torch.cat([stack.stack.flat.ravel(), stack.loss_sum]) for stack in (eager, replayed)]
    assert not torch.equal(*sums)


def test_a_graph_warms_up_once_per_shape_and_copies_its_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    total, calls = torch.zeros(()), list[int]()

    def add(given: Given) -> None:
        calls.append(len(given["x"]))
        total.add_(given["x"].sum())

    graph, expected = Graph(add), 0.0
    for length in (2, 3):
        for number in range(WARM_UP + 4):
            graph({"x": torch.full((length,), float(number))})
            expected += length * number
            assert float(total) == expected, "the call with these numbers, once"
    assert calls == [2] * (WARM_UP + 1) + [3] * (WARM_UP + 1), "warm-up and capture call the function, replays do not"
    assert len(graph.captured) == 2
