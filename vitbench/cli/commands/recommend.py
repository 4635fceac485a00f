"""`vitbench recommend`: which model to use on these images in these hours."""

from __future__ import annotations

import functools
import time
from dataclasses import asdict, dataclass, replace

from rich.console import Console
from rich.table import Table

from vitbench.base.errors import InputError, printable
from vitbench.base.signals import Stopped, stoppable
from vitbench.cli.commands.device import choose_device, choose_num_jobs
from vitbench.cli.commands.prepare import facts_source
from vitbench.cli.commands.recommend_answer import EXPERIMENT, write_answer
from vitbench.cli.commands.recommend_options import RecommendOptions
from vitbench.cli.commands.recommend_trainings import Trainings, tested_arms
from vitbench.data import Facts, partition_sizes
from vitbench.data.catalog import cache_folder
from vitbench.plan.resolve import default_patch
from vitbench.recommend import cautions
from vitbench.recommend.budget import (
    END_SECONDS,
    START_SECONDS,
    Allocation,
    Speeds,
    allocate,
    final_seconds,
    plan_lines,
)
from vitbench.recommend.diary import Clock, Diary, Looks, alone
from vitbench.recommend.experiments import DEFAULT, RECOMMENDED, RESNET
from vitbench.recommend.outcome import Outcome
from vitbench.recommend.questions import FAMILY, QUESTIONS, RecipeQuestion, family_question
from vitbench.recommend.recipe import Frame, Recipe, default_vit, families, model_of
from vitbench.recommend.search import Ask, Reply, Search, Tried
from vitbench.recommend.words import hours_words
from vitbench.spec.trial import DataSpec, size_words
from vitbench.stats.intervals import counting_floor

LARGEST_SIDE = {"cpu": 64}
LARGE_SIDE = 128
"""Images are resized to at most this many pixels: 64 on a CPU, 128 on an accelerator."""
LEAST_FINAL, MOST_FINAL = 3, 10
FINAL_SHARE = 0.9
FIRST_RESERVES = 0.35
"""The first question leaves this share of the budget to the final comparison, if that needs so much."""
GAUGE_SHARE = 0.02
"""Share of the budget for timing one model."""
GUESSED_NOISE = 1.5
"""Spread of a score in points before the first trainings show it."""


@dataclass(frozen=True)
class Ready:
    """A recommendation before its first training: images, machine, plan."""

    allocation: Allocation
    speeds: Speeds
    vit: Recipe
    questions: list[RecipeQuestion]
    num_val: int
    num_train: int

    @property
    def reserved(self) -> float:
        """Seconds that the final comparison needs at least."""
        num_seeds = min(LEAST_FINAL, self.allocation.effort.final)
        return END_SECONDS + final_seconds(num_seeds, 3, self.allocation, self.speeds)


def recommend(options: RecommendOptions, dry_run: bool, console: Console) -> int:
    """Plan, ask, compare and answer; return the exit code: 0, or 3 where the budget ends before the comparison."""
    began = time.monotonic()
    facts = facts_source(options.where)(options.data)
    device = choose_device(options.device)
    frame = _frame(facts, options, device)
    num_train, num_val = _sizes(frame)
    settings = {"data": facts.fingerprint, "for": options.aim, "max-hours": options.max_hours}
    settings |= {"img-size": options.img_size, "test-once": options.test_once}
    looks = Looks(cache_folder(options.where), facts.fingerprint)
    if options.test_once:
        looks.refuse(options.root, options.data)
    diary = Diary(options.root, settings)
    for line in cautions.of_images(facts, num_val, frame.img_size):
        console.print(f"warning: {printable(line)}", markup=False, highlight=False, soft_wrap=True)
    if dry_run:
        _print_plan(_ready(frame, diary, options, device, (num_train, num_val), console), options, console)
        return 0
    with alone(options.root), stoppable(), Clock(diary, options.seconds, began) as clock:
        ready = _ready(frame, diary, options, device, (num_train, num_val), console)
        clock.note(machine=asdict(ready.speeds))
        _print_plan(ready, options, console)
        return _Work(options, ready, clock, looks, console).run()


def _frame(facts: Facts, options: RecommendOptions, device: str) -> Frame:
    """How the images enter every training. Raises InputError where nothing can be compared on them."""
    if facts.num_classes < 2:
        raise InputError(f"{options.data}: one class; there is nothing to tell apart")
    largest = LARGEST_SIDE.get(device, LARGE_SIDE)
    side = options.img_size or min(facts.img_size or largest, largest)
    if default_patch(side) is None:
        if options.img_size:
            raise InputError(f"--img-size {side}: no patch size divides it; take a multiple of 8")
        side = max(8, 8 * round(side / 8))
    share = 0.2 if facts.num_train <= 25_000 else max(0.05, round(5_000 / facts.num_train, 2))
    share = DataSpec().val_fraction if facts.val_counts else share
    return Frame(options.data, facts, side, share, 64 if facts.num_train >= 1_000 else 32)


