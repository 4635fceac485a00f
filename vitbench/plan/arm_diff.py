"""Every way in which two arms differ, and the refusal of arms that differ in more than they declare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from vitbench.base.errors import InputError
from vitbench.model.costs import forward_flops, num_params
from vitbench.model.mechanisms import KINDS, MODEL_KINDS, SHARED
from vitbench.model.objective import Objective
from vitbench.model.parameters import parameters
from vitbench.plan.stage_graph import ResolvedStage
from vitbench.plan.trials import Builder, settings
from vitbench.spec.arms import Arm
from vitbench.spec.experiment import Experiment
from vitbench.spec.trial import TrialSpec

TENSORS: Mapping[str, frozenset[str]] = {
    **{f"model.{field}": KINDS[kind].changes | {kind} for kind, field in MODEL_KINDS.items()},
    "model.pos_placement": frozenset(("position",)),
    "model.relative_clip": frozenset(("position",)),
    "model.no_embed_class": frozenset(("position",)),
    "model.reg_tokens": frozenset(("registers",)),
    "model.dist_token": frozenset(("dist_token", "head")),
    "model.final_norm": frozenset(("final_norm",)),
    "model.without": frozenset(("block_norm", "channel_mixer", "layer_scale")),
    "model.block_norm": frozenset(("block_norm", "final_norm")),
    "model.norm_eps": frozenset(),
    "model.layer_scale": frozenset(("layer_scale",)),
    "model.head": frozenset(("head",)),
    "model.freeze": frozenset(),
    "model.parallel": frozenset(),
    "model.patch_size": frozenset(("patch_embed", "head", "position")),
    "data.img_size": frozenset(("position",)),
    "data.classes": frozenset(("head",)),
    "train.objective.name": Objective.changes,
    "train.objective.target": frozenset(("head",)),
}
"""The parts whose tensors may differ in shape or initialisation between arms of a field; any other field of `model` may
change them all, as may `data.name`."""
_UNREAD = tuple(f"model.{field}" for field in sorted(SHARED))
"""Fields that go back to their defaults if no part reads them."""
DERIVED: Mapping[str, tuple[str, ...]] = {
    **{f"model.{field}": _UNREAD for field in MODEL_KINDS.values()},
    "model.global_pool": ("model.class_token", *_UNREAD),
    "model.without": ("model.channel_mixer", *_UNREAD),
    "model.stages": ("model.depth", *_UNREAD),
    "data.train_fraction": ("train.steps",),
    "data.classes": ("model.num_classes", "train.steps"),
    "data.scale": ("data.name",),
    "data.split": ("data.name", "train.steps"),
    "data.img_size": ("model.*",),
    "data.name": ("data.*", "model.*", "train.steps"),
    "model.name": ("model.*",),
    "model.family": ("model.*",),
    "train.batch_size": ("train.steps",),
    "train.augment": ("train.mixup",),
    "train.objective.name": ("train.objective.*", "train.mixup", "train.smoothing", "evaluate.*"),
}
"""Resolved fields that follow from a field; every field may change `train.steps` if the budget is in FLOPs."""


@dataclass(frozen=True)
class Difference:
    """One difference: a spec key, a tensor's shape or initialisation, or a count."""

    stage: str
    kind: str
    key: str
    a: str
    b: str
    part: str = ""
    """Of a tensor: the kind of mechanism that owns it."""


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as {dotted path: leaf}."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {k: v for key, item in value.items() for k, v in flatten(item, f"{prefix}.{key}" if prefix else key).items()}


def _tensors(spec: TrialSpec) -> dict[str, tuple[str, str]]:
    """{name: (shape and initialisation, part)}."""
    return {t.name: (f"{list(t.shape)} {t.init}", t.part) for t in parameters(spec.model, spec.train.objective)}


def spec_difference(stage: str, a: TrialSpec, b: TrialSpec) -> list[Difference]:
    """Differences of two resolved specs: keys, then tensors, then counts."""
    keys_a, keys_b = flatten(a.model_dump(mode="json")), flatten(b.model_dump(mode="json"))
    tensors_a, tensors_b = _tensors(a), _tensors(b)
    counts = {"parameters": num_params, "forward FLOPs": forward_flops}
    out = [Difference(stage, "spec", k, f"{keys_a[k]}", f"{keys_b[k]}") for k in keys_a if keys_a[k] != keys_b[k]]
    for name in dict.fromkeys([*tensors_a, *tensors_b]):
        (left, part_a), (right, part_b) = (tensors.get(name, ("absent", "")) for tensors in (tensors_a, tensors_b))
        if left != right:
            out.append(Difference(stage, "tensor", name, left, right, part_a or part_b))
    for name, count in counts.items():
        left, right = (f"{count(s.model, s.train.objective):,}" for s in (a, b))
        if left != right:
            out.append(Difference(stage, "count", name, left, right))
    return out


