"""The types of a verdict: plain frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from vitbench.stats.curves import Located
from vitbench.stats.forecast import Coming
from vitbench.stats.intervals import Interval

State = Literal["supported", "contradicted", "inconclusive", "untested"]


@dataclass(frozen=True)
class Context:
    """Facts about a run that its rows do not hold.

    `scale`: the scale in words; `baseline_floor_percent`: accuracy of a sane baseline; `correct`: answers by trial;
    `edits`: what was changed after the first trial, by claim (see `vitbench.spec.seal.edits`).
    """

    scale: str = ""
    baseline_floor_percent: float | None = None
    correct: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    edits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class PartVerdict:
    """One part: its effect, its interval, the open region (`above`, `below`) it must lie in, one-sided p either way."""

    label: str
    effect: float
    interval: Interval
    above: float | None
    below: float | None
    p_false: float
    p_true: float


@dataclass(frozen=True)
class ArmRace:
    """How an arm of the claim was tuned by a race: settings still racing and dropped settings, in words.

    `dropped`: (setting, seeds that it has, points behind the leader or None if its trials were lost).
    """

    arm: str
    leader: str
    racing: tuple[str, ...]
    dropped: tuple[tuple[str, int, float | None], ...]


@dataclass(frozen=True)
class Verdict:
    """A claim's state with everything a reader needs to check it.

    `effect`, `interval`, `above`, `below` are those of the part `label` that decides the verdict; the rest is in
    `parts`. `reason` says why a claim is untested or was not decided; `notes` qualify a verdict. `p` and `q` serve the
    scoreboard alone. `mde` is the smallest effect (for an equivalence: margin) this design could have seen. `rule` says
    how arms were tuned and looks spent; of a race, `trainings` counts the claim's trials, `maximum` is the declared
    number of seeds, `choice_share` the share of the squared standard error that the choice of settings makes.
    """

    claim: str
    form: str
    state: State
    statement: str = ""
    unit: str = "points"
    label: str = ""
    effect: float | None = None
    interval: Interval | None = None
    above: float | None = None
    below: float | None = None
    n: int = 0
    paper_effect: float | None = None
    paper_source: str = ""
    reason: str = ""
    notes: tuple[str, ...] = ()
    scale: str = ""
    p: float | None = None
    q: float | None = None
    forecast: tuple[Coming, ...] = ()
    mde: float | None = None
    mde_range: tuple[float, float] | None = None
    provisional: tuple[str, ...] = ()
    tuning_variance: float = 0.0
    finished_interval: Interval | None = None
    images_interval: Interval | None = None
    located: Located | None = None
    parts: tuple[PartVerdict, ...] = ()
    expect: str | None = None
    rule: str = ""
    trainings: int | None = None
    maximum: int | None = None
    choice_share: float | None = None
    arm_races: tuple[ArmRace, ...] = ()

    @property
    def exploratory(self) -> tuple[str, ...]:
        """Why the verdict is exploratory: edits after the first trial, seeds picked by hand; empty if it is not."""
        return tuple(note for note in self.notes if note.startswith("exploratory"))

    @property
    def state_words(self) -> str:
        """The state as every table shows it: `supported`, `supported, exploratory`."""
        return f"{self.state}, exploratory" if self.exploratory and self.state != "untested" else self.state