def _sizes(frame: Frame) -> tuple[int, int]:
    """Training and validation images. Raises InputError without validation images."""
    train, val = partition_sizes(frame.facts.counts, DataSpec(val_fraction=frame.val_fraction))
    if val == 0:
        raise InputError(
            f"{frame.data}: no validation image can be held out (the smallest class has "
            f"{min(frame.facts.class_counts)} images); add images, or a folder val/"
        )
    return train, val


def _ready(
    frame: Frame, diary: Diary, options: RecommendOptions, device: str, sizes: tuple[int, int], console: Console
) -> Ready:
    """Measure the machine, or take the speeds that an earlier session measured, and make the plan."""
    size = "Mu" if device == "cpu" else "Ti"
    vit = default_vit(frame, size)
    if (kept := diary.content.get("machine")) is not None:
        speeds = Speeds(**kept)
    else:
        console.print("Measuring this machine on these images ...", highlight=False)
        speeds = _measured(families(vit, frame, size), frame, device, options)
    questions = [family_question(size), *QUESTIONS]
    arms = {question.name: list(question.arms(vit, frame).values()) for question in questions}
    arms = {name: recipes for name, recipes in arms.items() if len(recipes) > 1}
    allocation = allocate(options.seconds, speeds, frame, vit, arms, sizes[0])
    return Ready(allocation, speeds, vit, questions, sizes[1], sizes[0])


def _measured(arms: dict[str, Recipe], frame: Frame, device: str, options: RecommendOptions) -> Speeds:
    from vitbench.bench.machine_gauge import peak_mib, seconds_per_flop

    models = {name: model_of(recipe, frame) for name, recipe in arms.items()}
    per_flop = seconds_per_flop(models, frame.batch_size, device, GAUGE_SHARE * options.seconds)
    return Speeds(per_flop, peak_mib(), choose_num_jobs(options.jobs, device, 1))


