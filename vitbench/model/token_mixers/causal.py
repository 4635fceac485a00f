"""Causal self-attention: each patch attends to itself and to the patches before it, row by row.

Source: Chen et al. 2020 (iGPT), section 3.2.
"""

from __future__ import annotations

from typing import ClassVar

from vitbench.model import token_places
from vitbench.model.sizes import transformer
from vitbench.model.token_mixers.neighbourhood import Pattern
from vitbench.spec.trial import ModelSpec


class Causal(Pattern):
    """No patch depends on a later one, so that a network can predict the next one."""

    name: ClassVar[str] = "causal"
    gives: ClassVar[frozenset[str]] = frozenset({"attention_maps", "causal"})

    def patterns(self, model: ModelSpec) -> token_places.Groups:
        return token_places.before(transformer(model).grid.area)
