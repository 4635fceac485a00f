"""`vitbench export`, and the download of weights that experiments start from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from vitbench.base.errors import InputError
from vitbench.data import DataOptions
from vitbench.model.weights.start import TIMM, fetched
from vitbench.spec.experiment import Experiment
from vitbench.store.record import Record
from vitbench.store.rows import read_records
from vitbench.store.trials import Store

RECORDS = "records.jsonl"


FORMATS = ("timm", "transformers", "onnx")


@dataclass(frozen=True)
class Destination:
    """Where a trial is exported to, and in which format."""

    folder: Path
    format: str = "timm"


def export(trial: str, to: Destination, root: Path, data: DataOptions, console: Console) -> int:
    """Write one trial's weights for other software, and print how they are loaded."""
    from vitbench.inspection.export import find_trial

    if to.format not in FORMATS:
        raise InputError(f"--format {to.format}: allowed are {', '.join(FORMATS)}")

    store = Store(root)
    if (root / trial / RECORDS).is_file():
        return list_trials(root / trial, store, console)
    record = find_trial(store, trial)
    what, how = _write(record, store, to, data)
    console.print(f"{to.folder}: trial {record.trial_id} as {what}", highlight=False, soft_wrap=True)
    console.print(how, highlight=False, soft_wrap=True)
    return 0


def _write(record: Record, store: Store, to: Destination, data: DataOptions) -> tuple[str, str]:
    """Write the folder; say what it holds, and how it is loaded."""
    if to.format == "timm":
        from vitbench.inspection.export import export as export_timm

        name = export_timm(record, store, to.folder, data).name
        return f"timm's {name}", f'timm.create_model("local-dir:{to.folder}", pretrained=True)'
    from vitbench.inspection.other_formats import export_onnx, export_transformers

    if to.format == "transformers":
        export_transformers(record, store, to.folder, data)
        return "transformers' ViT", f'ViTForImageClassification.from_pretrained("{to.folder}")'
    difference, num_images = export_onnx(record, store, to.folder, data)
    checked = f"logits on {num_images} test images differ from torch's by at most {difference:.1e} of the largest"
    return f"an ONNX graph; {checked}", f'onnxruntime.InferenceSession("{to.folder}/model.onnx")'


def list_trials(run: Path, store: Store, console: Console) -> int:
    """Say which trials of a run can be exported: one is, not the run. Returns the exit code of bad usage."""
    rows = {row["trial_id"]: row for row in read_records(run / RECORDS) if store.weights(row["trial_id"]).is_file()}
    if not rows:
        raise InputError(f"{run.name} is a run, and none of its trials has weights in {store.root}")
    console.print(f"{run.name} is a run; export one of its {len(rows)} trials with weights:", highlight=False)
    for trial_id, row in rows.items():
        result = row["result"].get("test_top1_percent")
        score = "" if result is None else f", test top-1 {result:.2f}%"
        console.print(
            f"{trial_id}  {row['arm']}, seed {row['seed']}, {row['role']}{score}", highlight=False, markup=False
        )
    return InputError.exit_code


def fetch_weights(experiment: Experiment) -> None:
    """Download every missing `timm:NAME` that an experiment starts from. Loads torch only if something is missing.

    Raises InputError.
    """
    for start in dict.fromkeys(_starts(experiment.model_dump(mode="json", exclude_defaults=True))):
        if start.startswith(TIMM) and not fetched(start).is_file():
            from vitbench.model.weights.pretrained import fetch

            fetch(start.removeprefix(TIMM), fetched(start))


def _starts(value: Any, key: str = "") -> Iterator[str]:
    """Every value of a key `init_from`, anywhere in an experiment."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _starts(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _starts(item, key)
    elif isinstance(value, str) and key.rpartition(".")[2] == "init_from":
        yield value
