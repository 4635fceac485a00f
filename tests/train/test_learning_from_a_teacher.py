"""Objectives with a teacher learn: their students beat the most frequent class. A teacher at work in training mode is
seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitbench.inspection.specimen import noisy_module, spec_with, trainer_of
from vitbench.spec.trial import TrialSpec
from vitbench.train.networks import Network
from vitbench.train.stack import Stack
from vitbench.train.trainer import Job, Trainer

STEPS = 60
MARGIN = 25.0
"""Points of validation accuracy that a student must lead over an answer that is always the most frequent class."""


def longer(spec: TrialSpec) -> TrialSpec:
    return spec.model_copy(update={"train": spec.train.model_copy(update={"steps": STEPS, "lr": 1e-2})})


def trained_for(trainer: Trainer) -> Trainer:
    for step in range(STEPS):
        trainer.step(step)
    trainer.feed.close()
    return trainer


def val_percent(trainer: Trainer) -> float:
    (percent, _, _), *_ = trainer.validate()
    assert percent is not None
    return float(percent)


@pytest.fixture(scope="module")
def teacher() -> Network:
    spec = longer(spec_with("objective", None))
    return Network(spec, trained_for(trainer_of(spec, (0,))).stack.state(0))


@pytest.mark.parametrize(
    "text", ["distill(alpha=1.0)", 'distill(alpha=1.0, type="hard")', "pseudo_label(labelled_fraction=0.1)"]
)
def test_a_student_learns_what_its_teacher_knows(text: str, teacher: Network) -> None:
    """`alpha` 1 hides the labels from a distilled student; the other one sees a tenth of them."""
    assert lead_of_student(text, teacher) > MARGIN


def test_a_teacher_that_knows_nothing_teaches_nothing(teacher: Network) -> None:
    untrained = Network(teacher.spec, noisy_module(teacher.spec).state_dict())
    assert lead_of_student("distill(alpha=1.0)", untrained) < MARGIN


def lead_of_student(text: str, teacher: Network) -> float:
    """Points of validation accuracy over the most frequent class, after STEPS steps."""
    spec = longer(spec_with("objective", text))
    images = trainer_of(spec_with("objective", None), (0,)).images
    trainer = trained_for(Trainer([Job(spec, 0, networks={"teacher": teacher})], images, torch.device("cpu")))
    labels = trainer.images.train_labels[trainer.used[0].val]
    return val_percent(trainer) - 100.0 * float(np.bincount(labels).max()) / len(labels)


def losses_under_dropout(monkeypatch: pytest.MonkeyPatch | None = None) -> tuple[list[float], list[float]]:
    """Losses of a first batch with a teacher that has dropout, and with the same teacher without it.

    A monkeypatch plants the fault: frozen networks run in training mode.
    """
    if monkeypatch is not None:
        plain = Stack.forward
        monkeypatch.setattr(
            Stack, "forward", lambda stack, *inputs, **more: plain(stack, *inputs, **{**more, "train": True})
        )
    spec, of_teacher = spec_with("objective", "distill(alpha=1.0)"), spec_with("objective", None)
    state = noisy_module(of_teacher).state_dict()
    losses = []
    for drop_rate in (0.5, 0.0):
        model = of_teacher.model.model_copy(update={"drop_rate": drop_rate})
        network = Network(of_teacher.model_copy(update={"model": model}), state)
        images = trainer_of(of_teacher, (0,)).images
        trainer = Trainer([Job(spec, 0, networks={"teacher": network})], images, torch.device("cpu"))
        (batches, pixels, draws), *_ = trainer.feed.raw(0)
        trainer.feed.close()
        losses.append(trainer._losses({"pixels": pixels, "draws": draws, **trainer._drawn(batches)}).tolist())
    return losses[0], losses[1]


def test_a_teacher_answers_in_evaluation_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    with_dropout, without = losses_under_dropout()
    assert with_dropout == without
    with_dropout, without = losses_under_dropout(monkeypatch)
    assert with_dropout != without, "the planted fault is seen"
