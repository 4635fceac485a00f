"""Objectives without labels learn on the fake images: each beats the best guess that ignores the image, by a margin.

`test_igpt.py` has the generative ones, `test_learning_from_a_teacher.py` those with a teacher. Here also faults of
masked patch prediction and of the averaged teacher, planted, and DINO's collapse by nearest neighbours.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from made_runs import TINY as TINY_FILE
from made_runs import Ran
from torch import Tensor

from vitbench.data import DataOptions, facts
from vitbench.inspection.specimen import TINY, spec_with, trainer_of
from vitbench.model.objective import Arrays
from vitbench.plan.resolve import resolve
from vitbench.spec import mechanism as registry
from vitbench.spec.trial import DataSpec, ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec
from vitbench.train.few_shot import nearest_neighbours
from vitbench.train.losses import patch_targets
from vitbench.train.objectives.masked_patch import MaskedPatch
from vitbench.train.stack import Stack
from vitbench.train.trainer import Trainer

SMALL: dict[str, Any] = {**TINY, "embed_dim": 32, "pos_embed": "sincos_2d", "global_pool": "avg"}
CHANCE = 25.0
"""Percent of four classes of equal size."""
COLLAPSING = "momentum=0.0, centre_momentum=1.0"
"""DINO whose teacher is the student, and whose centre stays at 0."""


def spec(objective: ObjectiveSpec, steps: int, lr: float) -> TrialSpec:
    train = TrainSpec(steps=steps, batch_size=64, lr=lr, augment="none", objective=objective)
    written = TrialSpec(model=ModelSpec(**SMALL), data=DataSpec(name="fake"), train=train)
    return resolve(written, facts("fake", DataOptions()), {})


def after_training(one: TrialSpec, steps: int) -> Trainer:
    trainer = trainer_of(one, (0,))
    for step in range(steps):
        trainer.step(step)
    trainer.feed.close()
    return trainer


def unit_images(trainer: Trainer, index: np.ndarray) -> Tensor:
    """Images in [0, 1], `[n, C, H, W]`."""
    return torch.cat([unit[0] for unit in trainer.images.read("train", index[None], 512)])


def test_mae_beats_the_mean_image() -> None:
    """By a tenth of the mean image's squared error; two fifths of that error are noise that nothing predicts."""
    trainer = after_training(spec(ObjectiveSpec(name='mae(mask_ratio=0.25, target="pixels")'), 150, 8e-3), 150)
    used = trainer.used[0]
    fit, held_out = (trainer.images.standardise(unit_images(trainer, part)) for part in (used.train, used.val))
    ((percent, loss, finite),) = trainer.validate()
    assert (percent, finite) == (None, True)
    assert loss is not None
    assert loss < 0.9 * float((held_out - fit.mean(0)).square().mean())


def test_masked_patches_beat_the_shares_of_colours() -> None:
    """By 0.1 nats, and the most frequent colour of the training images by 2 points."""
    objective = ObjectiveSpec(name="masked_patch", target="mean_colour", mask_ratio=0.25)
    trainer = after_training(spec(objective, 150, 8e-3), 150)
    used = trainer.used[0]
    fit, held_out = (
        patch_targets(MaskedPatch(), unit_images(trainer, part), 2).flatten() for part in (used.train, used.val)
    )
    shares = torch.bincount(fit, minlength=8).double() / len(fit)
    unigram = -float(shares.clamp(min=1e-9).log()[held_out].mean())
    ((percent, loss, _),) = trainer.validate()
    assert loss is not None
    assert percent is not None
    assert loss < unigram - 0.1
    assert percent > 100 * float((held_out == shares.argmax()).double().mean()) + 2.0


def test_moco_queries_find_their_image() -> None:
    """Ten times as often as by chance."""
    objective = ObjectiveSpec(name="moco_v3(crops_scale=0.6, hidden_dim=64, out_dim=32)")
    trainer = after_training(spec(objective, 50, 4e-3), 50)
    ((percent, _, _),) = trainer.validate()
    assert percent is not None
    assert percent > 10 * 100 / len(trainer.used[0].val)


@torch.no_grad()
def dino_answers(trainer: Trainer, part: Any, index: np.ndarray) -> np.ndarray:
    """The teacher's probabilities `[n, K]` for whole images, to four digits."""
    answers = []
    for unit, given, _ in trainer._still(index[None], part):
        whole = {**given, "boxes": torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(given["boxes"].shape)}
        _, logits = trainer.objective._answers(trainer.calls, [unit] * 2, whole, train=False)  # type: ignore[attr-defined]
        centred = logits[0, 0] - trainer.networks.state["centre"][0]
        answers.append((centred / given["teacher_temp"]).softmax(-1))
    return np.round(torch.cat(answers).double().numpy(), 4)


@cache
def dino(fields: str) -> Trainer:
    one = spec_with("objective", f"dino(local_crops=0, out_dim=32{fields and ', '}{fields})")
    train = one.train.model_copy(update={"steps": 30, "lr": 1e-2, "batch_size": 32})
    return after_training(one.model_copy(update={"train": train}), 30)


