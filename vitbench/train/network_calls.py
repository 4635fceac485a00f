"""What an objective's loss may use of a trainer.

E stacked trials, B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vitbench.train.augment import mixed
from vitbench.train.step_program import Given

if TYPE_CHECKING:
    from vitbench.train.trainer import Trainer


class NetworkCalls:
    """What an objective's loss may use of a trainer: see `vitbench.model.objective.Call`."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self.model, self.train = trainer, trainer.spec.model, trainer.train
        self.given: Given = {}

    @property
    def class_weights(self) -> Tensor | None:
        return self._trainer.class_weights

    def forward(self, *inputs: Tensor, train: bool) -> Tensor:
        flat = None if train else self._trainer.average
        return self._trainer.stack.forward(*inputs, flat=flat, train=train)

    def outputs_of(self, role: str, *inputs: Tensor) -> Tensor:
        return self._trainer.networks.outputs(role, *inputs)

    def view(self, number: int) -> Tensor:
        return self._trainer._view(self.given, number)

    @property
    def state(self) -> Mapping[str, Tensor]:
        return self._trainer.networks.state

    def mixed(self, unit: Tensor, given: Given) -> Tensor:
        if "mix" not in given:
            return unit
        num_before = self._trainer.num_before
        partner = unit[:, :-1] if num_before else unit.roll(1, dims=1)
        return mixed(unit[:, num_before:], partner, given["mix"], given.get("box"))

    def erased(self, pixels: Tensor, given: Given) -> Tensor:
        augment, draws = self._trainer.augment, given["draws"][self._trainer.num_before :]
        return augment.erase(pixels.flatten(0, 1), draws).view_as(pixels) if augment.reprob else pixels

    def standardise(self, unit: Tensor) -> Tensor:
        return self._trainer.images.standardise(unit)

    def targets(self, index: Tensor) -> Tensor:
        members = torch.arange(len(index), device=index.device).unsqueeze(1)
        assert self._trainer.targets is not None, "the objective has a labeller"
        return self._trainer.targets[members, index]

    def labels(self, index: Tensor) -> Tensor:
        return self._trainer.class_of.gather(1, index)
