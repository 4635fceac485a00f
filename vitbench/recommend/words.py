"""Recipes, arm_gaps and numbers in plain words."""

from __future__ import annotations

from collections.abc import Sequence

from vitbench.recommend.arm_gaps import ArmGap
from vitbench.recommend.recipe import RATE, Frame, Recipe, model_of, num_params
from vitbench.recommend.search import Answer
from vitbench.spec.trial import size_words
from vitbench.stats.intervals import Interval

FAMILIES = {"vit": "ViT", "resnet": "ResNet", "hybrid": "hybrid of ResNet and ViT"}
POOLING = {"token": "a class token", "avg": "average pooling", "map": "attention pooling"}


def recipe_words(recipe: Recipe, frame: Frame) -> str:
    """`a ViT of width 48 and depth 2 on 4 x 4 patches, with a class token, ...`."""
    model = model_of(recipe, frame)
    parts = []
    if recipe.family == "resnet":
        parts.append(f"a ResNet of {len(model.layers or ())} stages, width factor {model.width_factor:g}")
    elif recipe.family == "hybrid":
        parts.append(f"a {FAMILIES['hybrid']}: width factor {model.width_factor:g}, then width {model.embed_dim}")
    else:
        parts.append(
            f"a ViT of width {model.embed_dim} and depth {model.depth} on patches of "
            f"{size_words(model.patch_size or 1)} px"
        )
    if recipe.family != "resnet":
        parts += [POOLING[str(recipe.get("model.global_pool", "token"))], f"{model.pos_embed} positions"]
        if model.token_mixer != "attention":
            parts.append(f"{model.token_mixer} in place of attention")
    parts += [f"{recipe.get('train.augment')} augmentation", f"learning rate {recipe.get(RATE):g}"]
    if recipe.pretrain:
        parts.append(f"{100 * recipe.pretrain:.0f}% of the compute for pre-training on masked patches")
    return f"{', '.join(parts)} ({num_params(recipe, frame):,} parameters)"


def interval_words(interval: Interval, sign: bool = False) -> str:
    """`+1.20 [0.40, 2.00]`, or the mean alone where there is no interval."""
    if interval.mean is None:
        return "not measured"
    form = "+.2f" if sign else ".2f"
    mean = format(interval.mean, form)
    if interval.low is None or interval.high is None:
        return f"{mean} (no interval)"
    return f"{mean} [{interval.low:.2f}, {interval.high:.2f}]"


def gap_words(standing: ArmGap) -> str:
    """`avg 0.4 ± 0.9 points behind: no difference`."""
    if standing.state == "leads":
        return f"{standing.arm} leads with {standing.mean:.2f}% (validation, {standing.num_seeds} seeds)"
    half = "" if standing.half is None else f" ± {standing.half:.2f}"
    meaning = {"behind": "behind", "equal": "no difference", "open": "open"}[standing.state]
    return f"{standing.arm} {standing.behind:.2f}{half} points behind: {meaning}"


def lead_words(answer: Answer) -> str:
    """How sure the answer to a question is."""
    if not answer.finished:
        return "the time ended before it was answered"
    others = [each for each in answer.standing if each.state != "leads"]
    if others and all(each.state == "behind" for each in others):
        return "clear"
    if others and all(each.state == "equal" for each in others):
        return "makes no difference"
    return "open" if any(each.state == "open" for each in others) else "clear, except for equal arms"


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "nothing"


def hours_words(hours: float) -> str:
    """`1.5 h`, or `4 min` for less than an hour."""
    return f"{hours:.1f} h" if hours >= 1.0 else f"{max(1, round(60 * hours))} min"
