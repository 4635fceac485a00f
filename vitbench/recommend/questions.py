"""The questions: which arms each compares, what it may gain, and how sure its answer will be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from vitbench.recommend.recipe import Frame, Recipe, families, fits, model_of
from vitbench.spec.trial import sides
from vitbench.stats.distributions import normal_cdf, t_quantile

MARGIN = 1.0
"""Arms that differ by less than this many points make no difference."""
ALPHA = 0.05
FAMILY = "family"
"""The name of the first question."""
ALL = frozenset({"vit", "hybrid", "resnet"})
TOKENS = frozenset({"vit", "hybrid"})
Arms = Callable[[Recipe, Frame], Mapping[str, Recipe]]


@dataclass(frozen=True)
class RecipeQuestion:
    """A question about one recipe; its first arm is the recipe as it is.

    `gain`, `spread`: mean and standard deviation, in points, of what its best other arm gains, before it is asked.
    """

    name: str
    words: str
    gain: float
    spread: float
    applies_to: frozenset[str]
    arms: Arms

    def expected_gain(self, behind: float = 0.0) -> float:
        """Points that asking adds on average, for a recipe that is `behind` the leader by some points."""
        z = (self.gain - behind) / self.spread
        density = math.exp(-z * z / 2.0) / math.sqrt(2.0 * math.pi)
        return self.spread * (z * float(normal_cdf(z)) + density)

    def chance(self, num_arms: int, num_seeds: int, noise: float) -> float:
        """The chance that an answer is clear: one arm is ahead, or they differ by less than the margin.

        `noise`: standard deviation in points of a score, without what the arms of a seed share.
        """
        error = noise * math.sqrt(2.0 / num_seeds)
        half = half_width(noise, num_arms, num_seeds)
        total = math.hypot(self.spread, error)

        def within(cut: float) -> float:
            return float(normal_cdf((cut - self.gain) / total) - normal_cdf((-cut - self.gain) / total))

        return 1.0 - within(half) + within(max(0.0, MARGIN - half))


def half_width(noise: float, num_arms: int, num_seeds: int) -> float:
    """Half of the interval of a difference to the leader: at ALPHA over the number of other arms, one-sided."""
    df = max(1, (num_arms - 1) * (num_seeds - 1))
    width = float(t_quantile(1.0 - ALPHA / max(1, num_arms - 1), df))
    return width * noise * math.sqrt(2.0 / num_seeds)


def _levels(path: str, *values: str) -> Arms:
    """Arms that differ in one setting."""

    def arms(recipe: Recipe, frame: Frame) -> dict[str, Recipe]:
        now = recipe.get(path)
        levels = dict.fromkeys((now, *values)) if now is not None else dict.fromkeys(values)
        return _that_fit({value: recipe.changed({path: value}) for value in levels}, frame)

    return arms


def _patches(recipe: Recipe, frame: Frame) -> dict[str, Recipe]:
    name, _, written = recipe.get("model.name").partition("/")
    now, (height, width) = int(written), sides(frame.img_size)
    sizes = (now, 2 * now, now // 2)
    allowed = [p for p in sizes if p >= 1 and math.gcd(height, width) % p == 0 and (height // p) * (width // p) >= 4]
    return _that_fit({f"patch_{p}": recipe.changed({"model.name": f"{name}/{p}"}) for p in allowed}, frame)


def _widths(recipe: Recipe, frame: Frame) -> dict[str, Recipe]:
    """Two thirds and four thirds of the width: fewer images through a larger network, or more through a smaller one."""
    model, arms = model_of(recipe, frame), {"as_wide": recipe}
    for name, factor in (("narrower", 2 / 3), ("wider", 4 / 3)):
        changes: dict[str, float] = {}
        if model.embed_dim and model.num_heads:
            step = 4 * model.num_heads
            changes["model.embed_dim"] = max(step, step * round(factor * model.embed_dim / step))
        if model.width_factor and recipe.family != "vit":
            changes["model.width_factor"] = max(1, round(64 * factor * model.width_factor)) / 64
        arms[name] = recipe.changed(changes)
    return _that_fit(arms, frame)


def _pretraining(recipe: Recipe, frame: Frame) -> dict[str, Recipe]:
    return _that_fit({"scratch": recipe, "pretrained": replace(recipe, pretrain=0.5)}, frame)


def _that_fit(arms: Mapping[str, Recipe], frame: Frame) -> dict[str, Recipe]:
    """The arms that can be built and that differ."""
    distinct: dict[tuple[object, ...], str] = {}
    for name, recipe in arms.items():
        if fits(recipe, frame):
            distinct.setdefault(recipe.key, name)
    return {name: arms[name] for name in distinct.values()}


def family_question(size: str) -> RecipeQuestion:
    """The first question: the family and the rate, from which the baselines of the end have their rates."""

    def arms(recipe: Recipe, frame: Frame) -> dict[str, Recipe]:
        return families(recipe, frame, size)

    return RecipeQuestion(FAMILY, "ViT, ResNet or hybrid, at equal compute? And which rate?", 4.0, 5.0, ALL, arms)


QUESTIONS = (
    RecipeQuestion("patch", "How large should a patch be?", 1.5, 3.0, frozenset({"vit"}), _patches),
    RecipeQuestion("augment", "How strongly should images be augmented?", 0.5, 2.5, ALL,
             _levels("train.augment", "light", "none", "medium")),
    RecipeQuestion("width", "A wider network, or a narrower one that sees more images?", 0.5, 1.5, ALL, _widths),
    RecipeQuestion("readout", "Class token, average pooling or attention pooling?", 0.5, 1.2, TOKENS,
             _levels("model.global_pool", "token", "avg", "map")),
    RecipeQuestion("positions", "Which position encoding?", 0.3, 1.2, TOKENS,
             _levels("model.pos_embed", "learned_1d", "sincos_2d", "relative_2d", "rope_2d")),
    RecipeQuestion("mixer", "Does attention pay, or does a cheaper token mixer do?", 0.0, 1.5, frozenset({"vit"}),
             _levels("model.token_mixer", "attention", "depthwise", "mlp")),
    RecipeQuestion("pretraining", "Does pre-training on masked patches pay, at equal compute?", -1.0, 2.0,
             frozenset({"vit"}), _pretraining),
)  # fmt: skip
"""The later questions. Gains are rough readings of the reference results and of the paper; they order the questions and
decide nothing else."""
