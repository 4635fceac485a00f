"""Questions and the final comparison as experiment files of the suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vitbench.recommend.recipe import RATE, Frame, Recipe

PRETRAIN, TRANSFER = "pretrain", "transfer"
FINAL_SEED = 100
"""Seeds of the final comparison begin here: no choice has seen them."""
RECOMMENDED, DEFAULT, RESNET = "recommended", "default_vit", "resnet"


def question_file(
    name: str, words: str, arms: Mapping[str, Recipe], rates: Sequence[float], seeds: tuple[int, int], frame: Frame
) -> dict[str, Any]:
    """The experiment of a question: its arms, each with a race over `rates`, on validation images only.

    `seeds`: how many train every rate, and how many there are. With a single rate each arm has its recipe's.
    """
    first, num_seeds = seeds
    races = len(rates) > 1
    staged = any(recipe.pretrain for recipe in arms.values())
    content: dict[str, Any] = {"name": name, "question": words, "base": frame.base()}
    if staged:
        content["stages"] = _stages(frame, max(recipe.rate for recipe in arms.values()))
    content["arms"] = {arm: _assignment(recipe, frame, staged, not races) for arm, recipe in arms.items()}
    if races:
        path = f"{TRANSFER}.{RATE}" if staged else RATE
        content["tune"] = {path: list(rates), "by": "race", "first": first, "extend": 1}
    return {**content, "seeds": num_seeds, "report": {"metric": "val_top1_percent"}}


def final_file(name: str, arms: Mapping[str, Recipe], num_seeds: int, frame: Frame) -> dict[str, Any]:
    """The experiment that reads the test images: fresh seeds, nothing tuned, a claim against each baseline."""
    base = frame.base()
    del base["evaluate"]
    staged = any(recipe.pretrain for recipe in arms.values())
    claims = [
        {
            "id": f"REC-{number}",
            "form": "difference",
            "statement": f"The recommended model beats {other}.",
            "arms": [RECOMMENDED, other],
            "above_points": 0.0,
            "seeds_min": 3,
        }
        for number, other in enumerate((other for other in arms if other != RECOMMENDED), start=1)
    ]
    return {
        "name": name,
        "question": "How good is the recommended model on the test images, against the baselines?",
        "base": base,
        **({"stages": _stages(frame, arms[RECOMMENDED].rate)} if staged else {}),
        "arms": {arm: _assignment(recipe, frame, staged, True) for arm, recipe in arms.items()},
        "seeds": list(range(FINAL_SEED, FINAL_SEED + num_seeds)),
        **({"claims": claims} if claims else {}),
    }


def recipe_file(name: str, recipe: Recipe, frame: Frame, num_seeds: int = 5) -> dict[str, Any]:
    """The recommended recipe as an experiment to go on with."""
    base = frame.base()
    del base["evaluate"]
    staged = recipe.pretrain > 0
    return {
        "name": name,
        "question": "The recommended recipe; change a field, add arms, or train it for longer.",
        "base": base,
        **({"stages": _stages(frame, recipe.rate)} if staged else {}),
        "arms": {RECOMMENDED: _assignment(recipe, frame, staged, True)},
        "seeds": num_seeds,
    }


def _stages(frame: Frame, rate: float) -> list[dict[str, Any]]:
    flops = {"train_flops": frame.flops / 2}
    return [
        {"name": PRETRAIN, "train": {**flops, "lr": rate, "objective": {"name": "masked_patch"}}},
        {"name": TRANSFER, "train": {"train_flops": frame.flops}},
    ]


def _assignment(recipe: Recipe, frame: Frame, staged: bool, with_rate: bool) -> dict[str, Any]:
    """An arm: its settings by path, those of the last stage named where there are two."""
    out = {path: value for path, value in recipe.settings if path != RATE}
    if with_rate:
        out[f"{TRANSFER}.{RATE}" if staged else RATE] = recipe.rate
    if staged and recipe.pretrain:
        out[f"{TRANSFER}.train.train_flops"] = frame.flops * (1.0 - recipe.pretrain)
    elif staged:
        out[f"{PRETRAIN}.enabled"] = False
    return out
