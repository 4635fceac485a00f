"""Distillation: the labels, and the answers of a trained teacher.

Source: soft, Hinton et al. 2015, section 2; hard, Touvron et al. 2021 (DeiT), section 4, equations 2 and 3.
Differs: without a distillation token, so the class token's answer follows both labels and teacher.
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

    `soft`: temperature**2 x KL divergence from the teacher's probabilities, both at `temperature`. `hard`: cross
    entropy of the teacher's most probable class. The teacher sees the images as the student does, mixed and erased.
    """

    name: ClassVar[str] = "distill"
    networks: ClassVar[Mapping[str, str]] = {TEACHER: FROZEN}
    type: Literal["soft", "hard"] = "soft"
    temperature: Annotated[float, Field(gt=0.0)] = 3.0
    alpha: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5

    def resolved(self, model: ModelSpec) -> Distill:
        """A hard teacher has no temperature."""
        default = type(self).model_fields["temperature"].default
        return self if self.type == "soft" else self.model_copy(update={"temperature": default})

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
        if self.type == "hard":
            distance = cross_entropy(logits, theirs.argmax(-1), 0.0, None)
        else:
            distance = distillation(logits, theirs, self.temperature)
        return (1 - self.alpha) * self.labelled(call, logits, given) + self.alpha * distance
