"""Core time until one equality and one difference are settled: this build, another build, and a careful plain loop.

A product of two numbers. Measured: core seconds of starting and of one training, all contestants at once, by
trainings of CLS-01 on Fashion-MNIST. Simulated: how many trainings each stopping rule takes, in the worlds that
`simulated_worlds` calibrates on committed records; arms have their grid of rates. R runs, K settings, n seeds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from vitbench.base.seeding import derive_seed
from vitbench.bench.settling import CLS_01, interval, over_looks
from vitbench.bench.side_by_side import CHECKOUT, STEPS
from vitbench.bench.simulated_race import FIRST, ArmLook, apart, race
from vitbench.bench.simulated_worlds import FASHION, SHAPES, ArmScores, World, deficits, draw
from vitbench.bench.suite import ratios
from vitbench.bench.verdict_seconds import Seconds, plain_seconds, watched
from vitbench.stats.distributions import Floats, t_quantile
from vitbench.stats.looks import (
    DEFAULT_LOOKS,
    FIRST_EDITION_LOOKS,
    FIRST_EDITION_POWER,
    Schedule,
    fixed,
    schedule,
)

Say = Callable[[str], None]
THIS, BEFORE, PLAIN = "race", "before", "plain"
"""Whose trainings are timed; the first two are the designs of `side_by_side`."""
MOST, FEWEST = 20, 3
TUNING_SEEDS = (2, 5, 8, 12, 16, 20, 30, 40)
"""Numbers of tuning seeds that are tried where a rule must hold the error rates."""
DIFFERENCE, CUT = 2.82, 1.0
"""POS-01 in `settling_side_by_side`: the effect that both designs found, and what the claim asks for, in points."""
NUM_RUNS, CHUNK = 4_000, 1_000


@dataclass(frozen=True)
class ClaimToSettle:
    """A claim to settle: its world, and the true effect (first arm - second arm); `shift` is added to it."""

    claim: str
    world: World
    equality: bool
    effect: float


QUESTIONS = (ClaimToSettle("CLS-01", CLS_01, True, 0.0), ClaimToSettle("POS-01", FASHION, False, DIFFERENCE))


@dataclass(frozen=True)
class StoppingRule:
    """A contestant: whose trainings, when it tests (`every` seed or at four looks), and its tuning seeds.

    `tuning` None: as few of `TUNING_SEEDS` as hold the error rates. The race has no tuning seeds.
    """

    name: str
    who: str
    tuning: int | None
    every: bool = False


RULES = (
    StoppingRule("this build, race", THIS, 0),
    StoppingRule("old build, 2 tuning seeds, as shipped", BEFORE, 2),
    StoppingRule("old build, tuning seeds until errors hold", BEFORE, None),
    StoppingRule("plain timm loop, 5 tuning seeds, a test after every seed", PLAIN, 5, every=True),
    StoppingRule("plain timm loop, 5 tuning seeds, four looks, Bonferroni", PLAIN, 5),
    StoppingRule("plain timm loop, four looks, tuning seeds until errors hold", PLAIN, None),
)
Settled = npt.NDArray[np.int64]


def settled_at(
    pairs: Mapping[int, tuple[ArmLook, ArmLook]], plan: Schedule, question: ClaimToSettle, effect: float, who: str
) -> tuple[Settled, Settled]:
    """(seeds at which the claim is settled, 0 if never; 1 where it is then supported) [R], at a true effect.

    The product intersects the limits of its looks, a plain loop reads each alone. An equality is supported inside
    the margin and contradicted outside it, at 90%; a difference is supported above the cut and contradicted below it,
    at 95%.
    """
    at = np.zeros(len(next(iter(pairs.values()))[0].scores), dtype=np.int64)
    supported = np.zeros_like(at)
    level, margin = (0.90, question.world.margin) if question.equality else (0.95, CUT)
    limits = each_alone if who == PLAIN else over_looks
    for n, (low, high) in zip(plan.looks, limits(pairs, plan, level, effect), strict=True):
        if question.equality:
            for_it, against = (low > -margin) & (high < margin), (low > margin) | (high < -margin)
        else:
            for_it, against = low > margin, high < margin
        new = (at == 0) & (for_it | against)
        at, supported = np.where(new, n, at), np.where(new & for_it, 1, supported)
    return at, supported


def each_alone(
    pairs: Mapping[int, tuple[ArmLook, ArmLook]], plan: Schedule, level: float, shift: float
) -> Iterator[tuple[Floats, Floats]]:
    """The limits [R] of a - b + shift at each look in turn."""
    for index, n in enumerate(plan.looks):
        low, high = interval(*pairs[n], plan.factor(index, level, n - 1))
        yield low + shift, high + shift


def bonferroni(looks: Sequence[int]) -> Schedule:
    """t quantiles that share the error equally among the looks."""
    share = len(looks)
    c95 = tuple(float(t_quantile(1 - 0.025 / share, n - 1)) for n in looks)
    c90 = tuple(float(t_quantile(1 - 0.05 / share, n - 1)) for n in looks)
    return Schedule(tuple(looks), c95, c90, (1 / share,) * share)


def every_seed() -> Schedule:
    """A plain t test after every seed, as if each were the only one."""
    alone = [fixed(n) for n in range(FEWEST, MOST + 1)]
    return Schedule(
        tuple(range(FEWEST, MOST + 1)), tuple(s.c95[0] for s in alone), tuple(s.c90[0] for s in alone), (1.0,) * 18
    )


def tuned_once(arm: ArmScores, tuning: ArmScores, looks: Sequence[int]) -> dict[int, ArmLook]:
    """The careful user: the grid's best mean over tuning seeds is kept, and no doubt about it is counted."""
    return {n: replace(look, variance=np.zeros(len(look.scores))) for n, look in apart(arm, tuning, looks).items()}


