"""Stages as a graph: who gives weights, who gives a network, and what follows for ids, stacks, FLOPs and refusals."""

from __future__ import annotations

from functools import partial

import pytest
from made_plans import best, experiment, facts_of, of_stage

from vitbench.base.errors import InputError
from vitbench.engines.stacks import stack_key, stacks
from vitbench.model.costs import forward_flops
from vitbench.plan.arm_diff import arm_difference
from vitbench.plan.rounds import expand
from vitbench.plan.stage_graph import check_roles
from vitbench.plan.trials import Builder, Trial

TEACH = """
stages:
  - {name: teach, model: {name: Mu/4}}
  - {name: learn, uses: {teacher: teach}, train: {objective: {name: distill}}}
"""
GRAPH = TEACH + "seeds: 2\n"
OBJECTIVES = TEACH + "factors: {learn.train.objective.name: [classify, distill]}\nseeds: 1\n"


def trials_of(text: str) -> tuple[Trial, ...]:
    return tuple(expand(Builder(experiment(text), facts_of), {}, best).unique().values())


def test_a_stage_that_uses_a_teacher_starts_fresh_and_knows_it_by_role() -> None:
    teach, learn, *_ = trials_of(GRAPH)
    assert (teach.stage, teach.role, learn.stage, learn.role) == ("teach", "stage", "learn", "reporting")
    assert learn.parent is None
    assert dict(learn.parents) == {"teacher": teach.trial_id}
    assert dict(learn.networks) == {"teacher": teach.spec}


def test_start_and_teacher_may_be_two_stages() -> None:
    text = GRAPH.replace("uses: {teacher: teach}", "uses: {teacher: teach, start: warm}").replace(
        "  - {name: learn", "  - {name: warm, uses: {}, train: {epochs: 1}}\n  - {name: learn"
    )
    teach, warm, learn = trials_of(text)[:3]
    assert warm.parents == {}
    assert dict(learn.parents) == {"teacher": teach.trial_id, "start": warm.trial_id}
    assert len({t.trial_id for t in (learn, *[t for t in trials_of(GRAPH) if t.stage == "learn"])}) == 3


def test_another_teacher_is_another_trial_and_another_stack() -> None:
    """Fault 3: two arms that differ only in their teacher had one stack key."""
    trials = of_stage(trials_of(TEACH + "factors: {teach.model.depth: [1, 2]}\nseeds: 2\n"), "learn")
    assert len(trials) == 4
    assert len({trial.spec for trial in trials}) == 1
    assert len({stack_key(trial) for trial in trials}) == 2
    assert [len(stack) for stack in stacks(trials)] == [2, 2]
    with_teacher = {stack_key(trial) for trial in of_stage(trials_of(GRAPH), "learn")}
    assert len(with_teacher) == 1


def test_a_role_that_the_objective_does_not_read_is_not_part_of_the_trial() -> None:
    """The classify arm is the trial of a file without a teacher, which is not even trained for it."""
    classify, teach, distill = trials_of(OBJECTIVES)
    assert classify.parents == {}
    assert [classify.trial_id] == [trial.trial_id for trial in trials_of("seeds: 1\n")]
    assert dict(distill.parents) == {"teacher": teach.trial_id}


def test_the_plan_shows_how_arms_differ_in_their_stages() -> None:
    builder = Builder(experiment(OBJECTIVES), facts_of)
    differences = {(d.stage, d.key): (d.a, d.b) for d in arm_difference(builder, *builder.arms.values())}
    assert differences["teach", "enabled"] == ("False", "True")
    assert differences["learn", "uses.teacher"] == ("absent", "teach")


def test_the_teachers_forward_pass_counts() -> None:
    """Fault 4: in a trial's FLOPs, in a budget of FLOPs, and in `total_of(ARM)`."""
    graph = GRAPH.replace("train: {objective", "train: {epochs: 10, objective")
    teach, learn = trials_of(graph)[:2]
    student, teacher = (forward_flops(t.spec.model, t.spec.train.objective) for t in (learn, teach))
    num_images = (learn.spec.train.steps or 0) * learn.spec.train.batch_size
    assert learn.train_flops == (3 * student + teacher) * num_images
    assert teach.train_flops == 3 * teacher * (teach.spec.train.steps or 0) * teach.spec.train.batch_size

    budget = graph.replace("epochs: 10", f"train_flops: {learn.train_flops}.0")
    bought = trials_of(budget)[1]
    assert bought.spec == learn.spec
    total = (
        graph.removesuffix("seeds: 2\n")
        + "arms:\n  distilled: {}\n  alone:\n    learn.train.objective.name: classify\n"
        "    learn.train.train_flops: total_of(distilled)\nseeds: 1\n"
    )
    alone = next(trial for trial in trials_of(total) if trial.arm == "alone")
    step = 3 * student * alone.spec.train.batch_size
    assert 0 <= teach.train_flops + learn.train_flops - alone.train_flops < step


REFUSED = {
    "no teacher": ("stages:\n  - {name: learn, train: {objective: {name: distill}}}\n",
                   r"distill needs another network \(teacher\) from an earlier stage; name it in the stage"),
    "a disabled teacher": (TEACH.replace("teach, model", "teach, enabled: false, model"), "needs another network"),
    "other images": (TEACH.replace("{name: Mu/4}", "{name: Mu/4}, data: {name: colour}"),
                     r"uses\.teacher: stage teach trains on colour, 8 x 8 px, 3 channels, this stage on fake"),
    "other sizes": (TEACH.replace("{name: Mu/4}", "{name: Mu/4}, data: {img_size: 16}"), r"16 x 16 px"),
    "other classes": (TEACH.replace("{name: Mu/4}", "{name: Mu/4}, data: {classes: [0, 1]}"), r"other data\.classes"),
    "no classes": (TEACH.replace("{name: Mu/4}", "{name: Mu/4}, train: {objective: {name: masked_patch}}"),
                   r"masked_patch predicts no classes"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_teacher_that_does_not_suit_is_refused_by_the_plan_in_one_line(case: str) -> None:
    """Fault 5: an objective that needs an earlier stage failed at run time."""
    text, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as raised:
        trials_of(text + "seeds: 1\n")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("uses", ["{teacher: tech}", "{teacher: learn}"])
def test_a_stage_that_does_not_come_earlier_is_refused_with_its_line(uses: str) -> None:
    with pytest.raises(
        InputError, match=r"^made\.yaml:10: stages\[1\]\.uses\.teacher: '\w+' is no earlier stage"
    ) as raised:
        experiment(GRAPH.replace("{teacher: teach}", uses))
    assert "\n" not in str(raised.value)


def test_a_role_that_nobody_reads_is_refused() -> None:
    builder = Builder(experiment(GRAPH.replace("teacher: teach", "teacher: teach, mentor: teach")), facts_of)
    check = partial(check_roles, builder.experiment, [builder.stages(arm, {}) for arm in builder.arms.values()])
    with pytest.raises(InputError, match=r"stages\.learn\.uses\.mentor: no arm's objective reads a network 'mentor'"):
        check()