def arm_difference(builder: Builder, a: Arm, b: Arm) -> list[Difference]:
    """Every difference of two arms, stage by stage, at the first setting of the tuned grid."""
    setting = settings(builder.experiment)[0]
    stages_a = {stage.name: stage for stage in builder.stages(a, setting)}
    stages_b = {stage.name: stage for stage in builder.stages(b, setting)}
    out = []
    for name in dict.fromkeys([*stages_a, *stages_b]):
        if name in stages_a and name in stages_b:
            out.extend(spec_difference(name, stages_a[name].spec, stages_b[name].spec))
            out.extend(_parent_difference(stages_a[name], stages_b[name]))
        else:
            out.append(Difference(name, "stage", "enabled", str(name in stages_a), str(name in stages_b)))
    return out


def _parent_difference(a: ResolvedStage, b: ResolvedStage) -> list[Difference]:
    """The roles in which two arms' stages need other earlier stages."""
    return [
        Difference(a.name, "stage", f"uses.{role}", *(stage.uses.get(role, "absent") for stage in (a, b)))
        for role in dict.fromkeys([*a.uses, *b.uses])
        if a.uses.get(role) != b.uses.get(role)
    ]


def check_arms(experiment: Experiment, builder: Builder) -> None:
    """Refuse equal arms, and arms that differ in more than their factor; all problems at once.

    Raises InputError naming the arms and the key, with what would allow it (`differs:`).
    """
    all_arms = list(builder.arms.values())
    problems = []
    setting = settings(experiment)[0]
    first_with: dict[str, str] = {}
    for arm in all_arms:
        identity = repr(builder.stages(arm, setting))
        if identity in first_with:
            problems.append(
                f"{experiment.name}: arms {first_with[identity]} and {arm.name} compute the same; drop one (exclude:)"
            )
        first_with.setdefault(identity, arm.name)
    for arm in all_arms[1:]:
        other = _neighbour(all_arms, arm)
        if other is not None:
            problems.extend(_undeclared(experiment, builder, *other, arm))
    if problems:
        raise InputError("\n".join(problems))


def _neighbour(all_arms: list[Arm], arm: Arm) -> tuple[str, Arm] | None:
    """The first arm that differs from `arm` in one factor, and that factor."""
    for other in all_arms:
        factors = [path for path in arm.levels if arm.levels[path] != other.levels[path]]
        if len(factors) == 1:
            return factors[0], other
    return None


def _undeclared(experiment: Experiment, builder: Builder, factor: str, a: Arm, b: Arm) -> Iterable[str]:
    """Differences of two neighbouring arms that their factor does not explain."""
    stages = {stage.name for stage in experiment.stages}
    assigned = [factor] if factor != "arm" else [*a.assignment, *b.assignment]
    bare = [path.split(".", 1)[1] if path.split(".", 1)[0] in stages else path for path in assigned]
    keys = [*bare, *experiment.differs, *(d for path in bare for d in DERIVED.get(path, ()))]
    anything = "data.name" in bare or any(p.startswith("model.") and p not in TENSORS for p in bare)
    parts = frozenset[str]().union(*(TENSORS.get(path, frozenset()) for path in bare))
    if any(path.endswith("train_flops") for path in [*bare, *flatten(experiment.base)]) or bare != assigned:
        keys.append("train.steps")
    if any(path.startswith("train.") and path.split(".")[1] in ("epochs", "steps", "images") for path in bare):
        keys.append("train.steps")
    if any(path in ("enabled", "model.init_from") for path in bare):
        return
    for difference in arm_difference(builder, a, b):
        named = any(fnmatchcase(difference.key, pattern) for pattern in experiment.differs)
        allowed = {
            "spec": any(fnmatchcase(difference.key, pattern) for pattern in keys),
            "tensor": anything or difference.part in parts or named,
        }
        if not allowed.get(difference.kind, True):
            yield (
                f"{experiment.name}: arms {a.name} and {b.name} differ in {difference.key} "
                f"({difference.a} and {difference.b}), which {factor} does not explain; say why under differs:"
            )
