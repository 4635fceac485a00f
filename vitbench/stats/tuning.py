"""Choosing a tuned setting on validation scores, and what that choice adds to the uncertainty of the arm.

K settings, T tuning seeds; scores are validation top-1 in percent. Test scores never come here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

NUM_REDRAWS = 10_000
SAME_MEAN_DIGITS = 9
"""Means that agree to this many digits are a tie: sums of percentages differ by float noise in other orders."""


@dataclass(frozen=True)
class Choice:
    """The setting an arm is reported at."""

    index: int
    setting: Mapping[str, Any]
    mean: float
    at_edge: bool
    num_eligible: int


def choose(settings: Sequence[Mapping[str, Any]], scores: npt.ArrayLike, eligible: npt.ArrayLike) -> Choice | None:
    """The setting with the highest mean validation score [K, T], or None if none is eligible in every seed [K, T].

    A tie goes to the smaller value. `at_edge`: the choice is at an end of the grid of one of its paths.
    """
    candidates = [index for index, flags in enumerate(np.asarray(eligible, dtype=bool)) if flags.all()]
    if not candidates:
        return None
    means = {index: float(np.mean(np.asarray(scores, dtype=np.float64)[index])) for index in candidates}
    best = min(candidates, key=lambda index: (-round(means[index], SAME_MEAN_DIGITS), *size(settings[index]), index))
    return Choice(best, dict(settings[best]), means[best], _at_edge(settings, best), len(candidates))


def size(setting: Mapping[str, Any]) -> tuple[float, ...]:
    """Sort key for ties: a setting's numbers; words compare as equal, which keeps the order of the grid."""
    return tuple(float(value) if _is_number(value) else 0.0 for value in setting.values())


def _at_edge(settings: Sequence[Mapping[str, Any]], index: int) -> bool:
    """Whether some numeric path of the setting stands at an end of its grid."""
    for path, value in settings[index].items():
        grid = {setting[path] for setting in settings if _is_number(setting[path])}
        if len(grid) > 1 and value in (min(grid), max(grid)):
            return True
    return False


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class TuningNoise:
    """The cost of choosing among K settings on T seeds.

    `variance`: mean squared regret, points squared, to be added to the arm's squared standard error. `optimism`: by how
    many points the winner's validation mean flatters it. `other_chosen`: how often another setting would be chosen.
    """

    variance: float
    optimism: float
    other_chosen: float


def tuning_noise(scores: npt.ArrayLike, rng: np.random.Generator) -> TuningNoise | None:
    """The noise of the choice among eligible settings, scores [K, T]; None if one tuning seed shows none of it.

    The K means are drawn again with the residual spread of settings x seeds (both effects removed), the top one is
    taken, and its regret is measured against the top mean observed. A bootstrap over so few seeds falls short.
    """
    table = np.asarray(scores, dtype=np.float64)
    num_settings, num_seeds = table.shape
    if num_settings == 1:
        return TuningNoise(0.0, 0.0, 0.0)
    if num_seeds == 1:
        return None
    means = table.mean(axis=1)
    residual = table - means[:, None] - table.mean(axis=0)[None, :] + table.mean()
    spread = np.sqrt((residual**2).sum() / ((num_settings - 1) * (num_seeds - 1)))
    noise = rng.standard_normal((NUM_REDRAWS, num_settings)) * spread / np.sqrt(num_seeds)
    picked = np.argmax(means + noise, axis=1)
    regret = means.max() - means[picked]
    flattery = noise[np.arange(NUM_REDRAWS), picked]
    return TuningNoise(float(np.mean(regret**2)), float(np.mean(flattery)), float(np.mean(picked != np.argmax(means))))
