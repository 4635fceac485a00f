"""A verdict in one line of plain words."""

from __future__ import annotations

from vitbench.stats.intervals import Interval
from vitbench.stats.verdict_types import ArmRace, Verdict

QUALIFIERS = ("under-trained", "exploratory", "extended", "settled", "on these test images", "at odds")
"""Beginnings of the notes that change how the state is read; the other notes stand beside the line."""


def one_line(verdict: Verdict) -> str:
    """The verdict as the terminal prints it: state, effect, interval with its level, n, cut, the paper's number.

    Includes only the notes that qualify the state.
    """
    head = f"{verdict.claim} {verdict.state_words}"
    if verdict.provisional and verdict.n:
        head += f" (provisional: {count(len(verdict.provisional), 'trial')} missing or failed)"
    pieces = [verdict.reason, _effect(verdict), _races(verdict), _seen(verdict), _odds(verdict), _located(verdict)]
    if verdict.finished_interval:
        pieces.append(f"given that training finishes {_range(verdict.finished_interval)}")
    scale = f"at {verdict.scale}" if verdict.scale else ""
    pieces += [_paper(verdict), scale, *qualifying(verdict)]
    return f"{head}: {'; '.join(piece for piece in pieces if piece)}"


def qualifying(verdict: Verdict) -> list[str]:
    """The notes that a reader needs to read the state correctly."""
    return [note for note in verdict.notes if note.startswith(QUALIFIERS)]


def count(number: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _effect(verdict: Verdict) -> str:
    """`avg - token +0.31 points, 90% interval [-0.90, +1.52], claim within +-2, n = 5`."""
    if verdict.effect is None:
        return ""
    which = f"{'worst' if verdict.state == 'contradicted' else 'weakest'} of {len(verdict.parts)} parts, "
    words = [f"{which if len(verdict.parts) > 1 else ''}{verdict.label} {verdict.effect:+.2f} {verdict.unit}"]
    if verdict.interval and not verdict.interval.refused:
        words.append(_range(verdict.interval))
    trainings = [count(verdict.trainings, "training")] if verdict.trainings else []
    return ", ".join([*words, f"claim {_region(verdict)}", f"n = {verdict.n}", *trainings])


def _races(verdict: Verdict) -> str:
    """`avg 0.002, 0.004 still racing (0.016 dropped after 3 seeds, -4.0); the choice is 31% of the error`.

    For more than three arms, only the number of settings.
    """
    races = verdict.arm_races
    if not races:
        return ""
    if len(races) > 3:
        racing, out = sum(len(race.racing) for race in races), sum(len(race.dropped) for race in races)
        words = [f"{count(racing, 'setting')} of {len(races)} arms still racing, {out} dropped"]
    else:
        words = [_race(race) for race in races]
    if verdict.choice_share is not None:
        words.append(f"the choice is {100 * verdict.choice_share:.0f}% of the error")
    return "; ".join(words)


def _race(race: ArmRace) -> str:
    """One arm's race."""
    out = [
        f"{setting} dropped after {count(seeds, 'seed')}" + (f", {-gap:+.1f}" if gap is not None else "")
        for setting, seeds, gap in race.dropped
    ]
    return f"{race.arm} {', '.join(race.racing)} still racing" + (f" ({'; '.join(out)})" if out else "")


def _range(interval: Interval) -> str:
    if interval.ends is None:
        return f"no interval ({interval.reason})"
    low, high = interval.ends
    return f"{100 * interval.level:.0f}% interval [{low:+.2f}, {high:+.2f}]"


def _region(verdict: Verdict) -> str:
    """The region in words."""
    if verdict.above is not None and verdict.below is not None:
        return f"within ±{verdict.below:g}"
    return f"above {verdict.above:g}" if verdict.above is not None else f"below {verdict.below:g}"


def _seen(verdict: Verdict) -> str:
    """The smallest effect that the design could have seen."""
    if verdict.mde is None or verdict.mde_range is None:
        return ""
    what = "margin" if verdict.above is not None and verdict.below is not None else "effect"
    low, high = verdict.mde_range
    return f"smallest {what} this design sees {verdict.mde:.2g} ({low:.2g} to {high:.2g})"


def _odds(verdict: Verdict) -> str:
    """The first look with even odds of a verdict; for a race, also the trainings until then."""
    coming = verdict.forecast
    if not coming:
        return ""
    even = next((look for look in coming if look.chance >= 0.5), None)
    look = even or coming[-1]
    words = f"{'even' if even else 'under even'} odds of a verdict by n = {look.n}"
    if look.trainings is None:
        return words
    what = "at the racing settings" if verdict.choice_share is not None and verdict.choice_share > 0.5 else "to come"
    return f"{words} ({100 * look.chance:.0f}%, at most {count(look.trainings, 'training')} {what})"


def _located(verdict: Verdict) -> str:
    """Where the curves cross, or the ratio of compute."""
    place = verdict.located
    if place is None:
        return ""
    name = "crossing at" if verdict.form == "crossover" else "compute ratio"
    value = f"{place.value:.3g}" if place.value is not None else f"outside {place.smallest:.3g} to {place.largest:.3g}"
    low = f"{place.low:.3g}" if place.low is not None else f"under {place.smallest:.3g}"
    high = f"{place.high:.3g}" if place.high is not None else f"over {place.largest:.3g}"
    return f"{name} {value}, {100 * place.level:.0f}% interval [{low}, {high}]"


def _paper(verdict: Verdict) -> str:
    """The paper's number beside ours."""
    if verdict.paper_effect is None:
        return f"paper: no number ({verdict.paper_source})" if verdict.paper_source else ""
    source = f" ({verdict.paper_source})" if verdict.paper_source else ""
    return f"paper {verdict.paper_effect:+g}{source}"
