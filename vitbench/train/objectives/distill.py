"""Distillation: the labels, and the answers of a trained teacher.

Source: soft, Hinton et al. 2015, section 2; hard, Touvron et al. 2021 (DeiT), section 4, equations 2 and 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from vitbench.model.objective import FROZEN, Call, Given, objective_of
from vitbench.spec.trial import ModelSpec, TrialSpec
from vitbench.train.objectives.classify import Classify

if TYPE_CHECKING:
    import torch

TEACHER = "teacher"


class Distill(Classify):
    """`(1 - alpha) x cross entropy of the labels + alpha x distance to the teacher`.

    `soft`: temperature**2 x KL divergence from the teacher's probabilities, both at `temperature`; `kl_reduction: mean`
    also divides it by the number of classes, as DeiT's published code does and its paper does not. `hard`: cross
    entropy of the teacher's most probable class. The teacher sees the images as the student does, mixed and erased.
    With `model.dist_token` the labels train the class token's head, the teacher the distillation token's.
    """

    name: ClassVar[str] = "distill"
    networks: ClassVar[Mapping[str, str]] = {TEACHER: FROZEN}
    type: Literal["soft", "hard"] = "soft"
    temperature: Annotated[float, Field(gt=0.0)] = 3.0
    alpha: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    kl_reduction: Literal["batchmean", "mean"] = "batchmean"

    def resolved(self, model: ModelSpec) -> Distill:
        """A hard teacher has no temperature and no divergence."""
        idle = () if self.type == "soft" else ("temperature", "kl_reduction")
        return self.model_copy(update={key: type(self).model_fields[key].default for key in idle})

    def network_problems(self, spec: TrialSpec, networks: Mapping[str, TrialSpec]) -> list[str]:
        teacher = networks[TEACHER]
        if not objective_of(teacher.train.objective).predicts_classes:
            return [f"uses.teacher: {teacher.train.objective.name} predicts no classes, which {self.name} needs"]
        if teacher.data.classes != spec.data.classes:
            return ["uses.teacher: it is trained on other data.classes than this stage"]
        return []

    def loss(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        from vitbench.train.losses import cross_entropy, distillation

        pixels = self.pixels(call, unit, given)
        logits, theirs = call.forward(pixels, train=True), call.outputs_of(TEACHER, pixels)
        of_labels, of_teacher = logits.unbind(2) if call.model.dist_token else (logits, logits)
        if self.type == "hard":
            distance = cross_entropy(of_teacher, theirs.argmax(-1), 0.0)
        else:
            divided_by = theirs.shape[-1] if self.kl_reduction == "mean" else 1
            distance = distillation(of_teacher, theirs, self.temperature) / divided_by
        return (1 - self.alpha) * self.labelled(call, of_labels, given) + self.alpha * distance
