"""`vitbench export`, and the download of weights that experiments start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from vitbench.data import DataOptions
from vitbench.model.weights.start import TIMM, fetched
from vitbench.spec.experiment import Experiment
from vitbench.store.trials import Store


def export(trial: str, folder: Path, root: Path, data: DataOptions, console: Console) -> int:
    """Write one trial's weights for timm, and print how to load them."""
    from vitbench.inspection.export import export as write
    from vitbench.inspection.export import find_trial

    store = Store(root)
    record = find_trial(store, trial)
    architecture = write(record, store, folder, data)
    console.print(f"{folder}: trial {record.trial_id} as timm's {architecture.name}", highlight=False)
    console.print(f'timm.create_model("local-dir:{folder}", pretrained=True)', highlight=False, soft_wrap=True)
    return 0


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
