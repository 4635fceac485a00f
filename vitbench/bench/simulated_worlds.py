"""Gaussian worlds of tuned arms, calibrated on committed records: what the simulations of `settling` draw from.

R runs, K settings, n seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vitbench.stats.distributions import Floats


@dataclass(frozen=True)
class World:
    """How scores come about, in points: standard deviations, and the curvature of rates per octave squared."""

    name: str
    num_settings: int
    luck: float
    test_flips: float
    val_flips: float
    split: float
    correlation: float
    curvature: Mapping[str, float]
    margin: float
    growth: float = 0.25


FASHION = World("fashion", 3, 0.36, 0.21, 0.40, 0.60, 0.10, {"flat": 0.05, "typical": 0.5, "steep": 1.5}, 1.0)
DIGITS = World("digits", 5, 1.10, 1.20, 1.50, 1.20, 0.15, {"flat": 0.15, "typical": 1.2, "steep": 3.0}, 2.0)
SHAPES: Mapping[str, tuple[tuple[str, float], tuple[str, float]]] = {
    "both flat": (("flat", 0.0), ("flat", 0.0)),
    "typical": (("typical", 0.0), ("typical", 0.0)),
    "exact tie": (("tie", 0.5), ("tie", 0.5)),
    "steep against flat": (("steep", 0.0), ("flat", 0.0)),
    "steep, opposite optima": (("steep", -1.0), ("steep", 1.0)),
    "optimum off the middle": (("typical", 0.0), ("typical", 0.3)),
}
"""Per arm: its curvature and where its optimum lies, in octaves from the middle of the grid."""


def deficits(world: World, curve: tuple[str, float]) -> Floats:
    """Points that each setting [K] loses against the best of the grid; 1.3 times as fast above the optimum."""
    kind, optimum = curve
    octaves = np.arange(world.num_settings) - (world.num_settings - 1) // 2 - optimum
    if kind == "tie":
        octaves = np.sign(octaves) * np.maximum(np.abs(octaves) - 0.5, 0.0)
    lost = world.curvature["typical" if kind == "tie" else kind] * octaves**2 * np.where(octaves > 0, 1.3, 1.0)
    return np.asarray(lost - lost.min())


@dataclass(frozen=True)
class ArmScores:
    """Scores of one arm [R, K, n], with the best setting's expectation at 0."""

    val: Floats
    test: Floats


def draw(world: World, lost: Floats, split: Floats, rng: np.random.Generator) -> ArmScores:
    """One arm at the seeds of `split` [R, n]."""
    shape = (len(split), len(lost), split.shape[1])
    shared = rng.standard_normal((shape[0], 1, shape[2]))
    own = rng.standard_normal(shape)
    spread = (world.luck * (1.0 + world.growth * lost))[:, None]
    luck = spread * (np.sqrt(world.correlation) * shared + np.sqrt(1.0 - world.correlation) * own)
    expected = luck - lost[:, None]
    val = expected + world.split * split[:, None, :] + world.val_flips * rng.standard_normal(shape)
    return ArmScores(val, expected + world.test_flips * rng.standard_normal(shape))
