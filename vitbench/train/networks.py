"""The networks of an objective beside the trained one: frozen ones of earlier stages, and moving averages.

E stacked trials, P parameters of the trained network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitbench.model.build import build
from vitbench.model.objective import Objective
from vitbench.spec.trial import ModelSpec, TrialSpec
from vitbench.train.stack import Stack


@dataclass(frozen=True)
class Network:
    """A trained network of an earlier stage: its resolved spec, and its weights on the CPU."""

    spec: TrialSpec
    state: dict[str, Tensor]


class Networks:
    """The other networks of a stack of trials, and the objective's own state, such as running means.

    Each member has frozen networks of its own; their specs are equal. A moving average starts as the trained network.
    """

    def __init__(
        self, objective: Objective, trained: Stack, members: Sequence[Mapping[str, Network]], device: torch.device
    ) -> None:
        self.objective, self.trained = objective, trained
        in_steps = [role for role in objective.frozen_roles if role != objective.labeller]
        self.frozen = {role: _frozen(role, members, device) for role in in_steps}
        self.averages = {role: trained.flat.clone() for role in objective.averaged_roles}
        self.state: dict[str, Tensor] = {}
        self._shares: dict[str, Tensor] = {}
        self._schedules: dict[str, Tensor] = {}

    def start(self, model: ModelSpec, num_steps: int) -> None:
        """Allocate the objective's state, zero everywhere, and read its schedules and momenta of all steps."""
        device, members = self.trained.flat.device, self.trained.num_members
        shapes = self.objective.state(model)
        self.state = {name: torch.zeros(members, *shape, device=device) for name, shape in shapes.items()}
        for role in self.averages:
            momenta = [self.objective.momentum_at(role, step, num_steps) for step in range(num_steps)]
            self._shares[role] = 1 - torch.tensor(momenta, dtype=torch.float32, device=device)

        schedules = self.objective.schedules(num_steps)
        self._schedules = {
            name: torch.tensor(values, dtype=torch.float32, device=device) for name, values in schedules.items()
        }

    def scheduled(self, step: int) -> dict[str, Tensor]:
        """The objective's numbers of a step (-1: the last one), as tensors on the device."""
        return {name: values[step] for name, values in self._schedules.items()}

    def outputs(self, role: str, *inputs: Tensor) -> Tensor:
        """Outputs `[E, B, ...]` of another network, in evaluation mode and without gradient."""
        with torch.no_grad():
            if role in self.averages:
                return self.trained.forward(*inputs, flat=self.averages[role])
            return self.frozen[role].forward(*inputs)

    def numbers(self, step: int) -> dict[str, Tensor]:
        """What `update` needs to know of a step, as tensors on the device."""
        return {f"share.{role}": shares[step] for role, shares in self._shares.items()}

    def update(self, numbers: Mapping[str, Tensor], active: Tensor) -> None:
        """Move the averages of the members `active [E, 1]` towards the trained weights, on the device."""
        for role, average in self.averages.items():
            target = torch.where(active > 0, self.trained.flat, average)
            average.lerp_(target, numbers[f"share.{role}"])

    def tensors(self) -> dict[str, Tensor]:
        """What training changes, each with a leading axis `[E]`, for checkpoints; frozen networks never change."""
        averages = {f"network.{role}": average for role, average in self.averages.items()}
        return averages | {f"objective.{name}": tensor for name, tensor in self.state.items()}


def _frozen(role: str, members: Sequence[Mapping[str, Network]], device: torch.device) -> Stack:
    """The members' networks of one role as a stack without gradients."""
    spec = members[0][role].spec
    assert all(member[role].spec == spec for member in members), f"the members' {role} networks have equal specs"
    with torch.device("meta"):
        module = build(spec.model, spec.train.objective)
    return Stack(module, [member[role].state for member in members], device, trained=False)
