"""Rows as the runner would leave them, drawn from a fixed generator: no training, known effects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from vitbench.experiment import Experiment

LRS = (0.001, 0.002, 0.004, 0.008, 0.016)


def class_token_experiment(**changes: Any) -> Experiment:
    """Two readouts, five learning rates, five seeds, one shared setting, two claims."""
    text: dict[str, Any] = {
        "name": "class_token_vs_gap",
        "question": "Does the class token beat average pooling once both are tuned?",
        "factors": {"model.global_pool": ["token", "avg"]},
        "tune": {"train.lr": list(LRS), "seeds": 3},
        "seeds": {"looks": [5, 8, 12, 20]},
        "report": {"also_at": {"train.lr": ["best_of(token)"]}},
        "claims": [
            {
                "id": "CLS-01",
                "form": "equivalence",
                "arms": ["avg", "token"],
                "margin_points": 2.0,
                "statement": "With the learning rate tuned per arm, both readouts end at about the same accuracy.",
                "paper": {"source": "App. D.3, Fig. 9", "effect_points": -0.5},
            },
            {
                "id": "CLS-02a",
                "form": "difference",
                "arms": ["avg", "token"],
                "at": {"train.lr": "best_of(token)"},
                "below_points": -1.0,
                "statement": "At the class token's best rate average pooling is clearly worse.",
                "paper": {"source": "App. D.3, Fig. 9", "effect_points": -5.8},
            },
        ],
    }
    return Experiment.model_validate({**text, **changes})


def row(arm: str, levels: dict[str, Any], seed: int, score: float, **more: Any) -> dict[str, Any]:
    """One reporting row with a short learning curve that ends at `score`."""
    score = round(score * 3.6) / 3.6
    setting = more.get("setting", {})
    name = f"{arm}-{'-'.join(f'{v:g}' for v in setting.values())}-{seed}"
    result = {
        "test_top1_percent": score,
        "test_top1_best_val_percent": score,
        "val_top1_percent": score + 0.5,
        "test_loss": (100 - score) / 40,
        "metrics": {},
        "curve": curve(score + 0.5, more.pop("num_steps", 400)),
        "num_params": more.pop("num_params", 35_210),
        "forward_flops": more.pop("forward_flops", 1_204_224),
        "train_flops": more.pop("train_flops", 8.8e10),
        "num_images": 24_420,
        "num_steps": 400,
        "num_train_images": more.pop("num_train_images", 1221),
        "num_test_images": 360,
    }
    run = {
        "train_seconds": 4.5, "eval_seconds": 0.1, "images_per_second": 5426.0, "peak_memory_mib": 212.0,
        "device": "cpu", "engine": "workers", "threads": 1, "host": "bench", "commit": "0123abc", "dirty": False,
        "versions": {"python": "3.11.9", "torch": "2.11.0", "vitbench": "0.1.0"}, "attempt": 1,
        "started": "2026-01-05T10:00:00Z", "finished": "2026-01-05T10:00:05Z",
    }  # fmt: skip
    known = {
        "arm": arm, "levels": levels, "setting": {}, "role": "reporting", "seed": seed, "trial_id": name,
        "data": "digits",
        "status": "ok", "reason": None, "num_classes": 10, "grid_side": 4, "depth": 2, "chosen": True,
        "result": result, "run": run, "spec": {"model": {"name": "Mu/2"}, "data": {"name": "digits"}, **levels},
    }  # fmt: skip
    return {**known, **more}


def curve(end: float, num_steps: int) -> list[dict[str, Any]]:
    """Readings that rise to `end` percent."""
    steps = [round(num_steps * share) for share in (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0)]
    rise = [end - (end - 10) * np.exp(-6 * step / num_steps) * (1 - step / num_steps) for step in steps]
    return [
        {"step": s, "train_loss": (100 - v) / 30, "val_top1_percent": float(v), "val_loss": (100 - v) / 35}
        for s, v in zip(steps, rise, strict=True)
    ]


def class_token_rows(num_seeds: int = 5) -> list[dict[str, Any]]:
    """Tuning, own-best and shared-setting rows of `class_token_experiment`; the arms peak a factor two apart."""
    draw = np.random.default_rng(0)
    peak = {"token": (0.004, 91.4), "avg": (0.002, 92.0)}
    rows = []
    for arm, (best, top) in peak.items():
        levels = {"model.global_pool": arm}
        for lr in LRS:
            lost = 1.6 * np.log2(lr / best) ** 2
            for seed in (1000, 1001, 1002):
                value = top - lost + draw.normal(0, 0.7)
                rows.append(row(arm, levels, seed, value, setting={"train.lr": lr}, role="tuning", chosen=False))
        rows += [row(arm, levels, s, top + draw.normal(0, 0.8), setting={"train.lr": best}) for s in range(num_seeds)]
    rows += [
        row(
            "avg",
            {"model.global_pool": "avg"},
            s,
            90.2 + draw.normal(0, 0.8),
            setting={"train.lr": 0.004},
            chosen=False,
        )
        for s in range(num_seeds)
    ]
    return rows


def lost(source: dict[str, Any], status: str, reason: str) -> dict[str, Any]:
    """The same trial without a score."""
    empty = {**source["result"], "test_top1_percent": None, "val_top1_percent": None, "curve": ()}
    return {**source, "status": status, "reason": reason, "result": empty}


POSITIONS = {"none": 70.0, "learned_1d": 83.4, "learned_2d": 83.1, "relative_1d": 84.6, "relative_2d": 86.0}


def position_experiment() -> Experiment:
    """Five encodings, fixed learning rate, two claims."""
    return Experiment.model_validate(
        {
            "name": "position_encoding",
            "question": "Does the encoding of positions matter, beyond having one?",
            "factors": {"model.pos_embed": ["learned_1d", "none", "learned_2d", "relative_1d", "relative_2d"]},
            "seeds": 5,
            "claims": [
                {
                    "id": "POS-01",
                    "form": "difference",
                    "arms": ["none", "learned_1d"],
                    "below_points": -1.0,
                    "statement": "Without positions accuracy is clearly lower.",
                    "paper": {"source": "App. D.4, Table 8", "effect_points": -2.82},
                },
                {
                    "id": "POS-02",
                    "form": "equivalence",
                    "pairs": [["learned_2d", "learned_1d"], ["relative_1d", "learned_1d"]],
                    "margin_points": 2.0,
                    "statement": "All encodings end at about the same accuracy.",
                    "paper": {"source": "App. D.4, Table 8", "effect_points": -0.21},
                },
            ],
        }
    )


def position_rows() -> list[dict[str, Any]]:
    """Five arms whose seeds share a common part, with one diverged and one failed trial."""
    draw = np.random.default_rng(1)
    common = draw.normal(0, 0.9, 5)
    rows = [
        row(arm, {"model.pos_embed": arm}, s, mean + common[s] + draw.normal(0, 0.5))
        for arm, mean in POSITIONS.items()
        for s in range(5)
    ]
    rows[-1] = lost(rows[-1], "diverged", "loss is not finite at step 131")
    rows[-6] = lost(rows[-6], "failed", "RuntimeError: out of luck")
    return rows


def scale_experiment() -> Experiment:
    """Two models over four sizes of the training set."""
    return Experiment.model_validate(
        {
            "name": "data_scale",
            "question": "From how many images on does the ViT pass the ResNet?",
            "arms": {"R14x1": {"model.name": "R14x1"}, "ViT-Ti-4": {"model.name": "ViT-Ti/4"}},
            "factors": {"data.train_fraction": [1.0, 0.3, 0.1, 0.03]},
            "seeds": 5,
            "claims": [
                {
                    "id": "DATA-01b",
                    "form": "crossover",
                    "arms": ["ViT-Ti-4", "R14x1"],
                    "x": "log2_images",
                    "levels": {"data.train_fraction": [0.03, 0.1, 0.3, 1.0]},
                    "statement": "ResNet is ahead with the fewest images, ViT with the most.",
                }
            ],
        }
    )


def scale_rows() -> list[dict[str, Any]]:
    """The ResNet leads on little data, the ViT on much."""
    draw = np.random.default_rng(2)
    rows = []
    for name, (slope, end, flops) in {"R14x1": (7.0, 80.0, 2e12), "ViT-Ti-4": (14.0, 83.0, 1.5e12)}.items():
        for fraction in (1.0, 0.3, 0.1, 0.03):
            levels = {"arm": name, "data.train_fraction": fraction}
            rows += [
                row(
                    f"{name}+{fraction:g}",
                    levels,
                    seed,
                    end + slope * np.log10(fraction) + draw.normal(0, 0.6),
                    num_train_images=round(50_000 * fraction),
                    train_flops=flops * fraction,
                    spec={"model": {"family": "resnet" if name == "R14x1" else "vit"}},
                )
                for seed in range(5)
            ]
    return rows


SHAPE_ANCHOR = {"depth": 8, "embed_dim": 256, "num_heads": 4, "mlp_ratio": 4.0, "patch_size": 4}
SHAPES = {
    "anchor": ({}, 1.0, 70.0),
    "depth-2": ({"model.depth": 2}, 0.26, 58.0),
    "depth-16": ({"model.depth": 16}, 2.0, 76.0),
    "width-128": ({"model.embed_dim": 128}, 0.27, 63.0),
    "width-512": ({"model.embed_dim": 512}, 3.8, 73.5),
    "patch-8": ({"model.patch_size": 8}, 0.26, 62.0),
    "patch-2": ({"model.patch_size": 2}, 4.2, 76.5),
    "mlp-2": ({"model.mlp_ratio": 2.0}, 0.67, 67.0),
    "mlp-8": ({"model.mlp_ratio": 8.0}, 1.67, 72.0),
    "all-half": ({"model.depth": 4, "model.embed_dim": 128}, 0.14, 55.0),
}


def shape_experiment() -> Experiment:
    """One knob at a time around an anchor."""
    arms = {name: changes for name, (changes, _, _) in SHAPES.items()}
    question = "Which knob of the transformer buys most accuracy for its compute?"
    return Experiment.model_validate({"name": "shape", "question": question, "arms": arms, "seeds": 3})


def shape_rows() -> list[dict[str, Any]]:
    """Three seeds of every shape."""
    draw = np.random.default_rng(3)
    return [
        row(
            name,
            {"arm": name},
            seed,
            mean + draw.normal(0, 0.6),
            forward_flops=round(4e8 * cost),
            train_flops=cost * 6e13,
            spec={"model": SHAPE_ANCHOR | {path.removeprefix("model."): value for path, value in changes.items()}},
        )
        for name, (changes, cost, mean) in SHAPES.items()
        for seed in range(3)
    ]


def store_run(root: Path, experiment: Experiment, rows: list[dict[str, Any]]) -> Path:
    """The folder of a run as the runner leaves it, less its report."""
    folder = root / experiment.name
    folder.mkdir(parents=True)
    text = json.dumps(experiment.model_dump(mode="json", exclude_defaults=True))
    (folder / "experiment.yaml").write_text(text)
    (folder / "records.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    return folder
