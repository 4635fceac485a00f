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
    return seed_id(shared_identity(spec, data_fingerprint, weights_sha256), seed, parents)


def shared_identity(spec: TrialSpec, data_fingerprint: str, weights_sha256: str | None = None) -> tuple[str, str]:
    """The canonical JSON of the identity that all seeds of an arm share: what stands before their own keys, and after.

    The keys in order are: algorithm, code, data, networks, parent, seed, spec.
    """
    code = source_hashes(chosen_mechanisms(spec))
    head = {"algorithm": ALGORITHM_VERSION, **({"code": code} if code else {}), "data": data_fingerprint}
    return f"{_canonical(head)[:-1]},", f',"spec":{_spec_json(spec, weights_sha256)}}}'


def seed_id(shared: tuple[str, str], seed: int, parents: Mapping[str, str] | None = None) -> str:
    """The id of one seed's trial: the hash of the canonical JSON of its whole identity."""
    parent, networks = "null", ""
    if parents:
        if START in parents:
            parent = json.dumps(parents[START])
        others = {role: parent_id for role, parent_id in parents.items() if role != START}
        networks = f'"networks":{_canonical(others)},' if others else ""
    head, tail = shared
    text = f'{head}{networks}"parent":{parent},"seed":{int(seed)}{tail}'
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def chosen_mechanisms(spec: TrialSpec) -> list[tuple[str, str]]:
    """(kind, text) of every mechanism that a resolved spec chooses."""
    parts = MODEL_KINDS.items() if spec.model.family != "resnet" else ()
    return [*((kind, getattr(spec.model, field)) for kind, field in parts), ("objective", spec.train.objective.name)]


@functools.lru_cache(maxsize=4096)
def _spec_json(spec: TrialSpec, weights_sha256: str | None) -> str:
    """The fields of a spec that are hashed, as JSON."""
    fields = spec.model_dump(mode="json", exclude_defaults=True)
    fields.get("data", {}).pop("name", None)
    if weights_sha256 is not None:
        fields["model"]["init_from"] = weights_sha256
    return _canonical({key: value for key, value in fields.items() if value})


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
