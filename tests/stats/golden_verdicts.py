"""Writes `golden/`: per form an experiment and its records, and the verdict lines, to be read by a person.

    python tests/stats/golden_verdicts.py

Scores are drawn once from a fixed generator and rounded to a tenth; no training.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from stats_rows import made_row

from vitbench.arms import arms
from vitbench.experiment import Experiment
from vitbench.stats import judge_all, one_line

GOLDEN = Path(__file__).parent / "golden"
POOLS = {"model.global_pool": ["token", "avg"]}
POSITIONS = {"model.pos_embed": ["learned_1d", "learned_2d", "relative_1d", "none"]}
FRACTIONS = {"data.train_fraction": [0.25, 0.5, 1.0]}
FAMILIES = {"vit": {"model.family": "vit"}, "resnet": {"model.family": "resnet"}}
BUDGETS = {"train.train_flops": [1e12, 2e12, 4e12]}
LRS = [1e-3, 2e-3, 4e-3]

CASES: dict[str, dict[str, Any]] = {
    "difference": {
        "factors": POSITIONS,
        "claims": [
            {"id": "POS-01", "form": "difference", "arms": ["learned_1d", "none"], "above_points": 1.0,
             "paper": {"source": "App. D.4, Table 8", "effect_points": 2.82}},
            {"id": "POS-01n", "form": "difference", "arms": ["none", "learned_1d"], "above_points": 0.0},
        ],
        "means": {"learned_1d": 92.0, "learned_2d": 91.8, "relative_1d": 92.1, "none": 87.0},
    },
    "equivalence": {
        "factors": POOLS,
        "tune": {"train.lr": LRS, "seeds": 3},
        "report": {"also_at": {"train.lr": ["best_of(token)"]}},
        "claims": [
            {"id": "CLS-01", "form": "equivalence", "arms": ["avg", "token"], "margin_points": 2.0,
             "paper": {"source": "App. D.3, Fig. 9", "effect_points": -0.5}},
            {"id": "CLS-02a", "form": "difference", "arms": ["avg", "token"], "at": {"train.lr": "best_of(token)"},
             "below_points": -1.0, "paper": {"source": "App. D.3, Fig. 9", "effect_points": -5.8}},
        ],
        "means": {"token": 92.0, "avg": 92.3},
        "best_lr": {"token": 2e-3, "avg": 1e-3},
    },
    "equivalence_set": {
        "factors": POSITIONS,
        "claims": [{"id": "POS-02", "form": "equivalence", "margin_points": 2.0, "arms":
                    ["learned_1d", "learned_2d", "relative_1d"]},
                   {"id": "POS-02n", "form": "equivalence", "margin_points": 2.0, "arms":
                    ["learned_1d", "learned_2d", "none"]}],
        "means": {"learned_1d": 92.0, "learned_2d": 91.8, "relative_1d": 92.1, "none": 87.0},
    },
    "ordering": {
        "factors": POSITIONS,
        "claims": [{"id": "POS-08", "form": "ordering", "tie_points": 2.0,
                    "tiers": [["learned_1d", "learned_2d"], ["none"]]},
                   {"id": "POS-09", "form": "ordering", "tiers": [["relative_1d"], ["learned_1d"], ["none"]]}],
        "means": {"learned_1d": 92.0, "learned_2d": 91.8, "relative_1d": 92.1, "none": 87.0},
    },
    "interaction": {
        "factors": {**POOLS, "model.head": ["linear", "mlp_tanh"]},
        "claims": [
            {"id": "INT-01", "form": "interaction", "above_points": 0.0, "pairs":
             [["avg+mlp_tanh", "token+mlp_tanh"], ["avg+linear", "token+linear"]]},
            {"id": "INT-02", "form": "difference", "above_points": 0.0, "arms":
             [{"model.global_pool": "avg", "over": ["model.head"]},
              {"model.global_pool": "token", "over": ["model.head"]}]},
        ],
        "means": {"token+linear": 90.0, "token+mlp_tanh": 90.2, "avg+linear": 90.1, "avg+mlp_tanh": 92.6},
    },
    "slope": {
        "arms": FAMILIES,
        "factors": FRACTIONS,
        "claims": [{"id": "DATA-01a", "form": "slope", "arms": ["vit", "resnet"], "x": "log2_images",
                    "levels": FRACTIONS, "above_points": 0.0, "paper": {"source": "Fig. 4", "effect_points": 2.4}}],
        "means": {"vit+0.25": 60.0, "vit+0.5": 68.0, "vit+1": 76.0,
                  "resnet+0.25": 66.0, "resnet+0.5": 71.0, "resnet+1": 75.0},
    },
    "diminishing_returns": {
        "factors": {"model.depth": [1, 2, 4, 8]},
        "claims": [{"id": "SHAPE-03b", "form": "diminishing_returns", "arms": [{}], "x": "depth",
                    "levels": {"model.depth": [1, 2, 4, 8]}, "split_at": {"model.depth": 2}}],
        "means": {"1": 70.0, "2": 80.0, "4": 84.0, "8": 86.0},
    },
    "share_of_gain": {
        "arms": {"none": {"train.lr": 1e-3}, "tenth": {"train.lr": 2e-3}, "all": {"train.lr": 4e-3}},
        "claims": [{"id": "MPP-05", "form": "share_of_gain", "arms": ["none", "tenth", "all"], "share": 0.5}],
        "means": {"none": 80.0, "tenth": 87.0, "all": 90.0},
    },
    "statistic": {
        "factors": POOLS,
        "metric": "cka_localisation",
        "report": {"metric": "cka_localisation"},
        "claims": [{"id": "CLS-07a", "form": "statistic", "arms": ["token", "avg"], "above_points": 0.0,
                    "unit": "hundredths of CKA"},
                   {"id": "CLS-07z", "form": "statistic", "arms": ["token"], "above_points": 10.0,
                    "unit": "hundredths of CKA"}],
        "means": {"token": 24.0, "avg": 15.0},
    },
    "crossover": {
        "arms": FAMILIES,
        "factors": FRACTIONS,
        "claims": [{"id": "DATA-01b", "form": "crossover", "arms": ["vit", "resnet"], "x": "log2_images",
                    "levels": FRACTIONS}],
        "means": {"vit+0.25": 60.0, "vit+0.5": 68.0, "vit+1": 78.0,
                  "resnet+0.25": 66.0, "resnet+0.5": 69.0, "resnet+1": 72.0},
    },
    "frontier_ratio": {
        "arms": FAMILIES,
        "factors": BUDGETS,
        "claims": [{"id": "COMP-01", "form": "frontier_ratio", "arms": ["vit", "resnet"], "ratio": 1.0,
                    "at": {"train.train_flops": 2e12}}],
        "means": {"vit+1e+12": 75.0, "vit+2e+12": 82.0, "vit+4e+12": 86.0,
                  "resnet+1e+12": 74.0, "resnet+2e+12": 79.0, "resnet+4e+12": 84.0},
    },
    "conjunction": {
        "factors": POSITIONS,
        "seeds": {"looks": [5, 8, 12, 20]},
        "claims": [{"id": "POS-05", "form": "difference", "all_parts": True, "parts": [
            {"id": "POS-05a", "form": "difference", "arms": ["learned_2d", "learned_1d"], "above_points": -2.0},
            {"id": "POS-05b", "form": "difference", "arms": ["learned_1d", "none"], "above_points": 1.0}]}],
        "means": {"learned_1d": 92.0, "learned_2d": 91.8, "relative_1d": 92.1, "none": 87.0},
        "num_seeds": 8,
    },
    "descriptive": {
        "factors": POOLS,
        "claims": [{"id": "COMP-10", "form": "descriptive", "arms": ["token", "avg"]}],
        "means": {"token": 92.0, "avg": 92.3},
    },
}  # fmt: skip


def write_case(name: str) -> None:
    """One experiment and its records."""
    case = CASES[name]
    own = ("means", "best_lr", "metric", "num_seeds")
    text = {"name": name, **{key: value for key, value in case.items() if key not in own}}
    experiment = Experiment.model_validate(text)
    (GOLDEN / f"{name}.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(text)), sort_keys=False))
    rows = [row for arm in arms(experiment) for row in _rows(name, case, arm.name, dict(arm.levels))]
    (GOLDEN / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _rows(name: str, case: dict[str, Any], arm: str, levels: dict[str, Any]) -> list[dict[str, Any]]:
    """The arm's rows: spread 0.6 a seed, 0.5 of it shared by the arms of a seed."""
    mean, best = case["means"][arm], case.get("best_lr", {}).get(arm)
    facts: dict[str, Any] = {"num_test_images": 360, "metric": case.get("metric", "test_top1_percent")}
    facts["num_train_images"] = int(1437 * levels.get("data.train_fraction", 1.0))
    facts["train_flops"] = levels.get("train.train_flops", 1e12)
    facts["depth"] = levels.get("model.depth", 2)
    seeds = range(case.get("num_seeds", 5))
    if best is None:
        return [made_row(arm, levels, seed, _score(name, arm, seed, mean), **facts) for seed in seeds]
    lost = {lr: 3.0 * np.log2(lr / best) ** 2 for lr in LRS}
    rows = [
        made_row(arm, levels, 1000 + t, _score(name, f"{arm}/{lr}", 1000 + t, mean - lost[lr]),
                 setting={"train.lr": lr}, role="tuning", **{**facts, "metric": "val_top1_percent"})
        for lr, t in itertools.product(LRS, range(3))
    ]  # fmt: skip
    for lr in dict.fromkeys((best, case["best_lr"]["token"])):
        setting = {"train.lr": lr}
        rows += [
            made_row(arm, levels, seed, _score(name, f"{arm}/{lr}", seed, mean - lost[lr]), setting=setting, **facts)
            for seed in seeds
        ]
    return rows


def _score(name: str, arm: str, seed: int, mean: float) -> float:
    own = np.random.default_rng([seed, *f"{name}/{arm}".encode()]).normal(0.0, 0.6)
    shared = np.random.default_rng([seed, *name.encode()]).normal(0.0, 0.5)
    return round(float(mean + own + shared), 1)


def golden_lines(name: str) -> list[str]:
    """The verdict lines of one committed case."""
    experiment = Experiment.model_validate(yaml.safe_load((GOLDEN / f"{name}.yaml").read_text()))
    rows = [json.loads(line) for line in (GOLDEN / f"{name}.jsonl").read_text().splitlines()]
    return [one_line(verdict) for verdict in judge_all(experiment, rows)]


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for case_name in CASES:
        write_case(case_name)
    lines = [f"{case_name}: {line}" for case_name in CASES for line in golden_lines(case_name)]
    (GOLDEN / "verdicts.txt").write_text("\n".join(lines) + "\n")
