"""What the plan says of images without labels: their FLOPs, and why they are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_plans import experiment, facts_of

from vitbench.base.errors import InputError
from vitbench.cli.commands.listing import _arm_numbers
from vitbench.data import Facts
from vitbench.model.costs import forward_flops
from vitbench.plan.rounds import expand
from vitbench.plan.trials import Builder
from vitbench.stats.race import CHOOSER

STAGES = """
stages:
  - {name: teach, data: {train_fraction: 0.25, val_fraction: 0.125}, train: {steps: 60}}
  - name: learn
    uses: {teacher: teach}
    data: {val_fraction: 0.125, train_fraction: 1.0}
    model: {embed_dim: 24}
    train: {steps: 60}
arms:
  student: {learn.train.objective.name: {name: pseudo_label, labelled_fraction: 0.25}}
  equal: {learn.train.steps: null, learn.train.train_flops: total_of(student)}
"""
NUM_IMAGES, NUM_LABELLED = 448, 112


def builder(text: str = STAGES, test_images: int = 0) -> Builder:
    def facts(name: str) -> Facts:
        return replace(facts_of(name), num_test_in_train=test_images)

    return Builder(experiment(text), facts)


def refusal(text: str = STAGES, test_images: int = 0) -> str:
    """The one line by which the plan refuses an experiment."""
    try:
        made = builder(text, test_images)
        made.stages(made.arms["student"], {})
    except InputError as error:
        (line,) = str(error).splitlines()
        return line
    return "not refused"


def test_flops_hold_the_answers_and_a_total_holds_the_teachers_training() -> None:
    made = builder()
    teach, learn = made.trials(made.arms["student"], {}, 3, "reporting")
    teacher, student = (forward_flops(trial.spec.model, trial.spec.train.objective) for trial in (teach, learn))
    answers = (NUM_IMAGES - NUM_LABELLED) * teacher
    assert teach.train_flops == 60 * 64 * 3 * teacher
    assert learn.train_flops == 60 * 64 * 3 * student + answers
    (equal,) = made.trials(made.arms["equal"], {}, 3, "reporting")
    total = teach.train_flops + learn.train_flops
    assert total - 64 * 3 * student < equal.train_flops <= total
    numbers = _arm_numbers(made, made.arms["student"], expand(made, {}, CHOOSER))
    assert (numbers["train_flops"], numbers["train_flops_without_networks"]) == (total, learn.train_flops)
    assert (teach.seed, learn.parents) == (3, {"teacher": teach.trial_id})


def test_a_budget_pays_for_the_answers() -> None:
    free = builder(STAGES.replace("train: {steps: 60}\narms", "train: {train_flops: 6e9}\narms"))
    (_, learn) = free.trials(free.arms["student"], {}, 0, "reporting")
    student = forward_flops(learn.spec.model, learn.spec.train.objective)
    assert 6e9 - 64 * 3 * student < learn.train_flops <= 6e9


@pytest.mark.parametrize(
    ("written", "instead", "message"),
    [
        ("labelled_fraction: 0.25", "labelled_fraction: 1.0", "labelled_fraction"),
        ("labelled_fraction: 0.25", "labelled_fraction: 0.25, threshold: 1.0", "threshold"),
        ("labelled_fraction: 0.25", "labelled_fraction: 0.25, type: medium", "type"),
        (
            "labelled_fraction: 0.25",
            "labelled_fraction: 0.5",
            "the labels of 0.25 of the training images, this stage those of 0.5",
        ),
        ("train_fraction: 1.0", "train_fraction: 0.25", "labelled_fraction 0.25 leaves no image without a label"),
        (
            "val_fraction: 0.125, train_fraction: 1.0",
            "val_fraction: 0.25",
            "its data.val_fraction is 0.125",
        ),
        ("steps: 60}", "steps: 60, objective: {name: mae}}", "mae predicts no classes"),
        (
            "train_fraction: 0.25, val",
            "classes: [0, 1], train_fraction: 0.25, val",
            "other data.classes",
        ),
        ("uses: {teacher: teach}", "uses: {start: teach}", "needs another network (teacher) from an earlier stage"),
    ],
)
def test_what_is_refused(written: str, instead: str, message: str) -> None:
    assert written in STAGES
    assert message in refusal(STAGES.replace(written, instead, 1))


def test_test_images_among_the_training_images_are_refused() -> None:
    line = refusal(test_images=3)
    assert "3 test images of fake are also training images, so the images without labels would include them" in line
