"""Rows as the runner leaves them, with scores given by hand: no training, no randomness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vitbench.arms import arms
from vitbench.experiment import Claim, Experiment

Score = float | str | None
"""A score, a status ('diverged', 'failed'), or None for a trial that was never made."""


def an_experiment(claim: Mapping[str, Any], **fields: Any) -> Experiment:
    """An experiment over two readouts with one claim; `fields` replace its own."""
    text: dict[str, Any] = {
        "name": "made",
        "factors": {"model.global_pool": ["token", "avg"]},
        "claims": [{"id": "MADE-01", **claim}],
    }
    return Experiment.model_validate({**text, **fields})


def the_claim(experiment: Experiment) -> Claim:
    return experiment.claims[0]


def made_rows(experiment: Experiment, scores: Mapping[str, Sequence[Score]], **more: Any) -> list[dict[str, Any]]:
    """Reporting rows of each arm: one score a seed. `more`: setting, metric, num_test_images, extra row fields."""
    levels = {arm.name: dict(arm.levels) for arm in arms(experiment)}
    return [
        made_row(arm, levels[arm], seed, score, **more)
        for arm, values in scores.items()
        for seed, score in enumerate(values)
        if score is not None
    ]


def made_row(arm: str, levels: Mapping[str, Any], seed: int, score: Score, **more: Any) -> dict[str, Any]:
    """One row; a word for a score is its status."""
    setting = more.pop("setting", {})
    metric = more.pop("metric", "test_top1_percent")
    result = {
        "num_test_images": more.pop("num_test_images", 10_000),
        "num_train_images": more.pop("num_train_images", 1_000),
        "train_flops": more.pop("train_flops", 1e12),
        "num_params": 30_000,
        "curve": more.pop("curve", []),
        "metrics": {},
    }
    status = score if isinstance(score, str) else "ok"
    return {
        "arm": arm,
        "levels": dict(levels),
        "setting": setting,
        "role": "reporting",
        "seed": seed,
        "trial_id": f"{arm}/{seed}" + "".join(f"/{value}" for value in setting.values()),
        "status": status,
        "num_classes": 10,
        "result": {**result, metric: score} if status == "ok" else result,
        **more,
    }


def tuning_rows(experiment: Experiment, arm: str, scores: Mapping[float, Sequence[Score]]) -> list[dict[str, Any]]:
    """The tuning rows of one arm over `train.lr`: {lr: validation score a tuning seed}."""
    levels = next(dict(found.levels) for found in arms(experiment) if found.name == arm)
    return [
        made_row(arm, levels, 1000 + t, score, setting={"train.lr": lr}, metric="val_top1_percent", role="tuning")
        for lr, values in scores.items()
        for t, score in enumerate(values)
    ]
