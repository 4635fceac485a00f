"""The race of an arm's settings: who leads after n seeds, who is dropped, and what the choice adds to the uncertainty.

K settings by n seeds. `scores` are validation top-1 in percent, or minus the validation loss; `ok` says where a trial
has one, `present` where it was run at all. A setting races at n seeds where it is ok at each of them; one that was
dropped has a prefix of the seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from vitbench.base.seeding import derive_seed
from vitbench.spec.metrics import DEFAULT_TUNING
from vitbench.stats.distributions import Floats, t_quantile
from vitbench.stats.tuning import NUM_REDRAWS, Choice, choose

Bools = npt.NDArray[np.bool_]
DEPENDS_SHARE = 0.25
"""Above this share of draws that pick another setting, a quantity that differs there depends on the setting."""


def survivors(scores: npt.ArrayLike, ok: npt.ArrayLike, alpha: float) -> tuple[int, ...]:
    """The settings that go on after n seeds: those racing that are not significantly behind the leader.

    `scores`, `ok` [K, n]. A setting goes if leader - setting > t_{1 - alpha / (k - 1)}(df) s sqrt(2 / n), k of them
    racing. Without a degree of freedom for the residual no setting is dropped.
    """
    table, finished = np.asarray(scores, dtype=np.float64), np.asarray(ok, dtype=bool)
    racing = np.flatnonzero(finished.all(axis=1))
    s, df = residual_spread(table, finished)
    if len(racing) < 2 or df == 0:
        return tuple(int(index) for index in racing)
    means = table[racing].mean(axis=1)
    threshold = float(t_quantile(1.0 - alpha / (len(racing) - 1), df)) * s * np.sqrt(2.0 / table.shape[1])
    return tuple(int(index) for index in racing[means.max() - means <= threshold])


def residual_spread(scores: Floats, ok: Bools) -> tuple[float, int]:
    """(s, df) of settings x seeds with both effects removed, over the racing settings [k, n] and the dropped ones.

    A dropped setting adds the spread of its gap to the mean of the racing ones at the seeds that it has. A setting with
    a lost trial (diverged or failed) adds nothing.
    """
    n = scores.shape[1]
    racing = ok.all(axis=1)
    k = int(racing.sum())
    if k == 0 or n < 2:
        return 0.0, 0
    living = scores[racing]
    by_seed = living.mean(axis=0)
    residual = living - living.mean(axis=1, keepdims=True) - by_seed + living.mean()
    squares, df = float((residual**2).sum()), (k - 1) * (n - 1)
    for row in np.flatnonzero(~racing & is_prefix(ok)):
        m = int(ok[row].sum())
        if m > 1:
            gap = scores[row, :m] - by_seed[:m]
            squares += k / (k + 1) * float(((gap - gap.mean()) ** 2).sum())
            df += m - 1
    return (float(np.sqrt(squares / df)), df) if df else (0.0, 0)


def is_prefix(ok: Bools) -> Bools:
    """Mask [K] of settings that are ok at their first seeds (at least one) and have nothing after."""
    return np.asarray(ok.any(axis=1) & (np.diff(ok.astype(int), axis=1) <= 0).all(axis=1))


@dataclass(frozen=True)
class Picks:
    """Settings drawn again: which one leads in each draw [NUM_REDRAWS], and each one's gap to the leader [K]."""

    picked: npt.NDArray[np.int64]
    gaps: Floats


