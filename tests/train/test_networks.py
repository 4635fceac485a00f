"""Objectives with several networks: a frozen teacher, a moving average, and state of their own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, facts
from vitbench.inspection import contract
from vitbench.inspection.contract import check_mechanism
from vitbench.inspection.specimen import (
    NUM_STEPS,
    Specimen,
    inputs,
    networks_of,
    noisy_module,
    spec_with,
    trained,
    trainer_of,
)
from vitbench.model.build import build
from vitbench.model.costs import check, parameters
from vitbench.model.objective import AVERAGE, STUDENT, Call, Given, Pass
from vitbench.plan.resolve import resolve
from vitbench.spec import mechanism as registry
from vitbench.spec.trial import ModelSpec, ObjectiveSpec, TrialSpec
from vitbench.train.networks import Networks
from vitbench.train.objectives.classify import Classify
from vitbench.train.resident import load_images
from vitbench.train.trainer import Job, Trainer


class MeanTeacher(Classify):
    """Labels, and answers like those of the moving average, less their running mean."""

    name: ClassVar[str] = "mean_teacher_of_this_test"
    networks: ClassVar[Mapping[str, str]] = {"mean": AVERAGE}

    def momentum_at(self, role: str, step: int, num_steps: int) -> float:
        return 0.5 + 0.4 * step / num_steps

    def state(self, model: ModelSpec) -> Mapping[str, tuple[int, ...]]:
        return {"centre": (model.num_classes or 0,), "latest": (model.num_classes or 0,)}

    def loss(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        pixels = self.pixels(call, unit, given)
        logits, mean = call.forward(pixels, train=True), call.outputs_of("mean", pixels)
        call.state["latest"].copy_(mean.detach().mean(1))
        distance = (logits - mean + call.state["centre"].unsqueeze(1)).square().mean((1, 2))
        return self.labelled(call, logits, given) + distance

    def after_step(self, call: Call) -> None:
        call.state["centre"].lerp_(call.state["latest"], 0.3)


class TwoViews(Classify):
    """Labels, and equal answers to two views of an image."""

    name: ClassVar[str] = "two_views_of_this_test"

    @property
    def num_views(self) -> int:
        return 2

    def passes(self, model: ModelSpec) -> list[Pass]:
        return [Pass(STUDENT, num_views=2)]

    def loss(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        one, other = (call.forward(call.standardise(images), train=True) for images in (unit, call.view(1)))
        return self.labelled(call, one, given) + (one - other).square().mean((1, 2))


for _planted in (MeanTeacher, TwoViews):  # Registered only while a test asks for it.
    registry._REGISTRY.pop(("objective", _planted.name))


@pytest.fixture
def mean_teacher() -> Iterator[TrialSpec]:
    registry._REGISTRY["objective", MeanTeacher.name] = MeanTeacher
    yield spec_with("objective", MeanTeacher.name)
    registry._REGISTRY.pop(("objective", MeanTeacher.name))
    registry._NAMED.clear()


def test_a_moving_average_follows_the_weights_after_every_step(mean_teacher: TrialSpec) -> None:
    trainer = trainer_of(mean_teacher, (0, 1))
    expected = trainer.stack.flat.clone()
    for step in range(NUM_STEPS):
        trainer.step(step)
        momentum = 0.5 + 0.4 * step / NUM_STEPS
        expected = momentum * expected + (1 - momentum) * trainer.stack.flat
    trainer.feed.close()
    torch.testing.assert_close(trainer.networks.averages["mean"], expected)
    assert trainer.networks.state["centre"].abs().min() > 0


def test_a_diverged_members_average_stays(mean_teacher: TrialSpec) -> None:
    trainer = trainer_of(mean_teacher, (0, 1))
    before = trainer.networks.averages["mean"].clone()
    trainer.networks.update(trainer.networks.numbers(0), torch.tensor([[1.0], [0.0]]))
    trainer.stack.flat.add_(1.0)
    trainer.networks.update(trainer.networks.numbers(0), torch.tensor([[1.0], [0.0]]))
    after = trainer.networks.averages["mean"]
    torch.testing.assert_close(after[0], before[0] + 0.5)
    assert torch.equal(after[1], before[1])


def test_an_objective_with_a_moving_average_keeps_the_contract(mean_teacher: TrialSpec) -> None:
    assert check_mechanism("objective", MeanTeacher.name) == []


def test_the_contract_notices_networks_that_are_in_no_checkpoint(
    mean_teacher: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Networks, "tensors", lambda self: {})
    assert any(line.startswith("resuming: ") for line in check_mechanism("objective", MeanTeacher.name))


def test_the_contract_notices_a_forward_pass_that_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from vitbench.train.objectives.distill import Distill

    monkeypatch.setattr(Distill, "passes", lambda self, model: [Pass(STUDENT)])
    assert any("FLOPs are listed for one step" in line for line in check_mechanism("objective", "distill"))


def cross_entropy(logits: np.ndarray, label: int) -> float:
    return float(np.log(np.exp(logits).sum()) - logits[label])


def soft_distance(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    """temperature**2 x sum of p log(p / q) over classes, written out for one image."""
    q, p = (np.exp(z / temperature) / np.exp(z / temperature).sum() for z in (student, teacher))
    return temperature**2 * sum(float(a) * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize(
    ("text", "distance"),
    [
        ("distill", lambda s, t: soft_distance(s, t, 3.0)),
        ("distill(temperature=1.5)", lambda s, t: soft_distance(s, t, 1.5)),
        ('distill(kl_reduction="mean")', lambda s, t: soft_distance(s, t, 3.0) / len(s)),
        ('distill(type="hard")', lambda s, t: cross_entropy(s, int(t.argmax()))),
    ],
)
def test_the_loss_is_the_papers(text: str, distance: Any) -> None:
    """Against a loop over images in double precision, for two stacked seeds with teachers of their own."""
    spec = spec_with("objective", text.replace(")", ", alpha=0.25)") if "(" in text else "distill(alpha=0.25)")
    trainer = trainer_of(spec, (0, 1))
    trainer.stack.flat.add_(
        torch.randn(trainer.stack.flat.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1
    )
    (batches, pixels, draws), *_ = trainer.feed.raw(0)
    given = {"pixels": pixels, "draws": draws, **trainer._drawn(batches)}
    losses = trainer._losses(given).detach()
    unit = trainer.feed.unit(pixels, draws)
    images = trainer.images.standardise(unit.view(2, -1, *unit.shape[1:]))
    labels = trainer.class_of.gather(1, given["index"])
    trainer.feed.close()
    student = noisy_module(spec)
    for member in range(2):
        student.load_state_dict(trainer.stack.state(member))
        teacher = noisy_module(networks_of(spec)["teacher"], member)
        with torch.no_grad():
            ours, theirs = (net(images[member]).double().numpy() for net in (student, teacher))
        each = [
            0.75 * cross_entropy(s, label) + 0.25 * distance(s, t)
            for s, t, label in zip(ours, theirs, labels[member].tolist(), strict=True)
        ]
        assert float(losses[member]) == pytest.approx(np.mean(each), rel=1e-5)


def with_token(spec: TrialSpec) -> TrialSpec:
    return spec.model_copy(update={"model": spec.model.model_copy(update={"dist_token": True, "reg_tokens": 1})})


def test_a_distillation_token_keeps_the_contract() -> None:
    """A field of the model, so it has no line of its own in the list of mechanisms."""
    spec = with_token(spec_with("objective", "distill"))
    case = Specimen("objective", "distill", spec, spec_with("objective", None))
    checks = [check for check in (contract._state, contract._decay, *contract.CHECKS) if check != contract._difference]
    assert [line for check in checks for line in check(case)] == []
    names = {tensor.name for tensor in parameters(spec.model, spec.train.objective)}
    assert {"dist_token", "reg_token", "head_dist.weight", "head_dist.bias"} < names


def test_labels_train_the_class_token_and_the_teacher_the_distillation_token() -> None:
    spec = with_token(spec_with("objective", "distill(alpha=1.0)"))
    trainer = trainer_of(spec, (0,))
    (batches, pixels, draws), *_ = trainer.feed.raw(0)
    trainer._accumulate({"pixels": pixels, "draws": draws, **trainer._drawn(batches)})
    trainer.feed.close()
    grads = {name: view[0].abs().max().item() for name, view in trainer.stack._views(trainer.stack.grad).items()}
    assert (grads["head.weight"], grads["head.bias"]) == (0.0, 0.0)
    assert grads["head_dist.weight"] > 0
    module = noisy_module(spec)
    images = inputs(spec, 2)[0]
    with torch.no_grad():
        tokens = module.forward_features(images)
        class_head, dist_head = module.head(tokens[:, 0]), module.head_dist(tokens[:, 1])
        torch.testing.assert_close(module(images), (class_head + dist_head) / 2)
        torch.testing.assert_close(module.train()(images), torch.stack([class_head, dist_head], 1))


def test_labels_train_both_class_tokens() -> None:
    """Without a teacher: the mean of both heads' cross entropies, and gradients for both tokens."""
    spec = with_token(spec_with("objective", None))
    trainer = trainer_of(spec, (0,))
    (batches, pixels, draws), *_ = trainer.feed.raw(0)
    given = {"pixels": pixels, "draws": draws, **trainer._drawn(batches)}
    (loss,) = trainer._losses(given).tolist()
    trainer._accumulate(given)
    trainer.feed.close()
    module: Any = build(spec.model, spec.train.objective)
    module.load_state_dict(trainer.stack.state(0))
    unit = trainer.images.standardise(trainer._view(given, 0)[0])
    labels = trainer.calls.labels(given["index"])[0]
    tokens = module.forward_features(unit)
    heads = (module.head(tokens[:, 0]), module.head_dist(tokens[:, 1]))
    expected = [float(torch.nn.functional.cross_entropy(logits, labels)) for logits in heads]
    assert loss == pytest.approx(sum(expected) / 2, rel=1e-5)
    grads = {name: view[0].abs().max().item() for name, view in trainer.stack._views(trainer.stack.grad).items()}
    assert min(grads["head.weight"], grads["head_dist.weight"]) > 0


