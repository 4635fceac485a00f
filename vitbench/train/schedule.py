"""The learning rate of every step, as numbers known before training starts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vitbench.spec.trial import TrainSpec


def learning_rates(train: TrainSpec) -> npt.NDArray[np.float64]:
    """Rates `[num_steps]`: linear warm-up over `warmup_fraction` of the steps, then cosine or linear to 0, or constant.

    The first step of a warm-up of w steps has lr / w; the last step of all is one step short of 0.
    Source: Dosovitskiy et al. 2021, App. B.1, Table 3 (linear decay at scale, cosine on ImageNet).
    """
    assert train.steps is not None, "resolved specs say their length in steps"
    num_steps = train.steps
    warmup = round(train.warmup_fraction * num_steps)
    step = np.arange(num_steps, dtype=np.float64)
    progress = np.clip((step - warmup) / max(1, num_steps - warmup), 0.0, 1.0)
    shape = {
        "cosine": 0.5 * (1.0 + np.cos(np.pi * progress)),
        "linear": 1.0 - progress,
        "constant": np.ones(num_steps),
    }[train.sched]
    return train.lr * np.where(step < warmup, (step + 1) / max(1, warmup), shape)
