"""What names a trial: a hash of what it computes."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from vitbench.model.mechanisms import MODEL_KINDS
from vitbench.spec.experiment import START
from vitbench.spec.mechanism import source_hashes
from vitbench.spec.trial import TrialSpec
from vitbench.store.record import ALGORITHM_VERSION


def trial_id(
    spec: TrialSpec,
    seed: int,
    data_fingerprint: str,
    parents: Mapping[str, str] | None = None,
    weights_sha256: str | None = None,
) -> str:
    """Sixteen hex digits that name what a trial computes, and nothing about where or under which name it runs.

    Hashed: the resolved spec's fields that differ from their defaults, seed, data, `parents` (the ids of the stages
    that it needs, by role), ALGORITHM_VERSION, and the source of a user's own mechanisms. Left out: data.name and
    model.init_from (the images' fingerprint and the weights' hash stand for them), arm, device, engine, threads.
    """
    identity: dict[str, Any] = {
        "spec": _hashed_fields(spec, weights_sha256),
        "seed": seed,
        "data": data_fingerprint,
        "parent": (parents or {}).get(START),
        "algorithm": ALGORITHM_VERSION,
    }
    if networks := {role: parent for role, parent in (parents or {}).items() if role != START}:
        identity["networks"] = networks
    if code := source_hashes(chosen_mechanisms(spec)):
        identity["code"] = code
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def chosen_mechanisms(spec: TrialSpec) -> list[tuple[str, str]]:
    """(kind, text) of every mechanism that a resolved spec chooses."""
    parts = MODEL_KINDS.items() if spec.model.family != "resnet" else ()
    return [*((kind, getattr(spec.model, field)) for kind, field in parts), ("objective", spec.train.objective.name)]


@functools.lru_cache(maxsize=4096)
def _hashed_fields(spec: TrialSpec, weights_sha256: str | None) -> dict[str, Any]:
    """The part of a trial's identity that the seeds of an arm share; not to be changed by who gets it."""
    fields = spec.model_dump(mode="json", exclude_defaults=True)
    fields.get("data", {}).pop("name", None)
    if weights_sha256 is not None:
        fields["model"]["init_from"] = weights_sha256
    return {key: value for key, value in fields.items() if value}