@pytest.mark.parametrize(
    ("objective", "fields", "message"),
    [
        ("mae", {}, "model.dist_token: train.objective mae trains no second token; classify and distill do"),
        ("distill", {"global_pool": "avg"}, "model.dist_token: stands beside a class token that is read"),
    ],
)
def test_a_second_token_that_nothing_trains_or_reads_is_refused(
    objective: str, fields: dict[str, Any], message: str
) -> None:
    model = with_token(spec_with("objective", None)).model.model_copy(update=fields)
    (problem,) = check(model, ObjectiveSpec(name=objective))
    assert problem.startswith(message)


def test_no_gradient_reaches_the_teacher() -> None:
    before = trainer_of(spec_with("objective", "distill"), (0,))
    teacher = before.networks.frozen["teacher"]
    after = trained(spec_with("objective", "distill"), (0,)).networks.frozen["teacher"]
    assert torch.equal(teacher.flat, after.flat)
    assert after.grad.numel() == 0
    assert not any(parameter.requires_grad for parameter in after.params.values())


@pytest.fixture
def two_views() -> Iterator[TrialSpec]:
    registry._REGISTRY["objective", TwoViews.name] = TwoViews
    yield spec_with("objective", TwoViews.name)
    registry._REGISTRY.pop(("objective", TwoViews.name))
    registry._NAMED.clear()


