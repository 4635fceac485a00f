"""What it costs to skip, list and report trials that are done, against their number."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from vitbench.data import DataOptions, Facts, facts
from vitbench.engines import runner
from vitbench.engines.options import Options
from vitbench.plan.rounds import expand
from vitbench.plan.trials import Builder, Chooser, Trial
from vitbench.spec.experiment import Experiment
from vitbench.spec.load import loads
from vitbench.store.record import CurvePoint, Record, Result, Run
from vitbench.store.trials import Store

T = TypeVar("T")
ARMS = 10
BASE = """
name: many
question: What do finished trials cost?
base:
  data: {{name: fake, val_fraction: 0.2}}
  model: {{patch_size: 4, embed_dim: 16, depth: 2, num_heads: 2, mlp_ratio: 2.0}}
  train: {{steps: 12, batch_size: 16}}
seeds: {seeds}
"""
TEXT = f"{BASE}factors: {{{{train.lr: [1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3, 7e-3, 8e-3, 9e-3, 1e-2]}}}}\n"


def committed(trial: Trial, number: int) -> Record:
    """A record as a finished trial leaves it, its scores made up."""
    score = 50 + number % 40 / 2
    points = [CurvePoint(step=s, train_loss=1.0, val_top1_percent=score, val_loss=1.0) for s in range(1, 11)]
    result = Result(
        test_top1_percent=score,
        test_top1_best_val_percent=score,
        val_top1_percent=score,
        test_loss=1.0,
        curve=tuple(points),
        num_params=1,
        train_flops=1e6,
        num_images=192,
        num_steps=12,
        num_train_images=100,
        num_test_images=100,
    )
    return Record(
        trial_id=trial.trial_id,
        status="ok",
        seed=trial.seed,
        data_fingerprint=trial.data_fingerprint,
        spec=trial.spec.model_dump(mode="json", exclude_defaults=True),
        result=result,
        run=Run(train_seconds=1.0),
    )


def measure(num_trials: int, chooser: Chooser) -> dict[str, float]:
    """Seconds to expand the plan of `num_trials` committed trials, and to `run` it, that is to skip them all."""
    experiment = loads(TEXT.format(seeds=num_trials // ARMS), "many.yaml")
    assert isinstance(experiment, Experiment)

    fake_facts = facts("fake", DataOptions())

    def facts_of(name: str) -> Facts:
        return fake_facts

    with TemporaryDirectory() as name:
        store, out = Store(Path(name)), dict[str, float]()
        plan = _timed(out, "plan", lambda: expand(Builder(experiment, facts_of), {}, chooser))
        for number, trial in enumerate(plan.trials):
            folder = store.folder(trial.trial_id)
            folder.mkdir(parents=True)
            (folder / "record.json").write_text(committed(trial, number).model_dump_json(exclude_none=True))
        request = runner.RunRequest(Options(Path(name), DataOptions()))
        done = _timed(
            out, "skip", lambda: runner.run(Builder(experiment, facts_of), request, chooser, lambda event: None)
        )
        assert not done.missing
        return out


def _timed(out: dict[str, float], name: str, work: Callable[[], T]) -> T:
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        value = work()
    out[name] = time.perf_counter() - started
    return value
