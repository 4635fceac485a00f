"""Questions as experiment files: they load, keep test images unread, share trials, and hide no difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vitbench.data import DataOptions, Facts, facts
from vitbench.plan.arm_diff import check_arms
from vitbench.plan.trials import Builder, settings
from vitbench.recommend.experiments import DEFAULT, RECOMMENDED, final_file, question_file, recipe_file
from vitbench.recommend.questions import QUESTIONS, family_question
from vitbench.recommend.recipe import Frame, Recipe, default_vit
from vitbench.spec import load
from vitbench.spec.experiment import Experiment
from vitbench.spec.yaml import dump


@pytest.fixture(scope="module")
def frame() -> Frame:
    digits = facts("digits", DataOptions())
    return Frame("digits", digits, 8, 0.2, 64, 5e10)


@pytest.fixture(scope="module")
def vit(frame: Frame) -> Recipe:
    return default_vit(frame, "Mu")


def loaded(content: Mapping[str, Any]) -> Experiment:
    experiment = load.loads(dump(content), "a.yaml")
    assert isinstance(experiment, Experiment)
    return experiment


def builder_of(experiment: Experiment, frame: Frame) -> Builder:
    def facts_of(_: str) -> Facts:
        return frame.facts

    return Builder(experiment, facts_of)


@pytest.mark.parametrize("question", [family_question("Mu"), *QUESTIONS], ids=lambda q: q.name)
def test_every_question_is_an_experiment(question: Any, frame: Frame, vit: Recipe) -> None:
    recipe = vit.changed({"model.global_pool": "avg"}) if question.name == "mixer" else vit
    arms = question.arms(recipe, frame)
    assert len(arms) > 1
    for rates in ((4e-3, 8e-3), (8e-3,)):
        experiment = loaded(question_file("x", question.words, arms, rates, (2, 3), frame))
        builder = builder_of(experiment, frame)
        check_arms(experiment, builder)
        for arm in builder.arms.values():
            for setting in settings(experiment):
                last = builder.stages(arm, setting)[-1].spec
                assert not last.evaluate.test
                assert last.train.steps


def test_pre_training_costs_what_scratch_costs_and_scratch_is_the_recipe_itself(frame: Frame, vit: Recipe) -> None:
    arms = {"scratch": vit, "pretrained": replace(vit, pretrain=0.5)}
    staged = builder_of(loaded(question_file("p", "", arms, (8e-3,), (2, 2), frame)), frame)
    plain = builder_of(
        loaded(question_file("q", "", {"a": vit, "b": vit.changed({"train.augment": "none"})}, (8e-3,), (2, 2), frame)),
        frame,
    )
    (scratch,) = staged.trials(staged.arms["scratch"], {}, 0, "reporting")
    (alone,) = plain.trials(plain.arms["a"], {}, 0, "reporting")
    assert scratch.trial_id == alone.trial_id
    pretrained = staged.trials(staged.arms["pretrained"], {}, 0, "reporting")
    assert sum(trial.train_flops for trial in pretrained) == pytest.approx(scratch.train_flops, rel=0.02)


def test_the_final_comparison_reads_test_images_on_fresh_seeds(frame: Frame, vit: Recipe) -> None:
    arms = {RECOMMENDED: vit.changed({"model.global_pool": "avg"}), DEFAULT: vit}
    experiment = loaded(final_file("final", arms, 3, frame))
    builder = builder_of(experiment, frame)
    check_arms(experiment, builder)
    assert experiment.seeds.chosen == (100, 101, 102)
    assert [claim.id for claim in experiment.claims] == ["REC-1"]
    assert all(builder.stages(arm, {})[-1].spec.evaluate.test for arm in builder.arms.values())


@pytest.mark.parametrize("pretrain", [0.0, 0.5])
def test_the_recipe_to_go_on_with_is_the_recommended_one(
    pretrain: float, frame: Frame, vit: Recipe, tmp_path: Path
) -> None:
    recipe = replace(vit, pretrain=pretrain)
    final = builder_of(loaded(final_file("final", {RECOMMENDED: recipe, DEFAULT: vit}, 2, frame)), frame)
    path = tmp_path / "recommended.yaml"
    path.write_text(dump(recipe_file("recommended", recipe, frame)))
    experiment = load.load(path)
    assert isinstance(experiment, Experiment)
    alone = builder_of(experiment, frame)
    ids = [
        [trial.trial_id for trial in builder.trials(builder.arms[RECOMMENDED], {}, 100, "reporting")]
        for builder in (final, alone)
    ]
    assert ids[0] == ids[1]