def test_views_of_an_image_have_draws_of_their_own_and_the_first_is_every_objectives(two_views: TrialSpec) -> None:
    """Pairing: an arm with views sees, as view 0, what an arm without them sees."""
    (batches, pixels, draws), *_ = (trainer := trainer_of(two_views, (0, 1))).feed.raw(0)
    given = {"pixels": pixels, "draws": draws}
    first, second = (trainer._view(given, number) for number in (0, 1))
    (_, plain_pixels, plain_draws), *_ = (plain := trainer_of(spec_with("objective", None), (0, 1))).feed.raw(0)
    assert torch.equal(first, plain._view({"pixels": plain_pixels, "draws": plain_draws}, 0))
    assert first.shape == second.shape
    differing = (first != second).flatten(2).any(-1).double().mean()
    assert differing > 0.5
    again = trainer_of(two_views, (1,))
    (_, pixels, draws), *_ = again.feed.raw(0)
    assert torch.equal(again._view({"pixels": pixels, "draws": draws}, 1)[0], second[1])
    assert len(batches) == 2


def test_an_objective_with_views_keeps_the_contract(two_views: TrialSpec) -> None:
    assert check_mechanism("objective", TwoViews.name) == []


def test_views_without_an_augmentation_are_refused_by_the_plan(two_views: TrialSpec) -> None:
    written = two_views.model_copy(update={"train": two_views.train.model_copy(update={"augment": "none"})})
    with pytest.raises(InputError, match=r"compares views of an image; set train\.augment: light"):
        resolve(written, facts("fake", DataOptions()))


def test_views_of_streamed_images_are_refused(two_views: TrialSpec) -> None:
    """Their crops are cut where they are read, one per image."""
    cpu = torch.device("cpu")
    images = load_images(two_views.data, DataOptions(stream=True, num_workers=0), cpu)
    with pytest.raises(InputError, match="several views need images that fit in memory"):
        Trainer([Job(two_views, 0)], images, cpu)
