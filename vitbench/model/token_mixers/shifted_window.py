"""Swin's attention: windows that are shifted by half their side in every second block.

Source: Liu et al. 2021 (Swin), section 3.2. Patches that only the shift's roll brings together do not see each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from vitbench.model.sizes import known, transformer
from vitbench.model.token_mixers.window import Window
from vitbench.spec.trial import ModelSpec


class ShiftedWindow(Window):
    """As `window` in even blocks of a stage, counted from 0; shifted in odd ones, unless a window is the whole grid."""

    name: ClassVar[str] = "shifted_window"
    timm_class: ClassVar[str | None] = "swin"

    def shift(self, model: ModelSpec, layer: int) -> int:
        side = self.side(model)
        return side // 2 if layer % 2 and side < min(transformer(model).grid) else 0

    def problems_of_stages(self, stages: Sequence[ModelSpec]) -> list[str]:
        problems = super().problems_of_stages(stages)
        if not any(self.shift(stage, layer) for stage in stages for layer in range(known(stage.depth))):
            grids = " and ".join(f"{grid.rows} x {grid.columns}" for grid in (transformer(s).grid for s in stages))
            blocks = " and ".join(str(stage.depth) for stage in stages)
            problems.append(
                f"model.token_mixer: windows of {self.window_size} on {grids} patches in {blocks} blocks have no "
                "shift, so this is `window`; use a window_size from 2 to below the grid's side, and two blocks"
            )
        return problems

    def notes(self, stages: Sequence[ModelSpec]) -> list[str]:
        grids = [transformer(stage).grid for stage in stages if self.side(stage) == min(transformer(stage).grid)]
        sizes = " and ".join(f"{grid.rows} x {grid.columns}" for grid in grids)
        return [f"{self.text()}: a window is the whole grid of {sizes} patches, so it is not shifted there"] * bool(
            sizes
        )
