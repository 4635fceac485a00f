"""Pseudo-labels: against a loop in plain torch and double precision, with the faults that such code has planted."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from vitbench.data import DataOptions, Split, facts, open_images, partition
from vitbench.data.fingerprint import digests_of_pixels
from vitbench.inspection.specimen import TINY, noisy_module, spec_with
from vitbench.model.build import build, initialise
from vitbench.plan.resolve import resolve
from vitbench.spec.trial import DataSpec, ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec
from vitbench.train import labelling
from vitbench.train.image_source import ImageSource
from vitbench.train.losses import cross_entropy
from vitbench.train.networks import Network
from vitbench.train.objectives.pseudo_label import PseudoLabel
from vitbench.train.process_group import ONE_PROCESS
from vitbench.train.resident import load_images
from vitbench.train.sampling import Order
from vitbench.train.trainer import Job, Trainer

CPU, STEPS, BATCH, SEED = torch.device("cpu"), 4, 16, 1
DATA = DataSpec(name="fake", val_fraction=0.2)
SGD: dict[str, Any] = {
    "opt": "sgd",
    "lr": 0.05,
    "clip_grad": None,
    "weight_decay": 0.0,
    "augment": "none",
    "warmup_fraction": 0.0,
}


def spec(objective: str = "pseudo_label(labelled_fraction=0.2)", **train: Any) -> TrialSpec:
    settings = {"steps": STEPS, "batch_size": BATCH, **SGD, "objective": ObjectiveSpec(name=objective), **train}
    written = TrialSpec(model=ModelSpec(**TINY), data=DATA, train=TrainSpec(**settings))
    return resolve(written, facts("fake", DataOptions()), {"teacher": spec_with("objective", None)})


def teacher(seed: int = SEED, drop_rate: float = 0.0) -> Network:
    """A network whose answers differ from image to image."""
    of_teacher = spec_with("objective", None)
    model = of_teacher.model.model_copy(update={"drop_rate": drop_rate})
    module = noisy_module(of_teacher, seed)
    with torch.no_grad():
        module.head.weight.mul_(20.0)
        module.head.bias.zero_()
    return Network(of_teacher.model_copy(update={"model": model}), module.state_dict())


def images_of(one: TrialSpec) -> ImageSource:
    return load_images(one.data, DataOptions(), CPU)


def job(one: TrialSpec, seed: int = SEED, of_seed: int | None = None, drop_rate: float = 0.0) -> Job:
    return Job(one, seed, networks={"teacher": teacher(seed if of_seed is None else of_seed, drop_rate)})


@dataclass(frozen=True)
class Reference:
    """What the plain loop made of one seed: pool, kept images, targets of all images, and the student's weights."""

    pool: list[int]
    kept: list[int]
    targets: torch.Tensor
    state: dict[str, torch.Tensor]