def looks_of(
    rule: StoppingRule, tuning_seeds: int, world: World, shape: str, rng: np.random.Generator, num_runs: int
) -> tuple[dict[int, tuple[ArmLook, ArmLook]], Schedule]:
    """Both arms of a contestant at each of its looks, and its schedule."""
    split = rng.standard_normal((num_runs, MOST))
    arms = [draw(world, deficits(world, curve), split, rng) for curve in SHAPES[shape]]
    if rule.who == THIS:
        points = (FIRST, *DEFAULT_LOOKS)
        seen, plan = [race(arm, points, DEFAULT_LOOKS) for arm in arms], schedule(DEFAULT_LOOKS)
    else:
        early = rng.standard_normal((num_runs, tuning_seeds))
        tuning = [draw(world, deficits(world, curve), early, rng) for curve in SHAPES[shape]]
        if rule.who == BEFORE:
            plan, choose = schedule(FIRST_EDITION_LOOKS, power=FIRST_EDITION_POWER), apart
        else:
            plan, choose = every_seed() if rule.every else bonferroni(DEFAULT_LOOKS), tuned_once
        seen = [choose(arm, its, plan.looks) for arm, its in zip(arms, tuning, strict=True)]
    return {n: (seen[0][n], seen[1][n]) for n in plan.looks}, plan


def simulated(
    rule: StoppingRule, tuning_seeds: int, question: ClaimToSettle, shape: str, num_runs: int
) -> dict[str, float]:
    """Mean trainings until settled or 20 seeds, mean seeds, and shares: settled, supported, wrong.

    Wrong: supported where an equality has a true effect of its margin (the worse of both signs) and a difference of
    its cut.
    """
    found = []
    for start in range(0, num_runs, CHUNK):
        size = min(CHUNK, num_runs - start)
        label = f"verdict/{rule.name}/{tuning_seeds}/{question.claim}/{shape}"
        rng = np.random.default_rng(derive_seed(start, label))
        pairs, plan = looks_of(rule, tuning_seeds, question.world, shape, rng, size)
        at, supported = settled_at(pairs, plan, question, question.effect, rule.who)
        stop = np.where(at == 0, MOST, at)
        trainings = sum(np.where(stop == n, a.trainings + b.trainings, 0) for n, (a, b) in pairs.items())
        edges = (question.world.margin, -question.world.margin) if question.equality else (CUT,)
        wrong = [settled_at(pairs, plan, question, edge, rule.who)[1].mean() for edge in edges]
        found.append((size, np.mean(trainings), stop.mean(), (at > 0).mean(), supported.mean(), *wrong))
    rows = np.array(found)
    means = [float(mean) for mean in (rows[:, :1] * rows[:, 1:]).sum(axis=0) / rows[:, 0].sum()]
    return {**dict(zip(("trainings", "seeds", "settled", "supported"), means, strict=False)), "wrong": max(means[4:])}


def judged(rule: StoppingRule, question: ClaimToSettle, num_runs: int) -> dict[str, float]:
    """The rule in the typical shape; the worst `wrong` over all shapes, whether it holds, and the tuning seeds.

    It holds within two standard errors of the simulation: 5% for an equality, 2.5% for a difference.
    """
    limit = 0.05 if question.equality else 0.025
    limit += 2 * (limit * (1 - limit) / num_runs) ** 0.5
    for tuning_seeds in TUNING_SEEDS if rule.tuning is None else (rule.tuning,):
        cells = {shape: simulated(rule, tuning_seeds, question, shape, num_runs) for shape in SHAPES}
        worst = max(cell["wrong"] for cell in cells.values())
        if worst <= limit:
            break
    return {**cells["typical"], "wrong": worst, "holds": worst <= limit, "tuning_seeds": tuning_seeds}