@dataclass(frozen=True)
class Race:
    """One arm's race: K settings by n seeds, in the order of the seeds.

    `chosen` is the index of the setting that the records mark as chosen; None: the leader is computed. `metric` is what
    the scores are: higher is better, so a loss is negative.
    """

    settings: tuple[Mapping[str, Any], ...]
    seeds: tuple[int, ...]
    scores: Floats
    ok: Bools
    present: Bools
    chosen: int | None = None
    metric: str = DEFAULT_TUNING

    def upto(self, num_seeds: int) -> Race:
        """The race as it stood after its first seeds."""
        rows = np.flatnonzero(self.present[:, :num_seeds].any(axis=1))
        cut = np.ix_(rows, np.arange(min(num_seeds, len(self.seeds))))
        settings = tuple(self.settings[row] for row in rows)
        cuts = self.scores[cut], self.ok[cut], self.present[cut]
        return Race(settings, self.seeds[:num_seeds], *cuts, metric=self.metric)

    @cached_property
    def num_seeds(self) -> int:
        """The number of seeds at which the leader has raced."""
        prefix = _prefix_lengths(self.present)
        if self.chosen is not None:
            return int(prefix[self.chosen])
        return int(prefix.max(initial=0))

    @cached_property
    def choice(self) -> Choice | None:
        """The leader: the best validation mean of those that raced at every seed; None before the first trial.

        If all of them lost a trial: the one still training, with the fewest losses; a tie goes to the smallest.
        """
        n = self.num_seeds
        if n == 0:
            return None
        best = choose(self.settings, self.scores[:, :n], self.ok[:, :n])
        if self.chosen is None or (best is not None and best.index == self.chosen):
            return best or self._last()
        mean = float(self.scores[self.chosen, :n][self.ok[self.chosen, :n]].mean()) if self.ok[self.chosen].any() else 0
        return Choice(self.chosen, dict(self.settings[self.chosen]), mean, best.at_edge if best else False, 1)

    def _last(self) -> Choice | None:
        n = self.num_seeds
        trained = self.present[:, :n].all(axis=1)
        lost = np.where(trained, (~self.ok[:, :n]).sum(axis=1), n + 1)
        index = int(np.argmin(lost))
        return Choice(index, dict(self.settings[index]), 0.0, False, 0) if trained.any() else None

    @property
    def at_edge(self) -> bool:
        """Whether the leader stands at an end of the grid."""
        return self.choice is not None and self.choice.at_edge

    def racing(self) -> tuple[Mapping[str, Any], ...]:
        """The settings trained at every seed so far."""
        n = self.num_seeds
        return tuple(s for s, row in zip(self.settings, self.present[:, :n], strict=True) if n and row.all())

    def dropped(self) -> tuple[tuple[Mapping[str, Any], int, float | None], ...]:
        """(setting, seeds that it has, points behind the leader, None without a score) of each
        dropped setting."""
        picks = self.picks
        out = []
        for row, setting in enumerate(self.settings):
            num = int(self.present[row, : self.num_seeds].sum())
            if num < self.num_seeds:
                gap = float(picks.gaps[row]) if picks is not None else np.nan
                out.append((setting, num, gap if np.isfinite(gap) else None))
        return tuple(out)

    @cached_property
    def picks(self) -> Picks | None:
        """The settings drawn again, each mean with the residual spread over its own seeds; None without a leader.

        The generator is fixed and the same for every arm, so the same records give the same V.
        """
        if self.choice is None:
            return None
        n, leader = self.num_seeds, self.choice.index
        scores, ok = self.scores[:, :n], self.ok[:, :n]
        fit = is_prefix(ok) & (self.present[:, :n] == ok).all(axis=1)
        gaps = np.full(len(scores), np.inf)
        counts = np.maximum(ok.sum(axis=1), 1)
        for row in np.flatnonzero(fit):
            gaps[row] = float((scores[leader] - scores[row])[ok[row] & ok[leader]].mean()) if ok[leader].any() else 0.0
        gaps[leader] = 0.0
        s, _ = residual_spread(scores, ok & fit[:, None])
        rng = np.random.default_rng(derive_seed(0, "stats/tuning"))
        noise = rng.standard_normal((NUM_REDRAWS, len(scores))) * s / np.sqrt(counts)
        return Picks(np.argmax(noise - gaps, axis=1), gaps)

    @property
    def variance(self) -> float | None:
        """V: the mean squared regret of the choice, points squared; None without a leader.

        Only losses count: a setting that is ahead of the leader on its own seeds costs nothing.
        """
        if self.picks is None:
            return None
        return float(np.mean(np.maximum(self.picks.gaps[self.picks.picked], 0.0) ** 2))

    def variance_of(self, values: Sequence[Floats | None]) -> tuple[float | None, bool]:
        """V of another quantity in its own unit, and whether the quantity depends on the setting.

        `values`: per setting, the quantity at its seeds. V is the mean of (q_pick - q_leader)^2 over the same draws.
        (None, ...) where a setting that is picked was not measured. The quantity depends on the setting where over a
        quarter of the draws pick another one and the mean there lies over 2 standard errors from the leader's.
        """
        assert self.picks is not None
        assert self.choice is not None
        shares = np.bincount(self.picks.picked, minlength=len(self.settings)) / NUM_REDRAWS
        measured = np.array([value is not None and len(value) > 0 for value in values])
        leader = self.choice.index
        if (shares[~measured] > 0.0).any() or not measured[leader]:
            return None, False
        arrays = [np.asarray(value, dtype=np.float64) if value is not None else np.zeros(1) for value in values]
        means = np.array([array.mean() for array in arrays])
        squares = np.array([array.var(ddof=1) / len(array) if len(array) > 1 else 0.0 for array in arrays])
        off = np.where(np.arange(len(shares)) == leader, 0.0, shares)
        depends = False
        if off.sum() > DEPENDS_SHARE:
            weights = off / off.sum()
            se = float(np.sqrt(weights**2 @ squares + squares[leader]))
            depends = bool(abs(weights @ means - means[leader]) > 2.0 * se)
        return float(shares @ (means - means[leader]) ** 2), depends


def _prefix_lengths(present: Bools) -> npt.NDArray[np.int64]:
    """How many of the first seeds each setting [K] has without a gap."""
    return np.asarray(np.cumprod(present.astype(int), axis=1).sum(axis=1))


class ValidationChooser:
    """Choose and drop settings on validation scores: what the plan of an experiment is given."""

    choose = staticmethod(choose)
    survivors = staticmethod(survivors)


CHOOSER = ValidationChooser()
