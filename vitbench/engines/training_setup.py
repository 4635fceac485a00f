"""What precedes a trial's first step, in every process that trains it: images, precision, the trainer."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vitbench.base.errors import InputError
from vitbench.engines.options import Options
from vitbench.plan.trials import Trial
from vitbench.train import process_group
from vitbench.train.image_source import ImageSource
from vitbench.train.resident import open_source
from vitbench.train.step_program import program_of
from vitbench.train.trainer import Job, Trainer


def images_of(trial: Trial, options: Options) -> ImageSource:
    """The images of a trial. Raises InputError if they are not those that it was planned for."""
    torch.set_num_threads(options.threads)
    images = open_source(trial.spec, options.data, torch.device(options.device))
    if images.fingerprint != trial.data_fingerprint:
        raise InputError(f"{trial.spec.data.name}: the images changed after planning; run the same command again")
    return images


def trainer_of(jobs: Sequence[Job], trial: Trial, images: ImageSource, options: Options) -> Trainer:
    """The trainer of jobs whose trials are like `trial`."""
    set_precision(trial.spec.train.precision)
    program = program_of(options.program, options.device, len(jobs) * trial.train_flops, trial.spec)
    device, group = torch.device(options.device), process_group.current()
    return Trainer(jobs, images, device, program, options.recompute, group)


def set_precision(precision: str) -> None:
    """Set torch's precision: fp32 is exact, and tf32 is used only if the spec says so."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
