"""The tiny ViT in which a mechanism is tested, its images and its trainer; nothing is written to disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, facts
from vitbench.data.image_columns import ALWAYS
from vitbench.model.build import build, initialise
from vitbench.model.mechanisms import MODEL_KINDS
from vitbench.model.objective import objective_of
from vitbench.model.sizes import known, pixel_grid
from vitbench.plan.resolve import resolve
from vitbench.spec.trial import DataSpec, ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec
from vitbench.train.networks import Network
from vitbench.train.resident import load_images
from vitbench.train.trainer import Job, Trainer

TINY: dict[str, Any] = {"patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
NUM_STEPS = 3
SCENES_PER_FAKE = 4
"""Scenes have four times the side of fake images, so patches do."""


@dataclass(frozen=True)
class Specimen:
    """A mechanism in the tiny ViT, and the tiny ViT without it.

    The networks of earlier stages that an objective reads are tiny ViTs like the baseline.
    """

    kind: str
    text: str
    spec: TrialSpec
    baseline: TrialSpec
    patch_size: int = 2
    """That of fake images."""


def case_of(kind: str, text: str) -> Specimen:
    """The tiny ViT with the mechanism: with a class token if it can, else with average pooling, then larger patches.

    Raises InputError if none can.
    """
    reasons = []
    for pool, patch_size in (("token", 2), ("avg", 2), ("token", 4)):
        try:
            specs = [spec_with(kind, text, pool, patch_size, baseline=baseline) for baseline in (False, True)]
            return Specimen(kind, text, specs[0], specs[1], patch_size)
        except InputError as error:
            reasons.append(str(error))
    raise InputError(f"{kind} {text}: no tiny ViT can hold it: {reasons[-1]}")


def spec_with(
    kind: str, text: str | None, pool: str = "token", patch_size: int = 2, *, baseline: bool = False
) -> TrialSpec:
    """The resolved spec of the tiny ViT, with a mechanism or without. Raises InputError.

    The `baseline` of an objective has the other fields that the objective requires.
    """
    model, objective = {**TINY, "global_pool": pool, "patch_size": patch_size}, ObjectiveSpec()
    data, augment = "fake", TrainSpec().augment
    if text is not None and kind == "objective":
        with_objective = ObjectiveSpec(name=text)
        model |= objective_of(with_objective).required
        if objective_of(with_objective).columns - ALWAYS:
            data, augment = "scenes", "none"
            model["patch_size"] *= SCENES_PER_FAKE
        objective = objective if baseline else with_objective
    elif text is not None and not baseline:
        model[MODEL_KINDS[kind]] = text
    train = TrainSpec(steps=NUM_STEPS, batch_size=16, lr=3e-3, objective=objective, augment=augment)
    written = TrialSpec(model=ModelSpec(**model), data=DataSpec(name=data, val_fraction=0.2), train=train)
    return resolve(written, facts(data, DataOptions()), networks_of(written))


def networks_of(spec: TrialSpec) -> dict[str, TrialSpec]:
    """{role: baseline} for the networks of earlier stages that the objective of `spec` reads."""
    roles = objective_of(spec.train.objective).frozen_roles
    return dict.fromkeys(roles, spec_with("objective", None)) if roles else {}


def inputs(spec: TrialSpec, count: int) -> list[Tensor]:
    """Random images, and what the objective draws for them."""
    from vitbench.engines.memory import drawn_inputs

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, known(spec.model.in_chans), *pixel_grid(spec.model), generator=generator)
    return [images, *drawn_inputs(spec, count)]


def noisy_module(spec: TrialSpec, seed: int = 0) -> Any:
    """The module with noise on all weights, in evaluation mode, so that no zero hides a fault."""
    module = build(spec.model, spec.train.objective)
    initialise(module, spec.model, spec.train.objective, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return module.eval()


def trainer_of(spec: TrialSpec, seeds: tuple[int, ...]) -> Trainer:
    """A trainer of a stack of seeds on the CPU, before its first step."""
    cpu = torch.device("cpu")
    jobs = [Job(spec, seed, networks=_trained_networks(spec, seed)) for seed in seeds]
    return Trainer(jobs, load_images(spec.data, DataOptions(), cpu), cpu)


def _trained_networks(spec: TrialSpec, seed: int) -> dict[str, Network]:
    """Networks of earlier stages, with noise in place of training."""
    return {role: Network(other, noisy_module(other, seed).state_dict()) for role, other in networks_of(spec).items()}


def trained(spec: TrialSpec, seeds: tuple[int, ...]) -> Trainer:
    """A trainer of a stack of seeds after NUM_STEPS steps."""
    trainer = trainer_of(spec, seeds)
    for step in range(NUM_STEPS):
        trainer.step(step)
    trainer.feed.close()
    return trainer
