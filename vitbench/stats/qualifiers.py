"""What qualifies a verdict, in words: lines beside it that change nothing of it."""

from __future__ import annotations

import numpy as np

from vitbench.base.seeding import derive_seed
from vitbench.spec.arms import find_arms
from vitbench.stats.claim_data import Case
from vitbench.stats.decision import Settlement
from vitbench.stats.evidence import evidence_notes
from vitbench.stats.scores import trials_at
from vitbench.stats.sensitivity import bootstrap_t, sign_flip_p
from vitbench.stats.verdict_types import Facts, State
from vitbench.stats.wording import count


def notes_on(case: Case, settled: Settlement, state: State, facts: Facts) -> tuple[str, ...]:
    """The design, looks, tuning, diverged trials, the sensitivity lines of a single contrast, and poor evidence."""
    notes = list(case.design.notes)
    looks = case.design.plan.looks
    if state in ("supported", "contradicted") and len(looks) > 1 and settled.settled_at < len(looks) - 1:
        notes.append(f"settled at n = {looks[int(settled.settled_at)]}; an effect at an early stop is too large")
    notes += _tuning_notes(case)
    if case.sample.diverged.any():
        notes.append(f"diverged trials ({case.sample.diverged.sum()}) count from chance to the arm's best")
    if len(case.asked.parts) == 1 and not case.sample.diverged.any():
        notes += _sensitivity(case)
    return (*notes, *_evidence(case, facts))


def _tuning_notes(case: Case) -> list[str]:
    """Choices at the edge of their grid, and tuning on fewer seeds than the margin asks for."""
    arms = list(dict.fromkeys(cell.arm for cell in case.variances if cell.arm in case.table.tuning))
    searches = {arm: case.table.tuning[arm] for arm in arms}
    edge = [arm for arm, search in searches.items() if search.choice and search.choice.at_edge]
    notes = [f"best at the edge of its grid: {', '.join(edge)}"] if edge else []
    margins = [region.high for region in case.regions if region.level == 0.90]
    advised = 5 if margins and min(margins) <= 1.0 else 3
    used = min((len(search.seeds) for search in searches.values()), default=advised)
    return notes + ([f"tuned on {count(used, 'seed')}; {advised} are advised"] if used < advised else [])


def _sensitivity(case: Case) -> list[str]:
    """Sign-flip and bootstrap-t lines for the contrast of a single part."""
    values, region = case.data()[0][:, 0], case.regions[0]
    notes = []
    cut = region.low if np.isfinite(region.low) else region.high
    if region.level == 0.95 and (p := sign_flip_p(values, cut)) is not None:
        notes.append(f"sign-flip p {'< 0.001' if p < 0.001 else f'= {p:.3f}'} against {cut:g}")
    limits = bootstrap_t(values, region.level, np.random.default_rng(derive_seed(0, "stats/bootstrap")))
    if limits:
        notes.append(f"bootstrap-t {100 * region.level:.0f}% [{limits[0]:+.2f}, {limits[1]:+.2f}]")
    return notes


def _evidence(case: Case, facts: Facts) -> tuple[str, ...]:
    """Notes on the experiment's baseline arm at its own setting."""
    baseline = find_arms(case.experiment, {})[0].name
    rows = trials_at(case.table, baseline).values()
    return evidence_notes(case.experiment, rows, facts.baseline_floor_percent)
