"""Swin's attention: windows that are shifted by half their side in every second block.

Source: Liu et al. 2021 (Swin), section 3.2. Patches that only the shift's roll brings together do not see each other.
"""

from __future__ import annotations

from typing import ClassVar

from vitbench.model.sizes import transformer
from vitbench.model.token_mixers.window import Window
from vitbench.spec.trial import ModelSpec


class ShiftedWindow(Window):
    """As `window` in even blocks, counted from 0; shifted in odd ones."""

    name: ClassVar[str] = "shifted_window"

    def shift(self, layer: int) -> int:
        return self.window_size // 2 if layer % 2 else 0

    def problems(self, model: ModelSpec) -> list[str]:
        shape, problems = transformer(model), super().problems(model)
        if self.window_size >= min(shape.grid) or self.window_size < 2 or shape.depth < 2:
            cells = f"{shape.grid.rows} x {shape.grid.columns}"
            problems.append(
                f"model.token_mixer: windows of {self.window_size} on {cells} patches in {shape.depth} blocks have no "
                "shift, so this is `window`; use a window_size from 2 to below the grid's side, and two blocks"
            )
        return problems