def _print_plan(ready: Ready, options: RecommendOptions, console: Console) -> None:
    """What the budget allows, before anything is spent."""
    allocation, speeds, frame = ready.allocation, ready.speeds, ready.allocation.frame
    console.print(
        f"{printable(frame.data)}: {ready.num_train:,} training and {ready.num_val:,} validation images of "
        f"{size_words(frame.img_size)} px, {frame.facts.num_test:,} test images, {frame.facts.num_classes} classes",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    flops = frame.flops
    console.print(
        f"One training: {allocation.num_steps:,} steps of the default ViT, {allocation.num_epochs:.1f} epochs, "
        f"{flops:.3g} FLOPs; " + ", ".join(f"{name} {flops * per:.1f} s" for name, per in speeds.per_flop.items()) +
        f"; {speeds.jobs} at a time; {speeds.memory_mib:,.0f} MiB",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    questions = [(q, list(q.arms(ready.vit, frame).values())) for q in ready.questions]
    first, *later = (item for item in questions if len(item[1]) > 1)
    later.sort(key=lambda item: -item[0].expected_gain() / len(item[1]))
    lines = plan_lines(options.seconds, allocation, speeds, [first, *later], GUESSED_NOISE)
    table = Table(box=None, pad_edge=False)
    for column in ("question", "arms", "trainings", "time", "expected gain", "chance to settle", "fits"):
        table.add_column(column, justify="left" if column == "question" else "right")
    for line in lines:
        table.add_row(
            line.question, str(line.num_arms), str(line.trainings), hours_words(line.hours), f"{line.gain:.1f} points",
            f"{100 * line.chance:.0f}%", "yes" if line.fits else "no",
        )  # fmt: skip
    console.print(table)
    final = ready.reserved / 3600
    console.print(f"Then the final comparison on the test images: at least {hours_words(final)}.", highlight=False)
    unfit = [line.question for line in lines if not line.fits]
    if unfit:
        whole = sum(line.hours for line in lines) + final
        console.print(
            f"{hours_words(options.max_hours)} do not suffice for: {', '.join(unfit)}. All questions need about "
            f"{hours_words(whole)}.",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    if allocation.cut_short or not lines[0].fits:
        least = lines[0].hours + final
        console.print(
            "This budget is too small for a sure answer: trainings are as short as they may be, and the first "
            f"question with its comparison on test images needs about {hours_words(least)}.",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


class _Work:
    """One session of a recommendation: it asks, compares, and writes the answer after every step."""

    def __init__(self, options: RecommendOptions, ready: Ready, clock: Clock, looks: Looks, console: Console) -> None:
        self.options, self.ready, self.clock, self.looks, self.console = options, ready, clock, looks, console
        journal = list(clock.diary.content["journal"])
        note = functools.partial(_note_journal, clock)
        self.search = Search(ready.allocation, ready.speeds, options.aim, list(ready.questions), journal, note)
        self.search.noise, self.search.floor = GUESSED_NOISE, counting_floor(ready.num_val, (1.0,))
        self.trainings = Trainings(options, ready.allocation.frame, clock, console)
        self.earlier = tuple(looks.earlier(options.root))

    def run(self) -> int:
        """Ask and compare; a stop leaves the answer so far."""
        try:
            self.search.run(self.ready.vit, self._ask, lambda: self.clock.left(self._reserved()) - START_SECONDS)
            self._compare()
        except Stopped:
            self._write()
            raise
        outcome = self._write(with_weights=True)
        for line in outcome.headline_lines():
            self.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
        for name in ("recommendation.md", "recommendation.html", EXPERIMENT)[: 3 if outcome.recipe else 2]:
            self.console.print(f"Wrote {self.options.root / name}", markup=False, highlight=False, soft_wrap=True)
        return 0 if outcome.tested else 3

    def _reserved(self) -> float:
        """Seconds kept for the final comparison, at the speeds as they are known now."""
        return replace(self.ready, speeds=self.search.speeds).reserved

    def _ask(self, asked: Ask) -> Reply:
        began = self.clock.used
        reserved = self._reserved()
        if asked.question.name == FAMILY:  # Without its answer there is nothing to compare.
            reserved = min(reserved, FIRST_RESERVES * self.options.seconds)
        reply = self.trainings.ask(asked, reserved)
        state = "" if reply.finished else ", not finished"
        self.console.print(
            f"{asked.name}: {reply.num_trainings} trainings, {self.clock.used - began:.0f} s{state}", highlight=False
        )
        self._write(question=asked)
        return reply

    def _compare(self) -> None:
        """Fix what is compared, note the look, and read the test images once."""
        kept = self.clock.diary.content.get("final")
        arms = self._final_arms()
        if len(arms) < 2:
            return
        if kept is None:
            per_seed = sum(self.search.speeds.seconds(recipe, self.trainings.frame) for recipe in arms.values())
            left = self.clock.left(END_SECONDS) * FINAL_SHARE - START_SECONDS
            num_seeds = min(MOST_FINAL, int(left * self.search.speeds.jobs / per_seed))
            if num_seeds < 2:
                return
            if self.options.test_once:
                self.looks.refuse(self.options.root, self.options.data)
            kept = {"seeds": num_seeds, "arms": {name: asdict(recipe) for name, recipe in arms.items()}}
            self.looks.add(self.options.root, self.options.command)
            self.clock.note(final=kept)
        self.trainings.final(arms, kept["seeds"], END_SECONDS / 2)

    def _final_arms(self) -> dict[str, Recipe]:
        """The recommended recipe and the two baselines, equal ones once."""
        leader, baselines = self.search.leader, self._baselines()
        if leader is None:
            return {}
        others = {name: recipe for name, recipe in baselines.items() if recipe.key != leader.recipe.key}
        return {RECOMMENDED: leader.recipe, **others}

    def _baselines(self) -> dict[str, Recipe]:
        first = next((answer for answer in self.search.answers if answer.question.name == FAMILY), None)
        if first is None:
            return {}
        names = {DEFAULT: "vit", RESNET: "resnet"}
        return {name: first.arms[arm].recipe for name, arm in names.items() if arm in first.arms}

    def _write(self, with_weights: bool = False, question: Ask | None = None) -> Outcome:
        """Write the answer as far as it is known."""
        leader = self.search.leader
        asked = {answer.question.name for answer in self.search.answers}
        arms = self._final_arms()
        looked = self.clock.diary.content.get("final") is not None
        tested = tested_arms(self.options.root, arms) if looked and len(arms) > 1 else {}
        outcome = Outcome(
            data=self.options.data,
            command=self.options.command,
            budget_seconds=self.options.seconds,
            used_seconds=self.clock.used,
            search=self.search,
            unasked=tuple(q for q in self.ready.questions if q.name not in asked),
            cautions=self._cautions(leader),
            tested=tested,
            num_test_images=self.trainings.frame.facts.num_test,
            looked=looked,
            looks=self.earlier,
            recipe=leader.recipe if leader else None,
        )
        return write_answer(outcome, self.options, with_weights)

    def _cautions(self, leader: Tried | None) -> tuple[str, ...]:
        facts, num_val = self.trainings.frame.facts, self.ready.num_val
        lines = list(cautions.of_images(facts, num_val, self.trainings.frame.img_size))
        if leader is not None:
            best = sum(leader.scores.values()) / len(leader.scores)
            majority = 100.0 * max(facts.class_counts) / sum(facts.class_counts)
            lines += cautions.of_scores(best, self._floor(), majority)
        return tuple(lines)

    @functools.cache  # noqa: B019
    def _floor(self) -> float:
        """Validation accuracy of logistic regression on the pixels."""
        from vitbench.data.pixel_baseline import pixel_validation_percent

        frame = self.trainings.frame
        return pixel_validation_percent(frame.facts, frame.data, self.options.where, frame.val_fraction)


def _note_journal(clock: Clock, journal: list[str]) -> None:
    clock.note(journal=journal)
