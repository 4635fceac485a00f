"""Exports beside timm's: a folder for transformers' ViT, or an ONNX graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitbench.base.durable import replace_durably
from vitbench.base.errors import InputError
from vitbench.data import DataOptions
from vitbench.inspection.export import CONFIG_FILE, kept_weights, require_new_folder, standardisation, timm_state
from vitbench.inspection.onnx_export import CHECKED_IMAGES, MODEL_FILE, OPSET, onnx_bytes
from vitbench.inspection.transformers_export import (
    PROCESSOR_FILE,
    processor_config,
    timm_arguments,
    vit_config,
    vit_state,
)
from vitbench.model.build import build
from vitbench.model.objective import objective_of
from vitbench.model.sizes import known, pixel_grid
from vitbench.model.weights.start import WEIGHTS_FILE
from vitbench.store.record import Record
from vitbench.store.trials import Store
from vitbench.train.checkpoint import pack, read_weights
from vitbench.train.resident import load_images


def export_transformers(record: Record, store: Store, folder: Path, data: DataOptions) -> None:
    """Write a trial into a new folder that transformers' `ViTForImageClassification.from_pretrained` loads.

    Raises InputError if its ViT cannot hold the model, the weights were not kept, or the folder is in use.
    """
    spec = record.trial_spec
    args = timm_arguments(spec)
    state = read_weights(kept_weights(record, store))
    require_new_folder(folder)
    standardised, names = standardisation(spec, record, data)
    replace_durably(folder / WEIGHTS_FILE, pack(vit_state(args, timm_state(spec, state))))
    _write_json(folder / CONFIG_FILE, vit_config(args, known(spec.model.num_classes), names))
    _write_json(folder / PROCESSOR_FILE, processor_config(args, standardised))


def export_onnx(record: Record, store: Store, folder: Path, data: DataOptions) -> tuple[float, int]:
    """Write a trial as an ONNX graph, any model that classifies, into a new folder.

    Returns the largest difference from torch's logits, as a share of the largest logit, and the number of test images
    that it was measured on. Raises InputError as above, ResultsError if onnxruntime's logits are others.
    """
    spec = record.trial_spec
    if not objective_of(spec.train.objective).predicts_classes:
        raise InputError(f"--format onnx: train.objective.name {spec.train.objective.name} trains no classifier")
    weights = read_weights(kept_weights(record, store))
    require_new_folder(folder)
    standardised, names = standardisation(spec, record, data)
    network = build(spec.model, spec.train.objective)
    network.load_state_dict(weights)
    images = load_images(spec.data, data, torch.device("cpu"))
    index = np.arange(min(CHECKED_IMAGES, len(images.test_labels)))[None]
    (unit,) = images.read("test", index, CHECKED_IMAGES)
    content, difference = onnx_bytes(network.eval(), images.mean, images.std, unit[0])
    described = {
        "opset": OPSET,
        "input": {"name": "images", "shape": ["batch", spec.model.in_chans, *pixel_grid(spec.model)], "range": [0, 1]},
        "output": {"name": "logits", "shape": ["batch", spec.model.num_classes]},
        "standardised_inside": standardised,
        "label_names": names,
        "checked": {"num_images": index.size, "largest_difference": difference},
    }
    replace_durably(folder / MODEL_FILE, content)
    _write_json(folder / CONFIG_FILE, described)
    return difference, index.size


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    replace_durably(path, (json.dumps(content, indent=2) + "\n").encode())
