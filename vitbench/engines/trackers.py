"""Copy trials to the user's tracker: parameters, curve, metrics. The local records remain authoritative."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from vitbench.base.errors import InputError
from vitbench.plan.arm_diff import flatten
from vitbench.store.events import Began, Event, Finished, Listener, Warned
from vitbench.store.record import Record
from vitbench.store.trials import Store

Scalars = Mapping[str, float]


@dataclass(frozen=True)
class Tracked:
    """A trial as a tracker receives it; `curve` is {step: scalars}."""

    run: str
    name: str
    trial_id: str
    params: Mapping[str, str | int | float | bool]
    metrics: Scalars
    curve: Mapping[int, Scalars]


class Sink(Protocol):
    """A tracker that receives one finished trial per call."""

    def __call__(self, trial: Tracked) -> None: ...


def tensorboard(root: Path) -> Sink:
    """Event files under `tensorboard/` of the results root; see them with `tensorboard --logdir`."""
    from torch.utils.tensorboard import SummaryWriter

    def write(trial: Tracked) -> None:
        with SummaryWriter(str(root / "tensorboard" / trial.run / trial.name)) as writer:
            for step, scalars in trial.curve.items():
                for key, value in scalars.items():
                    writer.add_scalar(key, value, step)
            writer.add_hparams(dict(trial.params), dict(trial.metrics), run_name=".")

    return write


def wandb(_: Path) -> Sink:
    """One Weights & Biases run per trial, grouped by experiment; a trial that is sent again continues its run."""
    return _like_wandb("wandb", lambda trial: {"id": trial.trial_id, "resume": "allow"})


def trackio(_: Path) -> Sink:
    """One trackio run per trial."""
    return _like_wandb("trackio", lambda trial: {"resume": "allow"})


def _like_wandb(package: str, extra: Any) -> Sink:
    """A sink for a package with the three calls of Weights & Biases: init, log, finish."""
    module = importlib.import_module(package)

    def write(trial: Tracked) -> None:
        run = module.init(
            project="vitbench", group=trial.run, name=f"{trial.run} {trial.name}", config=dict(trial.params),
            **extra(trial),
        )  # fmt: skip
        for step, scalars in trial.curve.items():
            run.log(dict(scalars), step=step)
        run.log(dict(trial.metrics), step=max(trial.curve, default=0) + 1)
        run.finish()

    return write


def mlflow(_: Path) -> Sink:
    """One MLflow run per trial, in an experiment with the run's name, at MLFLOW_TRACKING_URI."""
    module = importlib.import_module("mlflow")

    def write(trial: Tracked) -> None:
        module.set_experiment(trial.run)
        with module.start_run(run_name=trial.name, tags={"trial_id": trial.trial_id}):
            module.log_params(dict(trial.params))
            for step, scalars in trial.curve.items():
                module.log_metrics(dict(scalars), step=step)
            module.log_metrics(dict(trial.metrics))

    return write


TRACKERS = {"tensorboard": tensorboard, "wandb": wandb, "mlflow": mlflow, "trackio": trackio}


def tracker(name: str, root: Path, say: Listener) -> Listener:
    """A listener that copies every finished trial to the tracker `name`; an error of the tracker is only a warning.

    Raises InputError if the tracker is unknown or not installed.
    """
    if name not in TRACKERS:
        raise InputError(f"--track {name}: allowed are {', '.join(TRACKERS)}")
    if find_spec(name) is None:
        raise InputError(f"--track {name}: not installed; python -m pip install 'vitbench[track-{name}]'")
    sink, store, run = TRACKERS[name](root), Store(root), ""

    def listen(event: Event) -> None:
        nonlocal run
        if isinstance(event, Began):
            run = event.run
        record = store.read(event.trial_id) if isinstance(event, Finished) else None
        if isinstance(event, Finished) and record is not None:
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # Else a tracker's prints would end up in --json.
                    sink(tracked(run, event, record))
            except Exception as error:  # The records are complete without the tracker.
                say(Warned(f"--track {name}: trial not sent ({type(error).__name__}: {error})".splitlines()[0]))

    return listen


def tracked(run: str, event: Finished, record: Record) -> Tracked:
    """A finished trial as a tracker receives it: fields of the spec by path, and the curve and metrics with values."""
    words = [event.arm, *(f"{path}={value}" for path, value in event.setting.items()), f"{event.role}-{event.seed}"]
    params: dict[str, Any] = {"arm": event.arm, "seed": event.seed, "role": event.role, "status": event.status}
    params |= {key: _scalar(value) for key, value in flatten(record.spec).items()}
    result = record.result.model_dump(mode="json")
    metrics = {**{key: result[key] for key in _METRICS}, **result["metrics"]}
    metrics |= {"train_seconds": record.run.train_seconds, "images_per_second": record.run.images_per_second}
    curve = {
        point.step: _present(point.model_dump(exclude={"step"})) for point in record.result.curve
    }  # fmt: skip
    final = {f"final/{key}": value for key, value in _present(metrics).items()}
    return Tracked(run, "_".join(words).replace("/", "-"), record.trial_id, params, final, curve)


_METRICS = (
    "test_top1_percent", "test_top1_best_val_percent", "val_top1_percent", "test_loss", "num_params", "forward_flops",
    "train_flops",
)  # fmt: skip


def _present(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if value is not None}


def _scalar(value: Any) -> str | int | float | bool:
    return value if isinstance(value, (str, int, float, bool)) else str(value)
