"""Pseudo-labels: a teacher answers for the images whose labels are not read, and a student learns both kinds.

Source: Xie et al. 2020 (Noisy Student), Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from vitbench.model.objective import FROZEN, Call, Given, objective_of
from vitbench.spec.trial import Fraction, TrialSpec
from vitbench.train.objectives.classify import Classify

if TYPE_CHECKING:
    import torch

TEACHER = "teacher"
Floats = npt.NDArray[np.float64]


class PseudoLabel(Classify):
    """Cross entropy of the labels of a share of the training images, and of a teacher's answers for the rest.

    The teacher answers once, before the first step, in evaluation mode for images without augmentation. `soft`: its
    probabilities; `hard`: its most probable class. Images whose highest probability is below `threshold` are left out.
    `balance` weighs the others so that each class has the same sum of weights: the kept images over the classes.
    `noised_labels` is a control: the teacher answers in training mode for one augmented view of each image.

    The noise of the student is that of the stage: `train.augment`, `model.drop_rate`, `model.drop_path_rate`.
    Differs: the source draws rare classes more often and leaves images of frequent ones out, which `balance` does by
    weights; it mixes labelled and other images at a fixed ratio, here their numbers decide.
    """

    name: ClassVar[str] = "pseudo_label"
    networks: ClassVar[Mapping[str, str]] = {TEACHER: FROZEN}
    gives: ClassVar[frozenset[str]] = frozenset()
    labeller: ClassVar[str | None] = TEACHER
    reads: ClassVar[frozenset[str]] = Classify.reads - {"class_weights"}
    type: Literal["soft", "hard"] = "soft"
    labelled_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    threshold: Fraction = 0.0
    balance: bool = False
    noised_labels: bool = False

    @property
    def labelled_share(self) -> float | None:
        return self.labelled_fraction

    @property
    def noised_answers(self) -> bool:
        return self.noised_labels

    def network_problems(self, spec: TrialSpec, networks: Mapping[str, TrialSpec]) -> list[str]:
        teacher = networks[TEACHER]
        objective = objective_of(teacher.train.objective)
        if not objective.predicts_classes:
            return [f"uses.teacher: {objective.name} predicts no classes, which {self.name} needs"]
        if teacher.data.classes != spec.data.classes:
            return ["uses.teacher: it is trained on other data.classes than this stage"]
        if teacher.data.val_fraction != spec.data.val_fraction:
            return [
                f"uses.teacher: its data.val_fraction is {teacher.data.val_fraction:g}, that of this stage "
                f"{spec.data.val_fraction:g}; it would have trained on images that validate this stage"
            ]
        labelled = objective.labelled_share or teacher.data.train_fraction
        if labelled != self.labelled_fraction:
            return [
                f"uses.teacher: it reads the labels of {labelled:g} of the training images, this stage those of "
                f"{self.labelled_fraction:g}; set its data.train_fraction or labelled_fraction"
            ]
        if self.noised_labels and teacher.model.family != "vit" and teacher.model.norm_layer == "batch":
            return [
                "noised_labels: in training mode its BatchNorm answers by batch; set the teacher's norm_layer: group"
            ]
        return []

    def targets_of(self, probabilities: Floats) -> Floats:
        """Weighted targets `[n, K]` for the teacher's probabilities `[n, K]`; a row of zeros leaves its image out."""
        predicted, num_classes = probabilities.argmax(-1), probabilities.shape[-1]
        kept = probabilities.max(-1) >= self.threshold
        targets = np.eye(num_classes)[predicted] if self.type == "hard" else probabilities
        weights = kept.astype(np.float64)
        if self.balance:
            counts = np.bincount(predicted[kept], minlength=num_classes)
            weights *= kept.sum() / (num_classes * np.maximum(1, counts[predicted]))
        weighted: Floats = targets * weights[:, None]
        return weighted

    def loss(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        from vitbench.train.losses import target_cross_entropy

        logits = call.forward(self.pixels(call, unit, given), train=True)
        targets = call.targets(given["index"])
        if "mix" in given:
            share = given["mix"].unsqueeze(-1)
            targets = share * targets + (1 - share) * call.targets(given["partner"])
        return target_cross_entropy(logits, targets, call.train.smoothing)