@functools.cache
def reference(one: TrialSpec, seed: int = SEED) -> Reference:
    """Algorithm 1, image by image, in double precision; it shares the split and the order of images, and the models."""
    objective = PseudoLabel(**_fields(one.train.objective.name))
    data = open_images("fake", DataOptions())
    pixels = torch.from_numpy(np.stack([data.train.read(i) for i in range(len(data.train))])).permute(0, 3, 1, 2)
    standard = (pixels.double() / 255 - (pixels.double() / 255).mean()) / (pixels.double() / 255).std(correction=0)
    split = Split(data.train.labels, groups=data.train.groups)
    everything = set(partition(split, seed, DATA).train.tolist())
    of_labels = DATA.model_copy(update={"train_fraction": objective.labelled_fraction})
    labelled = set(partition(split, seed, of_labels).train.tolist())
    pool = sorted(everything - labelled)
    targets, kept = torch.zeros(len(pixels), 4, dtype=torch.float64), []
    for image in labelled:
        targets[image, int(data.train.labels[image])] = 1.0
    with torch.no_grad():
        answering = build(teacher().spec.model, ObjectiveSpec())
        answering.load_state_dict(teacher(seed).state)
        answering.double().eval()
        answers_of_pool = answering(standard[pool]).exp()
        for image, p in zip(pool, answers_of_pool / answers_of_pool.sum(1, keepdim=True), strict=True):
            if float(p.max()) >= objective.threshold:
                kept.append(image)
                targets[image] = torch.eye(4, dtype=torch.float64)[p.argmax()] if objective.type == "hard" else p
    if objective.balance:
        answers = {image: int(targets[image].argmax()) for image in kept}
        for image in kept:
            share = sum(answer == answers[image] for answer in answers.values()) / len(kept)
            targets[image] /= 4 * share
    student = build(one.model, one.train.objective)
    initialise(student, one.model, one.train.objective, seed)
    student.double().train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    order = Order(seed, np.array(sorted([*labelled, *kept])), BATCH, {})
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + np.cos(np.pi * step / STEPS))
        index = order.batch(step).index
        log_p = student(standard[index]).log_softmax(-1)
        loss = torch.zeros((), dtype=torch.float64)
        for row, image in enumerate(index.tolist()):
            smooth = 0.9 * targets[image] + 0.1 * targets[image].sum() / 4 if one.train.smoothing else targets[image]
            loss = loss - (smooth * log_p[row]).sum() / BATCH
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Reference(pool, kept, targets, {name: tensor.float() for name, tensor in student.state_dict().items()})


def _fields(text: str) -> dict[str, Any]:
    inside = text.removeprefix("pseudo_label").strip("()")
    values = dict(part.split("=") for part in inside.split(", "))
    words = {"true": True, "false": False}
    return {key: words.get(value, value.strip('"') if '"' in value else value) for key, value in values.items()} | {
        key: float(values[key]) for key in ("labelled_fraction", "threshold") if key in values
    }


def trained_as(one: TrialSpec, seeds: tuple[int, ...] = (SEED,)) -> Trainer:
    trainer = Trainer([job(one, seed) for seed in seeds], images_of(one), CPU)
    for step in range(STEPS):
        trainer.step(step)
    trainer.feed.close()
    return trainer


CASES = {
    "soft": spec(),
    "hard, confident, balanced": spec('pseudo_label(balance=true, labelled_fraction=0.2, threshold=0.6, type="hard")'),
    "soft, balanced, smoothed": spec("pseudo_label(balance=true, labelled_fraction=0.2)", smoothing=0.1),
}


@pytest.mark.parametrize("name", CASES)
def test_training_is_the_reference_loop(name: str) -> None:
    """Pool, kept images and targets are equal, and the weights after four steps agree to 1e-5; beside another seed."""
    one = CASES[name]
    expected, trainer = reference(one), trained_as(one, (SEED, 2))
    answers = trainer.labellings[0]
    assert answers is not None
    assert answers.pool.tolist() == expected.pool
    assert set(answers.index) & set(answers.pool) == set(expected.kept)
    assert ("confident" in name) == (len(expected.kept) < len(expected.pool))
    torch.testing.assert_close(torch.from_numpy(answers.targets).double(), expected.targets, rtol=0, atol=1e-5)
    for key, tensor in trainer.stack.state(0).items():
        torch.testing.assert_close(tensor, expected.state[key], rtol=0, atol=1e-5)


def targets(one: Job) -> np.ndarray:
    """The targets of a job, as the trainer gets them."""
    return labelling.label_pool(one, images_of(one.spec), CPU, ONE_PROCESS).targets


