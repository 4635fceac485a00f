"""Trainings small enough for a fraction of a second, on the fake images."""

from __future__ import annotations

from typing import Any

import torch

from vitbench.data import DataOptions, facts
from vitbench.resolve import resolve
from vitbench.spec import DataSpec, ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec
from vitbench.train.course import Trained, train_stack
from vitbench.train.images import Images, load_images
from vitbench.train.loop import Job, Trainer

CPU = torch.device("cpu")
VIT: dict[str, Any] = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
RESNET: dict[str, Any] = {"family": "resnet", "layers": (1, 1), "width_factor": 0.25, "root": "small"}


def spec(model: dict[str, Any] = VIT, data: dict[str, Any] | None = None, **train: Any) -> TrialSpec:
    """A resolved spec; `objective` names the target of masked patch prediction."""
    if "objective" in train:
        train["objective"] = ObjectiveSpec(name="masked_patch", target=train["objective"])
    settings = {"steps": 20, "batch_size": 16, "lr": 3e-3, **train}
    images = {"name": "fake", "val_fraction": 0.2, **(data or {})}
    written = TrialSpec(model=ModelSpec(**model), data=DataSpec(**images), train=TrainSpec(**settings))
    return resolve(written, facts(images["name"], DataOptions()))


def images_of(one: TrialSpec) -> Images:
    return load_images(one.data, DataOptions(), CPU)


def trainer(specs: list[TrialSpec], seeds: list[int]) -> Trainer:
    jobs = [Job(one, seed) for one, seed in zip(specs, seeds, strict=True)]
    return Trainer(jobs, images_of(specs[0]), CPU)


def trained(specs: list[TrialSpec], seeds: list[int]) -> list[Trained]:
    return train_stack(trainer(specs, seeds), lambda step, speed, loss: None)
