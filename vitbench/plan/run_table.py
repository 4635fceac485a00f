"""Rows, one flat dictionary per trial and arm: what tables, plots and statistics read, the lines of records.jsonl."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitbench.base.contained import exists
from vitbench.base.durable import replace_durably
from vitbench.model.mechanisms import patch_embed_of
from vitbench.model.sizes import grid
from vitbench.plan.shared_settings import shared_values
from vitbench.plan.trials import Plan, Trial
from vitbench.spec.experiment import Experiment
from vitbench.spec.metrics import DEFAULT_TUNING
from vitbench.spec.trial import ModelSpec
from vitbench.store.answers import read_trial_answers
from vitbench.store.record import REPORTS, Record
from vitbench.store.trials import Store

Row = dict[str, Any]


def rows(plan: Plan, records: Mapping[str, Record]) -> list[Row]:
    """A row for every planned trial that has a record, in the plan's order."""
    return [_row(trial, records[trial.trial_id], plan) for trial in plan.trials if trial.trial_id in records]


def _row(trial: Trial, record: Record, plan: Plan) -> Row:
    model = trial.spec.model
    sizes = model_sizes(model)
    return {
        "arm": trial.arm,
        "levels": dict(trial.levels),
        "setting": dict(trial.setting),
        "role": trial.role,
        "chosen": trial.role in REPORTS and dict(plan.choices.get(trial.arm, {})) == dict(trial.setting),
        **({"tuned_by": plan.tuned_by} if plan.tuned_by != DEFAULT_TUNING else {}),
        "stage": trial.stage,
        "seed": trial.seed,
        "trial_id": trial.trial_id,
        "parent": trial.parent,
        **({"networks": record.networks} if record.networks else {}),
        "status": record.status,
        "reason": record.reason,
        "data": trial.spec.data.name,
        "data_fingerprint": record.data_fingerprint,
        "algorithm_version": record.algorithm_version,
        "num_classes": model.num_classes,
        **({"class_names": list(trial.class_names)} if trial.class_names else {}),
        "grid_side": sizes["grid_side"],
        **({"num_coefficients": sizes["num_coefficients"]} if sizes["num_coefficients"] is not None else {}),
        "depth": sizes["depth"],
        "spec": record.spec,
        "result": with_short_curve(record.result.model_dump(mode="json")),
        "run": record.run.model_dump(mode="json"),
    }


def model_sizes(model: ModelSpec) -> dict[str, int | None]:
    """Sizes along which a claim's x may run; None where a model has no such size."""
    square = isinstance(model.img_size, int) and model.family == "vit"
    return {
        "grid_side": grid(model).rows if square else None,
        "num_coefficients": None if model.family == "resnet" else patch_embed_of(model).num_coefficients(model),
        "depth": model.depth,
    }


def with_short_curve(result: Row) -> Row:
    """Readings to six digits, as losses are float32: the curves are half of records.jsonl."""
    readings = [{k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in r.items()} for r in result["curve"]]
    return {**result, "curve": readings}


def write_rows(folder: Path, found: Sequence[Row]) -> None:
    """Write records.jsonl of a run in one step."""
    text = "".join(json.dumps(row, sort_keys=True, allow_nan=False, separators=(",", ":")) + "\n" for row in found)
    replace_durably(folder / "records.jsonl", text.encode())


def with_read_answers(experiment: Experiment, found: Sequence[Row]) -> list[Row]:
    """The rows whose answers a page may read: of a race those at each arm's choice, and all of an arm that is also
    compared at shared settings."""
    shared = {arm for arm in dict.fromkeys(row["arm"] for row in found) if shared_values(experiment, arm)}
    return [row for row in found if row["role"] != "trial" or row["chosen"] or row["arm"] in shared]


def write_predictions(folder: Path, found: Sequence[Row], store: Store) -> None:
    """Write predictions.npz of a run: test indices, labels, and answers `[R, M]` of its reporting trials, with their
    confidence in whole percent; image by image, as trials agree on an image, which packs three times as small.

    Trials of different test images (held-out classes, say) are left out after the first set. Raises ResultsError where
    a trial's answers are not those of its record.
    """
    ids, parts, common = [], [], None
    for row in found:
        path = store.folder(row["trial_id"]) / "predictions.npz"
        if row["role"] not in REPORTS or row["status"] != "ok" or row["trial_id"] in ids or not exists(path):
            continue
        part = read_trial_answers(path, row["result"].get("predictions_sha256"))
        if common is None:
            common = part["index"]
        if np.array_equal(part["index"], common):
            ids.append(row["trial_id"])
            parts.append(part)
    if common is None:
        return
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        trial_id=np.array(ids),
        index=common,
        label=parts[0]["label"],
        predicted=np.asfortranarray([part["predicted"] for part in parts]),
        confidence=np.asfortranarray([np.rint(100 * part["confidence"].astype(float)).astype("u1") for part in parts]),
    )
    replace_durably(folder / "predictions.npz", buffer.getvalue())
