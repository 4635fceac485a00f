"""Self-distillation: the student matches the teacher's answers to other crops; the teacher is the student's average.

Source: Caron et al. 2021 (DINO), section 3, Algorithm 1 and the published code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from vitbench.model.mechanisms import patch_embed_of, readout_of
from vitbench.model.objective import (
    AVERAGE,
    STUDENT,
    Arrays,
    Call,
    Given,
    MemberBatch,
    Objective,
    Pass,
    rising_momentum,
)
from vitbench.model.part_problems import subset_problems
from vitbench.model.sizes import Grid, known, transformer
from vitbench.model.tensors import SCHEMES, Tensor, affine
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

TEACHER = "teacher"
NUM_WHOLE = 2
"""Crops that show much of an image; the teacher sees these alone."""
WARMUP_SHARE, FROZEN_SHARE = 0.3, 0.01
"""Shares of all steps in which the teacher's temperature rises, and in which the last layer does not move."""
Area = Annotated[float, Field(gt=0.0, le=1.0)]


class Dino(Objective):
    """Cross entropy of the teacher's centred and sharpened answers, over pairs of different crops of one image.

    `momentum` is what stays of the teacher after a thousandth of all steps; 0 makes the student its own teacher.
    `centre_momentum` is what stays of the centre after a step; 1 switches centring off. `global_crops_scale` is the
    least area of two large crops, `local_crops_scale` that of `local_crops` small ones, of half the side.
    Differs: crops have no blur and no colours of their own; `train.augment: medium` adds RandAugment. The head is drawn
    like the model's other layers, and not with a deviation of 0.02, which the rates of small models move too far.
    """

    name: ClassVar[str] = "dino"
    networks: ClassVar[Mapping[str, str]] = {TEACHER: AVERAGE}
    kept: ClassVar[str] = TEACHER
    cuts_views: ClassVar[bool] = True
    task_names: ClassVar[tuple[str, ...]] = ("dino_head.",)
    out_dim: PositiveInt = 256
    hidden_dim: PositiveInt = 128
    bottleneck_dim: PositiveInt = 32
    student_temp: PositiveFloat = 0.1
    teacher_temp: PositiveFloat = 0.07
    warmup_teacher_temp: PositiveFloat = 0.04
    centre_momentum: Annotated[float, Field(ge=0.0, le=1.0)] = 0.9
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.98
    local_crops: NonNegativeInt = 4
    global_crops_scale: Area = 0.4
    local_crops_scale: Area = 0.1

    @property
    def num_views(self) -> int:
        return NUM_WHOLE + self.local_crops

    def resolved(self, model: ModelSpec) -> Dino:
        """Without small crops their size changes nothing."""
        default = type(self).model_fields["local_crops_scale"].default
        return self if self.local_crops else self.model_copy(update={"local_crops_scale": default})

    def problems(self, model: ModelSpec) -> list[str]:
        if model.family != "vit":
            return ["train.objective.name: dino is built for family vit"]
        problems = subset_problems(model) if self.local_crops else []
        if self.local_crops and "patches" not in patch_embed_of(model).gives:
            problems.append("train.objective.local_crops: small crops need patches; 0, or stem patchify")
        if self.local_crops and self.local_crops_scale > self.global_crops_scale:
            problems.append(
                f"train.objective.local_crops_scale: {self.local_crops_scale:g} is above global_crops_scale, "
                f"{self.global_crops_scale:g}"
            )
        return problems

    def small_grid(self, model: ModelSpec) -> Grid:
        """Patches of a small crop: half of the rows and of the columns."""
        return Grid(*(max(1, length // 2) for length in transformer(model).grid))

    def small_size(self, model: ModelSpec) -> tuple[int, int]:
        """Pixels of a small crop, height first."""
        rows, columns = self.small_grid(model)
        return rows * known(model.patch_size), columns * known(model.patch_size)

    def passes(self, model: ModelSpec) -> Sequence[Pass]:
        small = [Pass(STUDENT, self.local_crops, self.small_size(model))] if self.local_crops else []
        return [Pass(STUDENT, NUM_WHOLE), *small, Pass(TEACHER, NUM_WHOLE)]

    def momentum_at(self, role: str, step: int, num_steps: int) -> float:
        return rising_momentum(self.momentum, step, num_steps)

    def schedules(self, num_steps: int) -> Mapping[str, Sequence[float]]:
        """The teacher's temperature, and whether the last layer moves."""
        rise, frozen = WARMUP_SHARE * num_steps, FROZEN_SHARE * num_steps
        first, last = self.warmup_teacher_temp, self.teacher_temp
        return {
            "teacher_temp": [first + (last - first) * min(1.0, step / rise) for step in range(num_steps)],
            "moving": [float(step >= frozen) for step in range(num_steps)],
        }

    def state(self, model: ModelSpec) -> Mapping[str, tuple[int, ...]]:
        return {"centre": (self.out_dim,), "batch_mean": (self.out_dim,)}

    def after_step(self, call: Call) -> None:
        """The centre moves after the loss has used it."""
        call.state["centre"].lerp_(call.state["batch_mean"], 1 - self.centre_momentum)
        call.state["batch_mean"].zero_()

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        yield from readout_of(model).tensors(model)
        widths, inits = (
            (known(model.embed_dim), self.hidden_dim, self.hidden_dim, self.bottleneck_dim),
            (SCHEMES[model.weight_init].linear, "zeros"),
        )
        heads = [
            tensor
            for number, (width, out) in enumerate(pairwise(widths), 1)
            for tensor in affine(f"dino_head.fc{number}", (out, width), inits, 1)
        ]
        heads += affine("dino_head.last", (self.out_dim, self.bottleneck_dim), inits, 1, bias=False)
        yield from (replace(tensor, role="task", part="head") for tensor in heads)

    def macs(self, model: ModelSpec) -> dict[str, int]:
        return readout_of(model).macs(model)

    def module(self, model: ModelSpec, patch_embed: nn.Module) -> nn.Module:
        from vitbench.model.projected import DinoViT

        widths = (self.hidden_dim, self.bottleneck_dim, self.out_dim)
        return DinoViT(model, patch_embed, widths, self.small_grid(model))

    def draw(self, model: ModelSpec, batches: Sequence[MemberBatch], mixtures: Sequence[Any]) -> Arrays:
        """The box of every crop, `[E, B, V, 4]`; the large ones come first."""
        from vitbench.train.crops import crop_boxes

        areas = [(self.global_crops_scale, 1.0)] * NUM_WHOLE
        areas += [(self.local_crops_scale, self.global_crops_scale)] * self.local_crops
        boxes = [[crop_boxes(batch, view, *area) for view, area in enumerate(areas)] for batch in batches]
        return {"boxes": np.stack([np.stack(of_member, axis=1) for of_member in boxes])}

    def loss(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        from vitbench.train.losses import dino_loss

        views = [unit, *(call.view(number) for number in range(1, self.num_views))]
        student, teacher = self._answers(call, views, given, train=True)
        share = unit.shape[1] / call.train.batch_size
        call.state["batch_mean"].add_(teacher.detach().float().mean((1, 2)), alpha=share)
        loss, _ = dino_loss(student, teacher, call.state["centre"], self.student_temp, given["teacher_temp"])
        return loss

    def validation(self, call: Call, unit: torch.Tensor, given: Given) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self._still_loss(call, unit, given)[0], None

    def measures(self, call: Call, unit: torch.Tensor, given: Given) -> Mapping[str, torch.Tensor]:
        """The entropy of the teacher's answers, and their divergence from the student's: near 0, or an entropy near 0
        or near that of equal answers, is a collapse."""
        loss, entropy = self._still_loss(call, unit, given)
        return {"teacher_entropy_nats": entropy, "teacher_kl_nats": loss - entropy}

    def _still_loss(self, call: Call, unit: torch.Tensor, given: Given) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss and the teacher's entropy, per member `[E]`, on images without augmentation."""
        from vitbench.train.losses import dino_loss

        student, teacher = self._answers(call, [unit] * self.num_views, given, train=False)
        return dino_loss(student, teacher, call.state["centre"], self.student_temp, given["teacher_temp"])

    def _answers(
        self, call: Call, views: Sequence[torch.Tensor], given: Given, *, train: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the student `[E, V, B, K]` and of the teacher `[E, 2, B, K]`."""
        import torch

        from vitbench.train.crops import zoomed

        members, size = views[0].shape[:2]
        moving = given["moving"].expand(members)

        def crops(first: int, last: int, pixels: tuple[int, int]) -> torch.Tensor:
            cut = [zoomed(views[n], given["boxes"][:, :, n], pixels) for n in range(first, last)]
            return call.standardise(torch.cat(cut, dim=1))

        def by_view(logits: torch.Tensor) -> torch.Tensor:
            return logits.view(members, -1, size, self.out_dim)

        whole = crops(0, NUM_WHOLE, (views[0].shape[-2], views[0].shape[-1]))
        student = [by_view(call.forward(whole, moving, train=train))]
        if self.local_crops:
            small = crops(NUM_WHOLE, self.num_views, self.small_size(call.model))
            student.append(by_view(call.forward(small, moving, train=train)))
        return torch.cat(student, dim=1), by_view(call.outputs_of(TEACHER, whole, moving))

    def timm(self, model: ModelSpec) -> Mapping[str, Any] | str:
        return {}
