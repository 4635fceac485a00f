"""Each verdict in words, numbers and one small drawing, for the pages and the scoreboard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitbench.report.formats import Table
from vitbench.report.row_values import quantity
from vitbench.spec.experiment import Experiment
from vitbench.spec.seal import edits, read_seal
from vitbench.stats.table import Row
from vitbench.stats.verdict_types import Context, Verdict
from vitbench.store.answers import read_answers

HEADER = ("Claim", "Says", "Verdict", "Effect", "Paper", "n", "Claimed")
DIGITS_FLOOR_PERCENT = 90.0
"""Test top-1 that a sane model reaches on scikit-learn's digits. Source: our sketches, 91 to 96%."""
GLYPH_WIDTH = 200.0


def data_names(rows: Sequence[Row]) -> list[str]:
    """The data sets of the rows, in order of appearance."""
    return list(
        dict.fromkeys(str(row.get("data") or row["spec"].get("data", {}).get("name", "digits")) for row in rows)
    )


def scale_of(rows: Sequence[Row]) -> str:
    """`35.2k parameters on digits`: what every verdict must be read with."""
    sizes = sorted({row["result"]["num_params"] for row in rows if row["result"].get("num_params")})
    span = quantity(sizes[0]) if sizes else "unknown"
    if sizes and quantity(sizes[-1]) != span:
        span += f" to {quantity(sizes[-1])}"
    return f"{span} parameters on {', '.join(data_names(rows))}" if rows else ""


def facts_of(rows: Sequence[Row], folder: Path, experiment: Experiment | None = None) -> Context:
    """Facts that the verdicts need beside the rows.

    They are the scale, the lowest sane baseline, the correct answers per test image, and what the experiment of the
    folder changed after its first trial.
    """
    floor = (
        DIGITS_FLOOR_PERCENT if data_names(rows) == ["digits"] else next((r.get("floor_percent") for r in rows), None)
    )
    answers = read_answers(folder)
    changed = edits(read_seal(folder), experiment) if experiment else {}
    return Context(scale_of(rows), floor, answers.correct if answers else {}, changed)


def effect_text(verdict: Verdict, *, with_level: bool = True) -> str:
    """`+0.94 (90%: +0.33 to +1.56)`, without the level `+0.94 [+0.33, +1.56]`; empty if nothing was measured."""
    if verdict.effect is None:
        return ""
    effect, interval = f"{verdict.effect:+.2f}", verdict.interval
    if interval is None or interval.ends is None:
        return effect
    low, high = interval.ends
    if not with_level:
        return f"{effect} [{low:+.2f}, {high:+.2f}]"
    return f"{effect} ({100 * interval.level:.0f}%: {low:+.2f} to {high:+.2f})"


def region_text(verdict: Verdict) -> str:
    """Where the effect must lie for the claim to hold: `within ±2`, `above 0`, `below -1`."""
    low, high = verdict.above, verdict.below
    if low is not None and high is not None:
        return f"within ±{high:g}" if low == -high else f"between {low:g} and {high:g}"
    return f"above {low:g}" if low is not None else f"below {high:g}" if high is not None else ""


def outlook_text(verdict: Verdict) -> str:
    """The smallest effect that this design can settle, and the chance of a verdict by each coming look."""
    parts = []
    if verdict.mde is not None:
        low, high = verdict.mde_range or (verdict.mde, verdict.mde)
        what = "margin" if verdict.form == "equivalence" else "effect"
        size = f"{verdict.mde:.2f} {verdict.unit} (80% range {low:.2f} to {high:.2f})"
        parts.append(f"The smallest {what} that this design would settle: {size}.")
    if verdict.forecast:
        chances = ", ".join(f"{100 * coming.chance:.0f}% by n = {coming.n}" for coming in verdict.forecast)
        parts.append(f"Chance of a verdict with more seeds: {chances}.")
    return " ".join(parts)


