"""What an objective answers: its heads, its networks, its loss, its cost. No torch at the top.

E stacked trials, B batch, N patches, K classes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from vitbench.model.tensors import Tensor
from vitbench.spec.mechanism import Mechanism, mechanism, registered
from vitbench.spec.trial import ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from vitbench.data import Facts

Arrays = dict[str, Any]
"""Host arrays `[E, B, ...]` by name, which go to the device with a batch."""
Given = dict[str, Any]
"""Tensors of a step by name, each with leading `[E, B]`."""


STUDENT = "student"
"""The role of the trained network."""
FROZEN, AVERAGE = "frozen", "average"
"""Where another network comes from: an earlier stage (`uses: {ROLE: STAGE}`), or the average of the trained one's
weights over the steps."""
TRAIN_PER_FORWARD = 3
"""Training costs three forward passes: its own, and a backward pass of twice its size."""


class Pass(NamedTuple):
    """Forward passes of one network in one training step, for one image.

    `num_views` views of the image pass, of `img_size` pixels (None: the model's).
    """

    role: str
    num_views: int = 1
    img_size: int | tuple[int, int] | None = None


@dataclass(frozen=True)
class MemberBatch:
    """One member's images of a batch: indices, epochs and draws, each `[B, ...]`, and its seed.

    `before` is the index of the image before the first one; None: the batch is whole, and that is its last image.
    `columns` are those that the objective reads beside image and label, `[B, ...]` each, by name.
    """

    seed: int
    index: np.ndarray
    epoch: np.ndarray
    draws: np.ndarray
    before: int | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def partners(self) -> np.ndarray:
        """The indices `[B]` of the images that MixUp and CutMix mix into these: each time the one before."""
        partners = self.index[list(range(-1, len(self.index) - 1))]
        if self.before is not None:
            partners[0] = self.before
        return partners


class Call(Protocol):
    """What a loss may use: the spec, forward passes of the networks, standardisation, labels."""

    @property
    def model(self) -> ModelSpec:
        """The trained network's spec."""

    @property
    def train(self) -> TrainSpec:
        """How it is trained."""

    def forward(self, *inputs: torch.Tensor, train: bool) -> torch.Tensor:
        """Outputs `[E, B, ...]` of the trained network."""

    def outputs_of(self, role: str, *inputs: torch.Tensor) -> torch.Tensor:
        """Outputs `[E, B, ...]` of another network of the objective, in evaluation mode and without gradient."""

    def view(self, number: int) -> torch.Tensor:
        """View 1, 2, ... of the batch in training: images in [0, 1] `[E, B, C, H, W]`; view 0 is what a loss gets."""

    @property
    def state(self) -> Mapping[str, torch.Tensor]:
        """The tensors that the objective keeps between steps, `[E, ...]` each."""

    def standardise(self, unit: torch.Tensor) -> torch.Tensor:
        """Images in [0, 1] as a network gets them."""

    @property
    def class_weights(self) -> torch.Tensor | None:
        """The weight of each class `[E, K]`; None: all alike."""

    def mixed(self, unit: torch.Tensor, given: Given) -> torch.Tensor:
        """Images in [0, 1], mixed with their partners if the spec says so."""

    def erased(self, pixels: torch.Tensor, given: Given) -> torch.Tensor:
        """Standardised images, with random erasing if the spec says so."""

    def labels(self, index: torch.Tensor) -> torch.Tensor:
        """Positions among the trained classes `[E, B]` of training images `index [E, B]`."""

    def targets(self, index: torch.Tensor) -> torch.Tensor:
        """Weighted targets `[E, B, K]` of training images `index [E, B]`, for an objective with a `labeller`."""


class Objective(Mechanism):
    """What training minimises.

    `networks` names the networks beside the trained one by role: FROZEN from an earlier stage, or the moving AVERAGE of
    the trained one. `columns` are those of the data set that it reads. `predicts_classes`: answers on test images are
    classes, so accuracies are measured. `task_names` are the beginnings of its task tensors' names.
    """

    kind: ClassVar[str] = "objective"
    networks: ClassVar[Mapping[str, str]] = {}
    columns: ClassVar[frozenset[str]] = frozenset({"image"})
    predicts_classes: ClassVar[bool] = False
    gives: ClassVar[frozenset[str]] = frozenset()
    """`reconstruction`: `vitbench inspect` can paint what it predicts. `dist_token`: it trains a second token."""
    changes: ClassVar[frozenset[str]] = frozenset({"head", "mask_token", "readout", "final_norm"})
    """Kinds of parts whose tensors its choice may change."""
    task_names: ClassVar[tuple[str, ...]] = ()
    kept: ClassVar[str] = STUDENT
    """The role of the network that is evaluated and kept: the trained one, or one of its averages."""
    required: ClassVar[Mapping[str, str]] = {}
    """Fields of ModelSpec at values other than their defaults, with which it can train a model; specimens have them."""
    compares_images: ClassVar[bool] = False
    """True if an image's loss depends on the other images of its batch, so that a batch cannot be cut."""
    cuts_views: ClassVar[bool] = False
    """True if it cuts its views out of the images itself, so that they differ even without augmentation."""
    labeller: ClassVar[str | None] = None
    """The role of the network that answers, once before the first step, for the images whose labels are not read."""
    inputs: ClassVar[tuple[str, ...]] = ()
    """What `draw` gives that the network takes beside the images, in the order of its arguments."""
    scores_named: ClassVar[tuple[str, ...]] = ()
    """The metrics of `scores`."""
    reads: ClassVar[frozenset[str]] = frozenset()
    """Fields of TrainSpec that change the loss, among those that only training with labels has; others are left out of
    the id."""

    @property
    def frozen_roles(self) -> tuple[str, ...]:
        """Roles of networks that earlier stages give."""
        return tuple(role for role, source in self.networks.items() if source == FROZEN)

    @property
    def averaged_roles(self) -> tuple[str, ...]:
        """Roles of moving averages of the trained network."""
        return tuple(role for role, source in self.networks.items() if source == AVERAGE)

    @property
    def made_metrics(self) -> tuple[str, ...]:
        """Names of what `made` gives."""
        return ()

    @property
    def labelled_share(self) -> float | None:
        """With a `labeller`, the share of the data's training images whose labels are read; None: no such share."""
        return None

    @property
    def noised_answers(self) -> bool:
        """With a `labeller`, True if it answers in training mode for augmented images."""
        return False

    def targets_of(self, probabilities: np.ndarray) -> np.ndarray:
        """Weighted targets `[n, K]` for the labeller's probabilities `[n, K]`; a row of zeros leaves its image out."""
        raise NotImplementedError

    @property
    def num_views(self) -> int:
        """Views of each image per step, each with draws of its own; `call.view(n)` gives the later ones."""
        return 1

    def frozen_parts(self, model: ModelSpec) -> frozenset[str]:
        """The kinds of parts of the encoder that keep their first weights."""
        return frozenset()

    def problems(self, model: ModelSpec) -> list[str]:
        """Why this objective cannot train `model`, one line each."""
        return []

    def data_problems(self, facts: Facts) -> list[str]:
        """Why this objective cannot train on such data, which have the columns that it reads, one line each."""
        return []

    def network_problems(self, spec: TrialSpec, networks: Mapping[str, TrialSpec]) -> list[str]:
        """Why the networks of earlier stages, by role, do not suit a resolved `spec`, one line each."""
        return []

    def momentum_at(self, role: str, step: int, num_steps: int) -> float:
        """The share of a moving average that stays after step `step` of `num_steps`, counted from 0."""
        raise NotImplementedError

    def schedules(self, num_steps: int) -> Mapping[str, Sequence[float]]:
        """Numbers that change with the steps, by name: one per step, which the loss of that step finds in `given`.

        Validation has those of the last step.
        """
        return {}

    def state(self, model: ModelSpec) -> Mapping[str, tuple[int, ...]]:
        """Shapes of tensors, by name, that the objective keeps between steps beside all weights; they start at zero."""
        return {}

    def after_step(self, call: Call) -> None:
        """What happens after each optimizer step, beside the moving averages: change `call.state` in place.

        It must not wait for the device, so that a step can be replayed as a CUDA graph.
        """

    def resolved(self, model: ModelSpec) -> Objective:
        """The normal form for `model`, so that equal functions have equal ids."""
        return self

    def encoded(self, model: ModelSpec) -> ModelSpec:
        """The model whose blocks cost what the trained network's blocks cost: that of smaller images, if they see some
        of the patches only."""
        return model

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        """The tensors of its heads (and of the readout, if it pools) by their name in the model."""
        raise NotImplementedError

    def macs(self, model: ModelSpec) -> dict[str, int]:
        """Multiply-adds of its products that use no weight, per image, by name."""
        return {}

    def module(self, model: ModelSpec, patch_embed: nn.Module) -> nn.Module:
        """The trained network."""
        raise NotImplementedError

    def passes(self, model: ModelSpec) -> Sequence[Pass]:
        """The forward passes of one training step, of the trained network (STUDENT) and of the others.

        Passes of the trained network are followed by a backward pass; the others are not.
        """
        return [Pass(STUDENT), *(Pass(role) for role in self.networks if role != self.labeller)]

    def draw(self, model: ModelSpec, batches: Sequence[MemberBatch], mixtures: Sequence[Any]) -> Arrays:
        """What a batch is trained for, as functions of (seed, epoch, index).

        `mixtures` are those of MixUp and CutMix, one per member, or empty.
        """
        raise NotImplementedError

    def loss(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        """Loss per member `[E]` of images in [0, 1], `unit [E, B, C, H, W]`."""
        raise NotImplementedError

    def validation(self, call: Call, unit: torch.Tensor, given: Given) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Loss `[E]` and percent of right answers `[E]` on validation images, of an objective without classes.

        The percentage is None if answers cannot be right or wrong.
        """
        raise NotImplementedError

    def measures(self, call: Call, unit: torch.Tensor, given: Given) -> Mapping[str, torch.Tensor]:
        """Numbers per member `[E]` on validation images after training, by the name of their metric."""
        return {}

    def answers(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        """What the network says of test images `unit [E, B, C, H, W]`: `[E, B, ...]`, for `scores`.

        `given["test_labels"]` are their positions `[E, B]` among the trained classes.
        """
        raise NotImplementedError

    def scores(self, answers: np.ndarray, columns: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """The metrics `scores_named` of one member: of its answers `[M, ...]` to all test images, and their columns."""
        raise NotImplementedError

    def made(self, call: Call, seeds: Sequence[int], device: torch.device) -> Mapping[str, torch.Tensor]:
        """Numbers per member `[E]` of what the trained network makes without any image, by the name of their metric."""
        return {}

    def timm(self, model: ModelSpec) -> Mapping[str, Any] | str:
        """Arguments of timm's model for its heads, or why timm cannot hold the model. The default is a refusal."""
        return f"train.objective {self.text()}; its models have no such heads"


@functools.lru_cache(maxsize=1024)
def objective_of(spec: ObjectiveSpec) -> Objective:
    """The objective of a spec, with its flat fields."""
    named: Objective = mechanism("objective", spec.name)
    return named.model_copy(update={key: getattr(spec, key) for key in named.flat})


def spec_of(objective: Objective) -> ObjectiveSpec:
    """The spec of an objective: some fields stay flat, the others are part of the name."""
    fields = {key: getattr(objective, key) for key in type(objective).model_fields}
    flat = {key: fields[key] for key in objective.flat}
    inside = {key: value for key, value in fields.items() if key not in flat}
    return ObjectiveSpec(name=type(objective)(**inside).text(), **flat)


def rising_momentum(start: float, step: int, num_steps: int) -> float:
    """The momentum of an average after a step, by a cosine from `start` to 1; 0 throughout if `start` is 0.

    `start` is what stays after a thousandth of all steps, so that trainings of any length have averages that lag by the
    same share of them. Source: Grill et al. 2020 (BYOL), App. C. Differs: there it is what stays after one step.
    """
    if start == 0:
        return 0.0
    first: float = start ** (1000 / num_steps)
    return 1 - (1 - first) * (1 + math.cos(math.pi * step / num_steps)) / 2


def is_task_name(name: str) -> bool:
    """True if a tensor of this name in a file belongs to a task: it is the head of some objective."""
    prefixes = tuple(prefix for cls in registered("objective").values() for prefix in cls.task_names)  # type: ignore[attr-defined]
    return name.startswith(prefixes)
