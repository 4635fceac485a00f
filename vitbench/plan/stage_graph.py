"""The stages of one trial as a graph: which stage gives the starting weights, which one gives a network.

A stage starts from the stage before it. A stage with `uses: {start: STAGE, teacher: STAGE}` has exactly these parents:
`start` gives the weights to start from, every other role gives a network that the stage's objective reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vitbench.base.errors import InputError
from vitbench.model.objective import objective_of
from vitbench.spec.experiment import START, Experiment, Stage
from vitbench.spec.trial import ObjectiveSpec, TrialSpec, size_words


class ResolvedStage(NamedTuple):
    """One stage of an arm at a setting; `uses` is {role: name of an earlier stage}.

    `num_pool` images get their labels from another stage's network.
    """

    name: str
    spec: TrialSpec
    fingerprint: str
    uses: Mapping[str, str]
    num_pool: int = 0


def parents_of(stage: Stage, objective: ObjectiveSpec, earlier: Sequence[str]) -> dict[str, str]:
    """{role: stage} of the parents of `stage` among the enabled stages before it.

    Roles that the objective does not read are left out, so that they never enter an id. So are disabled stages.
    """
    if stage.uses is None:
        return {START: earlier[-1]} if earlier else {}
    roles = {START, *objective_of(objective).frozen_roles}
    return {role: name for role, name in stage.uses.items() if role in roles and name in earlier}


def ancestors(stages: Mapping[str, ResolvedStage], uses: Mapping[str, str]) -> list[TrialSpec]:
    """The specs along the line of starting weights, the first stage first."""
    line: list[TrialSpec] = []
    while START in uses:
        parent = stages[uses[START]]
        line.insert(0, parent.spec)
        uses = parent.uses
    return line


def network_problems(stage: ResolvedStage, stages: Mapping[str, ResolvedStage]) -> list[str]:
    """Why the networks of earlier stages do not suit the images or the objective of `stage`, one line each.

    A network gets the images that the stage trains on, standardised as the stage does it.
    """
    networks = {role: stages[name] for role, name in stage.uses.items() if role != START}
    problems = []
    for role, other in networks.items():
        if _images(other) != _images(stage):
            theirs, ours = _image_words(other), _image_words(stage)
            problems.append(
                f"uses.{role}: stage {other.name} trains on {theirs}, this stage on {ours}; use equal images"
            )
    objective = objective_of(stage.spec.train.objective)
    specs = {role: other.spec for role, other in networks.items()}
    return problems + objective.network_problems(stage.spec, specs)


def _images(stage: ResolvedStage) -> tuple[object, ...]:
    """What must be equal for two stages' networks to take the same images."""
    return stage.fingerprint, stage.spec.model.img_size, stage.spec.model.in_chans


def _image_words(stage: ResolvedStage) -> str:
    """What a network of the stage takes: `digits, 8 x 8 px, 1 channels`."""
    img_size = stage.spec.model.img_size
    assert img_size is not None
    return f"{stage.spec.data.name}, {size_words(img_size)} px, {stage.spec.model.in_chans} channels"


def reachable(stages: Mapping[str, ResolvedStage]) -> list[ResolvedStage]:
    """The last stage and the stages that it needs, directly or not, in order."""
    if not stages:
        return []
    needed, waiting = set[str](), [list(stages)[-1]]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += stages[name].uses.values()
    return [stage for name, stage in stages.items() if name in needed]


def check_roles(experiment: Experiment, resolved: Sequence[Sequence[ResolvedStage]]) -> None:
    """Raise InputError if a stage uses a role that no arm reads, one line each; `resolved` are the arms' stages."""
    read = {(stage.name, role) for stages in resolved for stage in stages for role in stage.uses}
    problems = [
        f"{experiment.name}: stages.{stage.name}.uses.{role}: no arm's objective reads a network {role!r}"
        for stage in experiment.stages
        for role in stage.uses or ()
        if role != START and (stage.name, role) not in read
    ]
    if problems:
        raise InputError("\n".join(problems))