def test_faults_of_a_teacher_are_seen() -> None:
    """A teacher in training mode, answers for augmented views, and another seed's teacher give other targets."""
    one = spec(augment="light")
    expected = reference(one).targets.float().numpy()

    def is_right(each: Job) -> bool:
        return bool(np.abs(targets(each) - expected).max() < 1e-5)

    assert is_right(job(one))
    assert is_right(job(one, drop_rate=0.5)), "dropout rests while a teacher answers"
    assert not is_right(job(one, of_seed=2)), "another seed's teacher"
    noised = spec("pseudo_label(labelled_fraction=0.2, noised_labels=true)", augment="light")
    assert not is_right(job(noised)), "augmented views"
    still = noised.model_copy(update={"train": noised.train.model_copy(update={"augment": "none"})})
    assert is_right(job(still)), "without augmentation and dropout nothing is noised"
    assert not is_right(job(still, drop_rate=0.5)), "training mode"
    assert np.array_equal(targets(job(noised, drop_rate=0.5)), targets(job(noised, drop_rate=0.5)))


def asked_for(monkeypatch: pytest.MonkeyPatch, part: str | None = None) -> set[str]:
    """Digests of the images that the teacher answers for; `part` plants a fault: the images of that split."""
    digests: list[str] = []
    plain = labelling.logits_of

    def spy(stack: Any, images: Any, of_part: Any, index: np.ndarray) -> torch.Tensor:
        for unit in images.read(part or of_part, index, 512):
            pixels = (unit[0] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
            digests.extend(digests_of_pixels(np.ascontiguousarray(pixels)).tolist())
        return plain(stack, images, part or of_part, index)

    with monkeypatch.context() as patched:
        patched.setattr(labelling, "logits_of", spy)
        if part == "test":
            patched.setattr(labelling.np, "setdiff1d", lambda *args, **kwargs: np.arange(256))
        targets(job(spec()))
    return set(digests)


def test_no_test_image_and_no_validation_image_is_in_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the fingerprints of the pixels that the teacher sees, and by index."""
    data = open_images("fake", DataOptions())
    split = partition(Split(data.train.labels, groups=data.train.groups), SEED, DATA)
    held_out = {
        digest
        for images, index in ((data.test, range(len(data.test))), (data.train, split.val.tolist()))
        for digest in digests_of_pixels(np.stack([images.read(i) for i in index])).tolist()
    }
    seen = asked_for(monkeypatch)
    assert len(seen) == len(reference(spec()).pool)
    assert not seen & held_out
    assert asked_for(monkeypatch, "test") & held_out, "the planted fault is seen"


def test_labels_of_the_pool_cannot_be_looked_up() -> None:
    one = spec()
    trainer = Trainer([job(one)], images_of(one), CPU)
    assert trainer.labellings[0] is not None
    pool = trainer.labellings[0].pool
    assert (trainer.class_of[0, pool] == -1).all()
    with pytest.raises(RuntimeError, match="out of bounds"):
        cross_entropy(torch.zeros(1, len(pool), 4), trainer.calls.labels(torch.from_numpy(pool)[None]), 0.0)


def test_what_is_recorded_of_the_answers() -> None:
    one = spec("pseudo_label(labelled_fraction=0.2, threshold=0.6)")
    expected, answers = reference(one), labelling.label_pool(job(one), images_of(one), CPU, ONE_PROCESS)
    truth = open_images("fake", DataOptions()).train.labels
    right = [int(expected.targets[image].argmax()) == truth[image] for image in expected.kept]
    assert answers.metrics == {
        "pseudo_labels_kept_percent": pytest.approx(100 * len(expected.kept) / len(expected.pool)),
        "pseudo_labels_right_percent": pytest.approx(100 * np.mean(right)),
    }


def test_a_filter_that_keeps_nothing_leaves_the_labels() -> None:
    one = spec("pseudo_label(balance=true, labelled_fraction=0.2, threshold=0.9999999)")
    answers = labelling.label_pool(job(one), images_of(one), CPU, ONE_PROCESS)
    assert answers.metrics == {"pseudo_labels_kept_percent": 0.0}
    assert not set(answers.index) & set(answers.pool)