def images_text(verdict: Verdict) -> str:
    """The interval for other test images of the same kind; the verdict's interval is for these images only."""
    interval = verdict.images_interval
    if interval is None or interval.ends is None:
        return ""
    ends = "{:+.2f} to {:+.2f}".format(*interval.ends)
    return "" if ends in effect_text(verdict) else f"For other test images too: {ends} ({100 * interval.level:.0f}%)."


def located_text(verdict: Verdict) -> str:
    """Where two curves cross, or how much more compute one arm needs, with its interval."""
    place = verdict.located
    if place is None:
        return ""
    name = "curves cross at" if verdict.form == "crossover" else "compute ratio"
    value = quantity(place.value) if place.value is not None else "outside the tested range"
    low = quantity(place.low) if place.low is not None else f"under {quantity(place.smallest)}"
    high = quantity(place.high) if place.high is not None else f"over {quantity(place.largest)}"
    return f"{name} {value} ({100 * place.level:.0f}%: {low} to {high})"


@dataclass(frozen=True)
class Glyph:
    """A verdict as a drawing: x positions in 0..GLYPH_WIDTH of its region, interval, effect, zero and paper."""

    region: tuple[float, float]
    interval: tuple[float, float]
    effect: float
    zero: float
    paper: float | None
    words: str


def glyph(verdict: Verdict) -> Glyph | None:
    """The drawing of a verdict that has an interval."""
    ends = None if verdict.interval is None else verdict.interval.ends
    if verdict.effect is None or ends is None:
        return None
    paper = [] if verdict.paper_effect is None else [verdict.paper_effect]
    cuts = [cut for cut in (verdict.above, verdict.below) if cut is not None]
    marks = [*ends, 0.0, *paper, *cuts]
    pad = 0.08 * ((max(marks) - min(marks)) or 1.0)
    start, end = min(marks) - pad, max(marks) + pad

    low = start if verdict.above is None else verdict.above
    high = end if verdict.below is None else verdict.below

    def place(value: float) -> float:
        return round(GLYPH_WIDTH * (min(max(value, start), end) - start) / (end - start), 1)

    return Glyph(
        region=(place(low), place(high)),
        interval=(place(ends[0]), place(ends[1])),
        effect=place(verdict.effect),
        zero=place(0.0),
        paper=place(paper[0]) if paper else None,
        words=f"effect {effect_text(verdict)}, claimed {region_text(verdict)}",
    )


@dataclass(frozen=True)
class VerdictText:
    """A verdict with its words and its drawing."""

    verdict: Verdict
    effect: str
    region: str
    outlook: str
    images: str
    located: str
    glyph: Glyph | None


def verdict_text(verdict: Verdict) -> VerdictText:
    """The verdict with its texts and its drawing."""
    words = effect_text(verdict), region_text(verdict), outlook_text(verdict), images_text(verdict)
    return VerdictText(verdict, *words, located_text(verdict), glyph(verdict))


def verdict_table(verdicts: Sequence[Verdict], runs: Sequence[str] = ()) -> Table:
    """One row per verdict; with `runs`, the last column names the run of each."""
    rows = [
        (
            verdict.claim,
            verdict.statement or "-",
            verdict.state_words,
            effect_text(verdict) or "-",
            "-" if verdict.paper_effect is None else f"{verdict.paper_effect:+.2f}",
            str(verdict.n),
            region_text(verdict) or "-",
        )
        for verdict in verdicts
    ]
    notes = (
        "Effect: with its interval, in the claim's unit (usually points). Paper: the number of the claim's source.",
    )
    if not runs:
        return Table("Verdicts", HEADER, tuple(rows), notes=notes, optional=frozenset(("Says", "Claimed")))
    named = tuple((*row, run) for row, run in zip(rows, runs, strict=True))
    return Table("Scoreboard", (*HEADER, "Run"), named, notes=notes, optional=frozenset(("Says", "Claimed", "Run")))
