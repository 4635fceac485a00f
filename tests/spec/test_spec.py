"""Specs and records: frozen, strict, and the same after a journey through JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from vitbench.spec.trial import DURATIONS, ModelSpec, TrainSpec, TrialSpec
from vitbench.store.record import CurvePoint, Record, Result, Run

RULED_KEYS = {
    "test_top1_percent", "test_top1_best_val_percent", "val_top1_percent", "test_loss", "curve", "num_params",
    "forward_flops", "train_flops", "num_images", "num_steps", "predictions_sha256",
}  # fmt: skip


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        ("model", {"patch": 4}),
        ("model", {"patch_size": "4"}),
        ("model", {"patch_size": 4.0}),
        ("model", {"patch_size": 0}),
        ("model", {"patch_size": True}),
        ("model", {"global_pool": "mean"}),
        ("model", {"drop_rate": 1.0}),
        ("model", {"qkv_bias": 1}),
        ("data", {"train_fraction": 0.0}),
        ("data", {"train_fraction": 1.1}),
        ("data", {"val_fraction": 1.0}),
        ("train", {"lr": "fast"}),
        ("train", {"lr": -1.0}),
        ("train", {"lr": 0}),
        ("train", {"epochs": 0}),
        ("train", {"objective": {"mask_ratio": 1.0}}),
        ("train", {"objective": "masked_patch"}),
        ("optimizer", {}),
    ],
)
def test_what_is_refused(section: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrialSpec.model_validate({section: fields})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_rate_is_a_finite_number(value: float) -> None:
    with pytest.raises(ValidationError):
        TrainSpec(lr=value)


def test_lists_become_tuples_and_whole_numbers_are_numbers() -> None:
    assert ModelSpec.model_validate({"layers": [1, 2]}).layers == (1, 2)
    assert TrainSpec.model_validate({"epochs": 5}).epochs == 5.0


@pytest.mark.parametrize("model", [TrialSpec(), Result(), Run(), CurvePoint(step=1, train_loss=1.0)])
def test_specs_are_frozen(model: BaseModel) -> None:
    with pytest.raises(ValidationError):
        setattr(model, next(iter(type(model).model_fields)), None)


def test_a_spec_survives_json() -> None:
    written = {"model": {"layers": [1, 2], "name": "Mu/2"}, "train": {"steps": 3, "lr": 1e-3}, "evaluate": {"knn": 5}}
    spec = TrialSpec.model_validate(written)
    assert TrialSpec.model_validate_json(spec.model_dump_json()) == spec
    assert TrialSpec.model_validate(json.loads(json.dumps(spec.model_dump(mode="json", exclude_defaults=True)))) == spec


def test_a_record_survives_json() -> None:
    result = Result(test_top1_percent=1 / 3, curve=(CurvePoint(step=1, train_loss=0.1),), metrics={"knn_percent": 2.0})
    record = Record(
        trial_id="0" * 16,
        status="ok",
        seed=0,
        data_fingerprint="f" * 64,
        spec={"a": {"b": [1]}},
        result=result,
        run=Run(),
    )
    assert Record.model_validate_json(record.model_dump_json(exclude_none=True)) == record


def test_the_keys_of_results_are_those_of_the_rules() -> None:
    assert set(Result.model_fields) >= RULED_KEYS
    assert {"train_seconds", "images_per_second", "peak_memory_mib"} <= Run.model_fields.keys()
    assert not Result.model_fields.keys() & Run.model_fields.keys()


def test_durations_are_fields_of_training() -> None:
    assert set(DURATIONS) <= TrainSpec.model_fields.keys()
    assert all(getattr(TrainSpec(), unit) is None for unit in DURATIONS)