def measure(old: Path | None, images: Path, num_trials: int, num_runs: int, say: Say) -> dict[str, Any]:
    """Seconds of all contestants, which train at the same time in processes of their own; trainings; costs.

    Raises VitbenchError if a command fails, e.g. without Fashion-MNIST.
    """
    load = os.getloadavg()[0]
    with TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        codes = {THIS: CHECKOUT, **({BEFORE: old} if old else {})}
        tasks = {who: pool.submit(watched, who, code, Path(folder), num_trials) for who, code in codes.items()}
        tasks[PLAIN] = pool.submit(plain_seconds, images, num_trials)
        seconds = {who: task.result() for who, task in tasks.items()}
    for who, took in seconds.items():
        say(f"{who}: start {took['start']:.1f} s, trainings " + ", ".join(f"{one:.2f}" for one in took["training"]))
    return {"trials": num_trials, "runs": num_runs, "steps": STEPS, "load": load, "seconds": seconds,
            "claims": claims(seconds, num_runs)}  # fmt: skip


def claims(seconds: Mapping[str, Seconds], num_runs: int) -> dict[str, Any]:
    """What each rule needs for each claim, and its core seconds by each measured training."""
    found = {}
    for question in QUESTIONS:
        counts = {rule.name: judged(rule, question, num_runs) for rule in RULES if rule.who in seconds}
        num_settings = question.world.num_settings
        costs = {
            rule.name: costs_of(rule, num_settings, counts[rule.name], seconds[rule.who])
            for rule in RULES
            if rule.who in seconds
        }
        found[question.claim] = {"simulated": counts, "core_seconds": costs}
    return found


def costs_of(rule: StoppingRule, num_settings: int, counts: Mapping[str, float], seconds: Seconds) -> list[float]:
    """Core seconds of one command with the trainings of two arms, by each measured training."""
    tuning = 2 * num_settings * counts["tuning_seeds"]
    return [
        seconds["start"] + tuning * early + (counts["trainings"] - tuning) * late
        for early, late in zip(seconds["tuning"], seconds["training"], strict=True)
    ]


def table(measured: Mapping[str, Any]) -> str:
    """The page: measured seconds, simulated trainings, and their products as ratios."""
    lines = [
        "# Core time of a verdict\n",
        "**Products of a measured and a simulated number.** Measured: Fashion-MNIST, `Mu/7`, trainings of CLS-01 with",
        f"{measured['steps']} steps of 64 images, one process, one thread, n = {measured['trials'] - 1}; all "
        "contestants at the same time; user and system",
        f"seconds of whole processes; load average {measured['load']:.1f} at the start. Intervals are those of the "
        "measured seconds. Simulated:",
        f"trainings until the rule settles the claim, at most {MOST} seeds, {measured['runs']:,} runs per cell, "
        "typical curves of the rates,",
        "the two arms of the claim alone. *Wrong*: the worst share, over six shapes of these curves, called supported "
        "where the truth is",
        "the margin or cut; a rule must keep it to 5% (equality) or 2.5% (difference), within two standard errors.",
        f"CLS-01: truly equal, margin 1 point, 4 rates. POS-01: true effect {DIFFERENCE} points, cut {CUT:.0f} point, "
        "3 rates. The real",
        "side by side of two builds is in [settling_side_by_side.md](settling_side_by_side.md). "
        "`vitbench bench verdict --old DIR`\nwrites this page.\n",
        "| whose trainings | start, s | tuning training, s | training, s |",
        "|---|---|---|---|",
    ]
    names = {THIS: "this build", BEFORE: "old build", PLAIN: "plain timm loop, images in memory"}
    for who, took in measured["seconds"].items():
        cells = " | ".join(f"{median(took[key]):.2f}" for key in ("tuning", "training"))
        lines.append(f"| {names[who]} | {took['start']:.2f} | {cells} |")
    for claim, found in measured["claims"].items():
        lines += [
            f"\n## {claim}\n",
            "| rule | tuning seeds | trainings | seeds | settled | wrong | core s, median | times this build [95%] |",
            "|---|---|---|---|---|---|---|---|",
        ]
        times = ratios(found["core_seconds"], RULES[0].name)
        for name, counts in found["simulated"].items():
            ratio = times.get(name)
            words = f"{ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]" if ratio else "1"
            wrong = f"{100 * counts['wrong']:.1f}%" + ("" if counts["holds"] else ", too often")
            lines.append(
                f"| {name} | {counts['tuning_seeds'] or '-'} | {counts['trainings']:.1f} | {counts['seeds']:.1f} "
                f"| {100 * counts['settled']:.1f}% | {wrong} | {median(found['core_seconds'][name]):.0f} | {words} |"
            )
    return "\n".join(lines) + "\n"
