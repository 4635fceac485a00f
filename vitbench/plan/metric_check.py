"""Refusal, before training, of metrics that no arm of an experiment measures."""

from __future__ import annotations

from typing import Any

from vitbench.base.errors import InputError
from vitbench.data import partition_sizes
from vitbench.model.objective import objective_of
from vitbench.plan.trials import Builder, settings
from vitbench.spec.experiment import Experiment
from vitbench.spec.metrics import is_analysis, measured, refuse_unmeasured
from vitbench.spec.trial import TrialSpec


def check_metrics(experiment: Experiment, builder: Builder) -> None:
    """Raise InputError, one line per metric, if no arm's last stage measures the report's or a claim's metric.

    A claim may read what `vitbench inspect` adds after training.
    """
    available = available_metrics(experiment, builder)
    problems = []
    for where, metric in named_metrics(experiment):
        if where != "report.metric" and is_analysis(metric):
            continue
        try:
            refuse_unmeasured(f"{experiment.name}: {where}", metric, available)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))


def reads_analyses(experiment: Experiment) -> bool:
    """Whether a claim reads a number that `vitbench inspect` adds after training."""
    return any(where != "report.metric" and is_analysis(metric) for where, metric in named_metrics(experiment))


def available_metrics(experiment: Experiment, builder: Builder) -> list[str]:
    """The metrics that at least one arm's last stage records at the first setting of the grid."""
    setting = settings(experiment)[0]
    specs = [builder.stages(arm, setting)[-1].spec for arm in builder.arms.values()]
    return [name for spec in specs for name in _measured(spec, has_validation(builder, spec))]


def _measured(spec: TrialSpec, has_validation: bool) -> tuple[str, ...]:
    objective = objective_of(spec.train.objective)
    scores = objective.scores_named
    named = measured(spec, objective.predicts_classes, has_validation=has_validation, scores=scores)
    return (*objective.made_metrics, *named)


def has_validation(builder: Builder, spec: TrialSpec) -> bool:
    """Whether a trial of this resolved spec has validation images: a small class or a small fraction may give none."""
    return partition_sizes(builder.facts_of(spec.data.name).counts, spec.data)[1] > 0


def named_metrics(experiment: Experiment) -> list[tuple[str, str]]:
    """(place, metric) of every metric that the experiment names."""
    out = [("report.metric", experiment.report.metric)]
    for claim in experiment.claims:
        for part in claim.part_claims():
            if part.untested is None:
                refs: list[Any] = [*part.arms, *(ref for pair in (*part.pairs, *part.tiers) for ref in pair)]
                written = [part.metric, part.at.get("metric"), *(r.get("metric") for r in refs if isinstance(r, dict))]
                flat = [m for item in written for m in (item if isinstance(item, (list, tuple)) else [item])]
                out += [(f"claim {claim.id}", str(metric)) for metric in flat if metric is not None]
    return out
