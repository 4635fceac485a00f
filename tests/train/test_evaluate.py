"""Exact evaluation: every image once, and no NaN that counts as a class."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_jobs import CPU, spec, trainer

from vitbench.data import DataOptions
from vitbench.spec.trial import EvaluateSpec
from vitbench.train import evaluate as module
from vitbench.train.evaluate import evaluate, logits_of, probes
from vitbench.train.resident import load_images


@pytest.mark.parametrize("batch", [7, 100, 256, 512])
def test_the_last_partial_batch_counts(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = trainer([spec(), spec()], [0, 1])
    index = np.stack([np.arange(256)] * 2)
    with torch.no_grad():
        stack.stack.flat += 0.1 * torch.randn(stack.stack.flat.shape, generator=torch.Generator().manual_seed(0))
        unit = stack.images.test.float() / 255
        expected = stack.stack.forward(torch.stack([stack.images.standardise(unit)] * 2))
    monkeypatch.setattr(module, "BATCH", batch)
    logits = logits_of(stack.stack, stack.images, "test", index)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    found = evaluate(logits[0], stack.images.test_labels)
    assert found.top1_percent == pytest.approx(
        100 * np.mean(expected[0].argmax(-1).numpy() == stack.images.test_labels)
    )


def test_accuracy_loss_and_confidence_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 0.5]])
    found = evaluate(logits, np.array([0, 1, 1, 1]))
    assert found.top1_percent == 75.0
    assert found.predicted.tolist() == [0, 1, 0, 1]
    assert found.loss == pytest.approx(F.cross_entropy(logits, torch.tensor([0, 1, 1, 1])).item())
    np.testing.assert_allclose(found.confidence, logits.softmax(-1).amax(-1))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_logit_is_no_class(bad: float) -> None:
    found = evaluate(torch.tensor([[1.0, 0.0], [bad, 0.0]]), np.array([0, 0]))
    assert not found.finite
    assert (found.predicted == -1).all()


def test_probes_are_asked_for_by_name_and_better_than_chance() -> None:
    stack = trainer([spec()], [0])
    from vitbench.model.build import build

    module_ = build(stack.spec.model, stack.train.objective)
    module_.load_state_dict(stack.stack.state(0))
    asked = EvaluateSpec(few_shot=(1, 25), few_shot_l2=1.0, linear_probe=True, knn=5)
    found = probes(module_, stack.images, stack.used[0], asked, seed=0)
    assert found.keys() == {"few_shot_1_percent", "few_shot_25_percent", "linear_probe_percent", "knn_percent"}
    assert found["linear_probe_percent"] > 35
    assert probes(module_, stack.images, stack.used[0], EvaluateSpec(), seed=0) == {}


def test_held_out_classes_are_probed_without_the_trained_ones() -> None:
    stack = trainer([spec(data={"classes": (0, 2)})], [0])
    from vitbench.model.build import build

    module_ = build(stack.spec.model, stack.train.objective)
    module_.load_state_dict(stack.stack.state(0))
    asked = EvaluateSpec(linear_probe=True, few_shot_classes="held_out")
    found = probes(module_, stack.images, stack.used[0], asked, seed=0)
    assert 50 < found["linear_probe_percent"] <= 100


def test_features_of_the_start_are_those_before_training() -> None:
    """The probes of `features: start` read the weights that a stage starts from, whatever training makes of them."""
    from vitbench.engines.trial_result import outcomes
    from vitbench.model.build import build
    from vitbench.train.loop import train_stack
    from vitbench.train.trainer import Job, Trainer, initial_state

    asked = EvaluateSpec(knn=5, linear_probe=True)
    metrics = {}
    for features in ("start", "trained"):
        one = spec().model_copy(update={"evaluate": asked.model_copy(update={"features": features})})
        data = load_images(one.data, DataOptions(), CPU)
        parent = initial_state(Job(one, 7), data)
        stack = Trainer([Job(one, 0, parent)], data, CPU)
        (outcome,) = outcomes(stack, train_stack(stack, lambda step, speed, loss: None))
        metrics[features] = outcome.result.metrics
    module_ = build(one.model, one.train.objective)
    module_.load_state_dict(initial_state(Job(one, 0, parent), stack.images))
    assert torch.equal(module_.state_dict()["blocks.0.attn.qkv.weight"], parent["blocks.0.attn.qkv.weight"])
    assert metrics["start"] == probes(module_, stack.images, stack.used[0], asked, seed=0)
    assert metrics["start"] != metrics["trained"]
