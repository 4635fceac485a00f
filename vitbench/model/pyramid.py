"""What pyramids share: stages of blocks, each on a grid of half the side of the stage before. No torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from vitbench.model.mechanisms import Stages, patch_embed_of, readout_of
from vitbench.model.sizes import known, transformer
from vitbench.spec.trial import Items, ModelSpec, TokenMixerName


class Pyramid(Stages):
    """`depths` blocks per stage; `model.embed_dim` and `model.num_heads` are those of the first stage.

    `widths` are those of the later stages; without them each stage is twice as wide as the one before. All heads are
    equally wide. `mixers` are the token mixers of the later stages; without them every stage has `model.token_mixer`.
    """

    depths: Annotated[Items[PositiveInt], Field(min_length=2, max_length=8)] = (1, 1)
    widths: Items[PositiveInt] | None = None
    mixers: Items[TokenMixerName] | None = None

    def num_blocks(self) -> int:
        return sum(self.depths)

    def later_mixers(self) -> tuple[str, ...]:
        return self.mixers or ()

    def models(self, model: ModelSpec) -> tuple[ModelSpec, ...]:
        first, patch = known(model.embed_dim), known(model.patch_size)
        later = self.widths or tuple(first << stage for stage in range(1, len(self.depths)))
        mixers = (model.token_mixer, *(self.later_mixers() or (model.token_mixer,) * len(later)))
        return tuple(
            model.model_copy(
                update={
                    "stages": "flat",
                    "token_mixer": mixer,
                    "depth": depth,
                    "embed_dim": width,
                    "num_heads": None if model.num_heads is None else model.num_heads * width // first,
                    "patch_size": patch << stage,
                }
            )
            for stage, (depth, width, mixer) in enumerate(zip(self.depths, (first, *later), mixers, strict=True))
        )

    def problems(self, model: ModelSpec) -> list[str]:
        return self._place_problems(model) or self._size_problems(model)

    def _size_problems(self, model: ModelSpec) -> list[str]:
        """Numbers that do not go together."""
        text, problems, stages = self.text(), [], len(self.depths)
        if self.widths and len(self.widths) != stages - 1:
            problems.append(f"model.stages: {text} needs {stages - 1} widths, those of the stages after the first")
        if model.depth != self.num_blocks():
            problems.append(f"model.depth: {model.depth}, but {text} has {self.num_blocks()} blocks; leave depth out")
        if self.mixers and len(self.mixers) != stages - 1:
            problems.append(f"model.stages: {text} needs {stages - 1} mixers, those of the stages after the first")
        elif self.mixers and set(self.mixers) == {model.token_mixer}:
            problems.append(f"model.stages: every stage of {text} has the mixer of model.token_mixer; leave mixers out")
        first, heads = known(model.embed_dim), model.num_heads
        if heads and heads <= first and self.widths and any(width * heads % first for width in self.widths):
            problems.append(
                f"model.stages: {text} with heads of width {first // heads} gives no whole number of heads; use widths "
                f"that are multiples of {first // heads}"
            )
        side, grid = 1 << (stages - 1), transformer(model).grid
        if grid.rows % side or grid.columns % side:
            problems.append(
                f"model.stages: {stages} stages halve the grid {stages - 1} times, and {grid.rows} x {grid.columns} "
                f"patches are not divisible by {side}; use fewer stages or another patch_size"
            )
        return problems

    def _place_problems(self, model: ModelSpec) -> list[str]:
        """Parts that need one grid."""
        text, problems = self.text(), []
        if model.family != "vit":
            problems.append(f"model.stages: a {model.family} has stages already; set flat, or family: vit")
        elif not (embed := patch_embed_of(model)).spatial:
            problems.append(f"model.stages: tokens of {embed.text()} have no neighbours to merge; set flat")
        if model.class_token or model.dist_token or "class_token" in readout_of(model).needs:
            problems.append(f"model.stages: {text} has no place for a class token; set global_pool: avg or map")
        if model.reg_tokens:
            problems.append(f"model.reg_tokens: {text} has no place for register tokens; set 0")
        if model.pos_placement != "stem":
            problems.append(f"model.pos_placement: {model.pos_placement} needs one grid, and {text} has several; stem")
        return problems
