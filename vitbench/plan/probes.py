"""What a trial measures on frozen features: the normal form of `evaluate`, and the refusal of what cannot be."""

from __future__ import annotations

from vitbench.base.errors import InputError
from vitbench.data import Facts
from vitbench.data.splits import class_sizes
from vitbench.spec.trial import DataSpec, EvaluateSpec, ModelSpec


def resolved_probes(evaluate: EvaluateSpec, model: ModelSpec, data: DataSpec, facts: Facts) -> EvaluateSpec:
    """`evaluate` with the fields of probes back at their defaults where there is no such probe.

    Raises InputError if a probe would read test images that are to stay unread, has too few training images, or reads
    layers that the model does not have.
    """
    if not evaluate.has_probes:
        return EvaluateSpec(test=evaluate.test)
    if not evaluate.test:
        raise InputError("evaluate.test: probes are scored on test images; leave them out, or leave out test: false")
    _check_sizes(evaluate, data, facts)
    if evaluate.probe_layers and model.family == "resnet":
        raise InputError("evaluate.probe_layers: a ResNet has no blocks of tokens; set false")
    if evaluate.probe_layers and model.parallel > 1:
        raise InputError(
            "evaluate.probe_layers: blocks side by side have no tokens of their own; set model.parallel: 1"
        )
    idle = [] if evaluate.few_shot else ["few_shot_draws", "few_shot_l2"]
    idle += [] if evaluate.knn else ["knn_temperature"]
    return evaluate.model_copy(update={key: getattr(EvaluateSpec(), key) for key in idle})


def _check_sizes(evaluate: EvaluateSpec, data: DataSpec, facts: Facts) -> None:
    """Raise InputError if a probe has too few training images.

    With `few_shot_classes: held_out` the probes draw from all training images of the classes that are not trained.
    """
    if not (evaluate.few_shot or evaluate.knn):
        return
    sizes = _sizes(evaluate, data, facts)
    if not sizes:
        raise InputError("evaluate.few_shot_classes: held_out needs data.classes that leave some classes out")
    fewest = min(sizes, key=lambda c: sizes[c])
    most_shots, average = max(evaluate.few_shot, default=0), sum(sizes.values()) // len(sizes)
    if most_shots > sizes[fewest]:
        raise InputError(
            f"evaluate.few_shot: {most_shots} shots, and class {facts.class_names[fewest]} has {sizes[fewest]} "
            "training images"
        )
    if evaluate.knn > average:
        raise InputError(
            f"evaluate.knn: {evaluate.knn} neighbours of {sum(sizes.values())} training images in {len(sizes)} classes "
            f"are the majority, not the nearest; at most {average}"
        )


def _sizes(evaluate: EvaluateSpec, data: DataSpec, facts: Facts) -> dict[int, int]:
    """The images that the probes of one trial are fitted on, by class."""
    if evaluate.few_shot_classes == "trained":
        return dict(class_sizes(facts.counts, data).train)
    trained = set(range(facts.num_classes)) if data.labels is None else set(data.labels)
    return {c: count for c, count in enumerate(facts.class_counts) if c not in trained and count}