def neighbours_percent(trainer: Trainer) -> float:
    """Test images whose five neighbours by DINO's answers vote for their class, in percent."""
    train, labels = trainer.used[0].train, trainer.images.test_labels
    assert np.bincount(labels).max() == CHANCE / 100 * len(labels)
    fit, read = dino_answers(trainer, "train", train), dino_answers(trainer, "test", np.arange(len(labels)))
    return 100 * float(np.mean(nearest_neighbours(fit, trainer.images.train_labels[train], read, 5, 0.07) == labels))


def test_dinos_answers_tell_classes_apart_unless_it_collapses() -> None:
    """Neighbours by answers: 30 points above chance, and at chance without centring and momentum."""
    assert neighbours_percent(dino("")) > CHANCE + 30
    assert neighbours_percent(dino(COLLAPSING)) == CHANCE


def test_a_collapse_is_a_finished_trial_whose_record_says_so(tmp_path: Path) -> None:
    stage = "objective: {{name: {{name: dino, local_crops: 0, out_dim: 32{}}}}}"
    fields = f", {COLLAPSING.replace('=', ': ')}"
    entropies = []
    for number, text in enumerate(("", fields)):
        train = f"{{steps: 30, batch_size: 32, lr: 1e-2, {stage.format(text)}}}"
        file = TINY_FILE.replace("{steps: 12, batch_size: 16, lr: 4e-3}", train).replace("size: 4", "size: 2")
        (record,) = Ran(file + "seeds: 1\n", tmp_path / str(number)).records.values()
        assert record.status == "ok"
        entropies.append(record.result.metrics["teacher_entropy_nats"])
    assert entropies[0] > 1.0
    assert entropies[1] < 1e-3


class AllPatches(MaskedPatch):
    """Planted: the loss is over all patches."""

    name: ClassVar[str] = "masked_patch_all_patches"

    def loss(self, call: Any, unit: Tensor, given: Any) -> Tensor:
        return super().loss(call, unit, {**given, "action": torch.ones_like(given["action"])})


class OtherStream(MaskedPatch):
    """Planted: the stream of the masks is the arm's own."""

    name: ClassVar[str] = "masked_patch_other_stream"

    def draw(self, model: ModelSpec, batches: Any, mixtures: Any) -> Arrays:
        own = [replace(batch, seed=batch.seed + len(self.target)) for batch in batches]
        return super().draw(model, own, mixtures)


for _planted in (AllPatches, OtherStream):
    registry._REGISTRY.pop(("objective", _planted.name))


def masked_trainer(planted: type[MaskedPatch] | None, target: str = "pixels") -> tuple[Trainer, dict[str, Any]]:
    """A trainer with a planted objective, and what it is given for its first batch."""
    one = spec_with("objective", "masked_patch")
    objective = ObjectiveSpec(name="masked_patch", target=target)  # type: ignore[arg-type]
    trainer = trainer_of(one.model_copy(update={"train": one.train.model_copy(update={"objective": objective})}), (0,))
    if planted is not None:
        trainer.objective = planted(**trainer.objective.model_dump())
    (batches, pixels, draws), *_ = trainer.feed.raw(0)
    trainer.feed.close()
    return trainer, {"pixels": pixels, "draws": draws, **trainer._drawn(batches)}


def intact_gradient(planted: type[MaskedPatch] | None) -> float:
    """How much the predictions for intact patches change the loss."""
    trainer, given = masked_trainer(planted)
    predicted = torch.randn(1, 16, 16, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    trainer.calls.forward = lambda *inputs, train: predicted  # type: ignore[method-assign]
    (gradient,) = torch.autograd.grad(trainer._losses(given).sum(), predicted)
    intact = given["action"] == 0
    assert gradient[~intact].abs().max() > 0
    return float(gradient[intact].abs().max())


def masks_are_paired(planted: type[MaskedPatch] | None) -> bool:
    """True if arms of one seed, with other targets, mask the same patches."""
    one, other = (masked_trainer(planted, target)[1]["action"] for target in ("pixels", "mean_colour"))
    return torch.equal(one, other)


def test_faults_of_masked_patch_prediction_are_caught() -> None:
    assert intact_gradient(None) == 0
    assert intact_gradient(AllPatches) > 0
    assert masks_are_paired(None)
    assert not masks_are_paired(OtherStream)


@pytest.mark.parametrize("text", ["dino(local_crops=0, out_dim=12)", "moco_v3(hidden_dim=16, out_dim=8)"])
def test_an_averaged_teacher_answers_in_evaluation_mode(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the same answers with dropout in the model; not if the fault is planted."""
    one = spec_with("objective", text)
    dropping = one.model_copy(update={"model": one.model.model_copy(update={"drop_rate": 0.5})})
    trainer = trainer_of(dropping, (0,))
    trainer.feed.close()
    trainer.networks.averages.update(dict.fromkeys(trainer.networks.averages, trainer.stack.flat + 0.1))
    role, x = next(iter(trainer.networks.averages)), torch.randn(1, 4, 1, 8, 8)
    extra = [torch.ones(1)] if text.startswith("dino") else []

    def repeats() -> bool:
        return torch.equal(*(trainer.networks.outputs(role, x, *extra) for _ in range(2)))

    assert repeats()
    plain = Stack.forward
    monkeypatch.setattr(Stack, "forward", lambda stack, *x, **more: plain(stack, *x, **{**more, "train": True}))
    assert not repeats()
