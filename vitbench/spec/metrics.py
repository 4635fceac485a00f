"""Metrics: the name of each number, its unit, the better direction, the score of guessing, and its source.

Tables, plots, tuning and claims use this module; none of them recognises a metric by a part of its name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from vitbench.base.errors import InputError, nearest
from vitbench.spec.trial import TrialSpec

Better = Literal["higher", "lower"]
Source = Literal["training", "test", "cost", "answers", "analysis"]

DEFAULT_TUNING: Literal["val_top1_percent"] = "val_top1_percent"
"""The metric that chooses a setting where a file names none."""


@dataclass(frozen=True)
class Metric:
    """One number of a trial.

    `better` is None if no direction is better: costs and descriptions of a network are never ranked.
    `source` says when the number exists: after training (`training`, `test`, `cost`), from stored answers, or only
    after `vitbench inspect` (`analysis`). `label` is the text of an axis or a column. `guess`: guessing scores
    100 / classes.
    """

    name: str
    label: str
    unit: str
    better: Better | None
    source: Source
    guess: bool = False

    @property
    def points(self) -> str:
        """The unit of a difference: `points` for a percentage, else the unit itself."""
        return "points" if self.unit == "%" else self.unit

    @property
    def decimals(self) -> int:
        """Digits after the point in a table: 2 for percentages, 4 for losses, 0 for counts."""
        return {"%": 2, "nats": 4, "bits": 4, "MSE": 4}.get(self.unit, 0 if self.unit in ("parameters", "FLOPs") else 2)

    @property
    def counted(self) -> bool:
        """True if the score counts test images, so that its step is 100 / images."""
        return self.guess and self.source == "test"

    @property
    def sign(self) -> float:
        """-1 if lower is better, else 1: `sign * value` ranks like a score."""
        return -1.0 if self.better == "lower" else 1.0

    def chance(self, num_classes: int) -> float | None:
        """The score of guessing among `num_classes` equally frequent classes; None for metrics without classes."""
        return 100.0 / num_classes if self.guess else None


def _accuracy(name: str, label: str, source: Source = "test") -> Metric:
    return Metric(name, label, "%", "higher", source, guess=True)


_NAMED = {
    metric.name: metric
    for metric in (
        _accuracy("test_top1_percent", "Test top-1 (%)"),
        _accuracy("test_top1_best_val_percent", "Test top-1, best by validation (%)"),
        _accuracy("val_top1_percent", "Validation top-1 (%)", "training"),
        Metric("val_loss", "Validation loss", "nats", "lower", "training"),
        Metric("test_loss", "Test loss", "nats", "lower", "test"),
        _accuracy("linear_probe_percent", "Linear probe (%)"),
        _accuracy("knn_percent", "Knn (%)"),
        Metric("teacher_entropy_nats", "Teacher's entropy", "nats", None, "training"),
        Metric("teacher_kl_nats", "Teacher's divergence", "nats", None, "training"),
        Metric("pseudo_labels_kept_percent", "Pseudo-labels kept (%)", "%", None, "training"),
        Metric("pseudo_labels_right_percent", "Pseudo-labels right (%)", "%", None, "training"),
        Metric("retrieval_recall1_percent", "Caption of an image, recall@1 (%)", "%", "higher", "test"),
        Metric("zero_shot_recall1_percent", "Caption of an image, held-out combinations (%)", "%", "higher", "test"),
        Metric("relation_accuracy_percent", "Relation or its inverse (%)", "%", "higher", "test"),
        Metric("sized_relation_accuracy_percent", "Relation or its inverse, two sizes (%)", "%", "higher", "test"),
        Metric("class_accuracy_percent", "Subject's class or another (%)", "%", "higher", "test"),
        Metric("matching_accuracy_percent", "Match or inverse relation (%)", "%", "higher", "test"),
        Metric("masked_word_accuracy_percent", "Hidden words (%)", "%", "higher", "test"),
        Metric("foreground_miou_percent", "Foreground mIoU (%)", "%", "higher", "test"),
        Metric("miou_percent", "mIoU with background (%)", "%", "higher", "test"),
        Metric("ap50_percent", "AP50 (%)", "%", "higher", "test"),
        Metric("ap_percent", "AP (%)", "%", "higher", "test"),
        Metric("ap50_small_percent", "AP50 of small objects (%)", "%", "higher", "test"),
        Metric("ap50_large_percent", "AP50 of large objects (%)", "%", "higher", "test"),
        Metric("bits_per_pixel", "Bits per pixel", "bits", "lower", "training"),
        Metric("unigram_bits_per_pixel", "Bits per pixel by the colours' shares", "bits", None, "training"),
        Metric("test_noise_mse", "Test error of the noise", "MSE", "lower", "test"),
        _accuracy("class_fidelity_percent", "Samples of their class (%)", "training"),
        _accuracy("guided_class_fidelity_percent", "Guided samples of their class (%)", "training"),
        Metric("sampling_flops", "Sampling flops", "FLOPs", None, "training"),
        Metric("num_params", "Num params", "parameters", None, "cost"),
        Metric("forward_flops", "Forward flops", "FLOPs", None, "cost"),
        Metric("train_flops", "Train flops", "FLOPs", None, "cost"),
        Metric("num_images", "Num images", "images", None, "cost"),
        Metric("num_steps", "Num steps", "steps", None, "cost"),
        Metric("num_train_images", "Num train images", "images", None, "cost"),
        Metric("num_test_images", "Num test images", "images", None, "cost"),
        Metric("train_seconds", "Train seconds", "s", None, "cost"),
    )
}
_ANALYSES = ("attention_", "box_", "filter_", "last_layer_", "layer_", "pos_", "reconstruction_", "robust_", "rollout_")
"""The first words of what `vitbench inspect` measures."""
_ANALYSIS_ACCURACIES = ("robust_",)


LAYER_PROBE = "linear_probe_layer_"


def layer_probe(number: int) -> str:
    """The name of the linear probe of block `number`, counted from 1."""
    return f"{LAYER_PROBE}{number}_percent"


def metric_named(name: str) -> Metric:
    """The metric of this name; a name outside the table takes the unit of its ending and has no better direction."""
    if name in _NAMED:
        return _NAMED[name]
    words = name.removesuffix("_percent").replace("_", " ").capitalize()
    percent = name.endswith("_percent")
    label = words + (" (%)" if percent else "")
    if name.startswith(("few_shot_", LAYER_PROBE)) and percent:
        return _accuracy(name, label)
    accuracy = percent and name.startswith(_ANALYSIS_ACCURACIES)
    return Metric(name, label, "%" if percent else "", "higher" if accuracy else None, "analysis", guess=accuracy)


def is_analysis(name: str) -> bool:
    """True if `vitbench inspect` may add this metric after training."""
    return name.startswith(_ANALYSES)


def is_probe(name: str) -> bool:
    """True if the metric reads the features of a network that a probe does not change."""
    return name in ("linear_probe_percent", "knn_percent") or name.startswith(("few_shot_", LAYER_PROBE))


def measured(
    spec: TrialSpec, classifies: bool, *, has_validation: bool = True, scores: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """The metrics that training this resolved spec records; without classes, its validation loss and its costs.

    `scores` are those that its objective computes on the test images.

    Without validation images there is no validation score, and no best weights by validation.
    """
    costs = tuple(name for name, metric in _NAMED.items() if metric.source == "cost" and name != "train_seconds")
    losses = ("val_loss",) if has_validation else ()
    if not classifies:
        return (*(scores if spec.evaluate.test else ()), *losses, *costs)
    evaluate = spec.evaluate
    probes = [f"few_shot_{shots}_percent" for shots in evaluate.few_shot]
    probes += ["linear_probe_percent"] if evaluate.linear_probe else []
    probes += [layer_probe(number + 1) for number in range(spec.model.depth or 0)] if evaluate.probe_layers else []
    probes += ["knn_percent"] if evaluate.knn else []
    if not evaluate.test:
        return (*(("val_top1_percent",) if has_validation else ()), *losses, *costs)
    validation = ("val_top1_percent", "test_top1_best_val_percent", *losses) if has_validation else ()
    return ("test_top1_percent", "test_loss", *validation, *probes, *costs)


def refuse_unmeasured(where: str, metric: str, available: Iterable[str]) -> None:
    """Raise InputError if no arm will measure `metric`, with the names that are measured."""
    names = list(dict.fromkeys(available))
    if metric not in names:
        near = nearest(metric, names)
        raise InputError(f"{where}: no arm measures {metric!r}.{near} Measured: {', '.join(names)}")
