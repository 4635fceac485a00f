"""The search on scores of our own: what it finds, what it skips, how it resumes. No training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from vitbench.data import Facts
from vitbench.recommend.budget import Allocation, Effort, Speeds, allocate, cost_seconds, plan_lines
from vitbench.recommend.questions import QUESTIONS, family_question
from vitbench.recommend.recipe import Frame, Recipe, default_vit, families, forward_flops
from vitbench.recommend.search import Aim, Ask, Reply, Search, Tried

SPEEDS = Speeds({"vit": 1e-10, "resnet": 1e-10, "hybrid": 1e-10}, 0.0, 2)
Truth = Callable[[Recipe], float]


def frame_of(side: int = 8, images: int = 1_440) -> Frame:
    names = tuple(map(str, range(10)))
    facts = Facts("mine", side, 1, 10, names, (images // 10,) * 10, images, 300, True, "mine", "", True)
    return Frame("mine", facts, side, 0.2, 64)


def plan(minutes: float, frame: Frame | None = None) -> tuple[Allocation, Recipe]:
    frame = frame or frame_of()
    vit = default_vit(frame, "Mu")
    arms = {q.name: list(q.arms(vit, frame).values()) for q in (family_question("Mu"), *QUESTIONS)}
    arms = {name: recipes for name, recipes in arms.items() if len(recipes) > 1}
    return allocate(60.0 * minutes, SPEEDS, frame, vit, arms, 1_150), vit


def answer_by(truth: Truth, asked: Ask) -> Reply:
    """The true score of every arm, nearly the same at every seed."""
    arms = {
        name: Tried(
            recipe,
            {seed: truth(recipe) + 0.01 * ((seed + len(name)) % 3) for seed in range(asked.seeds[1])},
            speed=1e9 / forward_flops(recipe, frame_of()),
            params=forward_flops(recipe, frame_of()),
            seconds=1.0,
        )
        for name, recipe in asked.arms.items()
    }
    return Reply(arms, True, len(arms) * asked.seeds[1])


def search_with(truth: Truth, minutes: float = 60.0, aim: Aim = "accuracy", journal: list[str] | None = None) -> Search:
    allocation, vit = plan(minutes)
    search = Search(allocation, SPEEDS, aim, [family_question("Mu"), *QUESTIONS], journal or [], lambda _: None)
    search.run(vit, lambda asked: answer_by(truth, asked), lambda: 1e6)
    return search


def pooled(recipe: Recipe) -> float:
    """A world in which a ViT with pooling, coarse patches and no augmentation is the best by far."""
    score = {"vit": 80.0, "resnet": 75.0, "hybrid": 70.0}[recipe.family]
    score += 5.0 * (recipe.get("model.global_pool") == "avg") + 4.0 * (recipe.get("train.augment") == "none")
    return score + 3.0 * str(recipe.get("model.name")).endswith("/4") - 2.0 * (recipe.pretrain > 0)


def test_it_finds_what_is_best_and_builds_on_earlier_answers() -> None:
    search = search_with(pooled)
    leader = search.leader
    assert leader is not None
    assert pooled(leader.recipe) == 92.0
    assert {answer.question.name for answer in search.answers} >= {"family", "patch", "augment", "readout", "mixer"}
    mixer = next(answer for answer in search.answers if answer.question.name == "mixer")
    assert mixer.before.get("model.global_pool") == "avg", "other mixers need a pooled readout: asked after it"


def test_a_family_that_is_far_behind_is_asked_last() -> None:
    def resnets(recipe: Recipe) -> float:
        return 95.0 if recipe.family == "resnet" else 60.0

    names = [answer.question.name for answer in search_with(resnets).answers]
    assert names[0] == "family"
    assert set(names[1:3]) == {"augment", "width"}, "what varies the leader comes before what varies the loser"


def test_speed_takes_the_fastest_within_the_margin() -> None:
    def flat(recipe: Recipe) -> float:
        return 80.0 + 0.3 * (recipe.family == "vit")

    fast, accurate = search_with(flat, aim="speed").leader, search_with(flat).leader
    assert fast is not None
    assert accurate is not None
    assert fast.speed >= accurate.speed


def test_a_journal_is_repeated_before_the_clock_is_read() -> None:
    done = search_with(pooled)
    journal = list(done.journal)
    allocation, vit = plan(60.0)
    again = Search(allocation, SPEEDS, "accuracy", [family_question("Mu"), *QUESTIONS], list(journal), lambda _: None)
    again.run(vit, lambda asked: answer_by(pooled, asked), lambda: -1.0)
    assert again.journal == journal
    assert again.leader == done.leader


def test_no_question_is_asked_that_does_not_fit() -> None:
    allocation, vit = plan(60.0)
    search = Search(allocation, SPEEDS, "accuracy", [family_question("Mu"), *QUESTIONS], [], lambda _: None)
    search.run(vit, lambda asked: answer_by(pooled, asked), lambda: 0.0)
    assert [answer.question.name for answer in search.answers] == ["family"]


def test_an_unfinished_question_changes_nothing() -> None:
    allocation, vit = plan(60.0)
    search = Search(allocation, SPEEDS, "accuracy", [family_question("Mu"), *QUESTIONS], [], lambda _: None)

    def cut_short(asked: Ask) -> Reply:
        reply = answer_by(pooled, asked)
        return reply if asked.question.name == "family" else replace(reply, finished=False)

    search.run(vit, cut_short, lambda: 1e6)
    assert [answer.finished for answer in search.answers] == [True, False]
    assert search.leader is not None
    assert search.leader.recipe.family == "vit"
    assert search.answers[1].chosen is None


def test_families_cost_the_same() -> None:
    for side in (8, 28, 32, 64):
        frame = frame_of(side)
        vit = default_vit(frame, "Mu")
        costs = {name: forward_flops(recipe, frame) for name, recipe in families(vit, frame, "Mu").items()}
        assert set(costs) == {"vit", "resnet", "hybrid"}
        assert max(costs.values()) < 1.25 * min(costs.values()), (side, costs)


def test_more_hours_give_longer_trainings_or_more_seeds_and_fit() -> None:
    plans = [plan(minutes)[0] for minutes in (2.0, 10.0, 60.0, 600.0)]
    assert [a.num_steps for a in plans] == sorted(a.num_steps for a in plans) or plans[-1].effort.rates == 3
    assert plans[0].cut_short or plans[0].effort == Effort(1, 2, 2, 2, 3)
    vit = plan(60.0)[1]
    questions = [(q, list(q.arms(vit, plans[2].frame).values())) for q in (family_question("Mu"), *QUESTIONS)]
    lines = plan_lines(3600.0, plans[2], SPEEDS, [item for item in questions if len(item[1]) > 1], 1.5)
    assert all(line.fits for line in lines)
    assert sum(line.hours for line in lines) <= 1.0
    assert all(0.0 <= line.chance <= 1.0 for line in lines)


def test_a_question_costs_its_trainings() -> None:
    allocation, vit = plan(60.0)
    effort = Effort(2, 2, 3, 3, 3)
    seconds = cost_seconds([vit, vit], effort, 1, SPEEDS, allocation.frame)
    assert seconds == pytest.approx(6 * SPEEDS.seconds(vit, allocation.frame) / 2 + 4.0)
