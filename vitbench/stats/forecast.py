"""The chance of a verdict by each coming look, from the seeds so far.

Predictive, not plug-in: the unknown spread and mean are drawn, then the new seeds, and the rule is applied to old and
new seeds together. At n = 5 a plug-in forecast is far too sure of itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitbench.base.seeding import derive_seed
from vitbench.stats.decision import OPEN, Estimate, Noise, Region, estimate, has_spread, settle
from vitbench.stats.distributions import Floats
from vitbench.stats.looks import Schedule

NUM_DRAWS = 4_000


@dataclass(frozen=True)
class Coming:
    """By `n` seeds a verdict is there with this chance; `trainings` at most that a race still needs for it."""

    n: int
    chance: float
    trainings: int | None = None


def forecast(
    data: tuple[Floats, Floats],
    regions: Sequence[Region],
    noise: Noise,
    plan: Schedule,
    least_seeds: int = 5,
    past: Sequence[Estimate | None] = (),
) -> tuple[Coming, ...]:
    """The chance of a verdict by each look of `plan` that lies beyond the n seeds of `data`, low and high [n, P].

    Looks of under `least_seeds` decide nothing. `past`: the estimates of the looks so far, where they differ from the
    data cut short (a race may have had another leader). The variance of a race's choice shrinks with the seeds to come.
    The generator is fixed: the same records give the same forecast.
    """
    low, high = data
    n, num_parts = low.shape
    num_seeds = plan.looks[-1]
    if num_seeds <= n or num_seeds < least_seeds:
        return ()
    rng = np.random.default_rng(derive_seed(0, "stats/forecast"))
    floors = np.concatenate([noise.floor, noise.floor])
    future = _draw(np.concatenate([low, high], axis=1), floors, num_seeds - n, rng)
    lows = np.concatenate([np.broadcast_to(low, (NUM_DRAWS, n, num_parts)), future[..., :num_parts]], axis=1)
    highs = np.concatenate([np.broadcast_to(high, (NUM_DRAWS, n, num_parts)), future[..., num_parts:]], axis=1)
    decisive = [look >= least_seeds and has_spread(low[:look], high[:look], noise) for look in plan.looks]
    estimates = [
        estimate(lows[:, :look], highs[:, :look], noise.after(look)) if counts else None
        for look, counts in zip(plan.looks, decisive, strict=True)
    ]
    estimates[: len(past)] = past
    settled = settle(estimates, regions, plan)
    return tuple(
        Coming(look, float(np.mean((settled.state != OPEN) & (settled.settled_at <= index))))
        for index, look in enumerate(plan.looks)
        if look > n
    )


def _draw(data: Floats, floors: Floats, num_new: int, rng: np.random.Generator) -> Floats:
    """New seeds [NUM_DRAWS, num_new, columns] given `data` [n, columns].

    One chi-squared draw scales all columns, and new seeds are random mixtures of the old residuals: each column has
    its own predictive t distribution, and the correlation of parts is kept although n may be below their number.
    """
    n = len(data)
    residual = (data - data.mean(axis=0)) / np.sqrt(n - 1)
    sd = np.sqrt((residual**2).sum(axis=0))
    residual = np.where(sd > 0.0, residual * np.maximum(sd, floors) / np.where(sd > 0.0, sd, 1.0), floors / np.sqrt(n))
    scale = np.sqrt((n - 1) / rng.chisquare(n - 1, NUM_DRAWS))[:, None]
    mean = data.mean(axis=0) + scale * (rng.standard_normal((NUM_DRAWS, n)) @ residual) / np.sqrt(n)
    noise = rng.standard_normal((NUM_DRAWS, num_new, n)) @ residual
    return np.asarray(mean[:, None, :] + scale[..., None] * noise)
