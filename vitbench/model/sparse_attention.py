"""Self-attention in which a patch attends to some of the patches only. State names are timm's.

Shapes: B batch, N patches, D embed_dim, H heads, K head_dim, G groups of S patches.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from vitbench.model.attention_layers import Attention
from vitbench.model.layers import attend, probabilities
from vitbench.model.placing import Rotation
from vitbench.model.token_places import Groups
from vitbench.spec.trial import ModelSpec

APART = -100.0
"""Logit that keeps two patches of one window apart, as in Swin's code."""


class Constant:
    """Numbers of a module's structure, as a tensor on the device where they are needed.

    A buffer would be lost where a module is built on the meta device and its state comes from elsewhere. The tensor
    is made at once: one that is made while a graph is exported holds no numbers.
    """

    def __init__(self, values: Any) -> None:
        self.values = torch.tensor(values, device="cpu")
        self._on: dict[torch.device, Tensor] = {self.values.device: self.values}

    def at(self, other: Tensor) -> Tensor:
        """On the device of `other`."""
        if other.device not in self._on:
            self._on[other.device] = self.values.to(other.device)
        return self._on[other.device]


class GroupedAttention(Attention):
    """Attention inside groups of patches that together are all patches, each once.

    `regions` names the part of the image of each grouped patch; patches of different parts do not see each other.
    `offsets` gives the row of a learned table for each pair of a group.
    """

    def __init__(
        self, model: ModelSpec, groups: Groups, regions: Groups | None = None, offsets: Groups | None = None
    ) -> None:
        super().__init__(model)
        order = [cell for group in groups for cell in group]
        self.place = Constant(groups)
        self.back = Constant(sorted(range(len(order)), key=order.__getitem__))
        self.apart = None if regions is None else Constant(_apart(regions))
        self.offsets = None if offsets is None else Constant(offsets)
        if offsets is not None:
            rows = (2 * round(len(offsets) ** 0.5) - 1) ** 2
            self.relative_position_bias_table = nn.Parameter(torch.empty(rows, self.shape.num_heads))

    def forward(self, x: Tensor, turn: Rotation | None) -> Tensor:
        q, k, v = self._queries_keys_values(x, turn)
        mixed = attend(self._grouped(q), self._grouped(k), self._grouped(v), self._grouped_bias(q))
        tokens = rearrange(mixed, "b h g s k -> b (g s) (h k)")[:, self.back.at(x)]
        out: Tensor = self.drop(self.proj(tokens))
        return out

    def probabilities(self, x: Tensor, turn: Rotation | None) -> Tensor:
        q, k, _ = self._queries_keys_values(x, turn)
        inside, place = probabilities(self._grouped(q), self._grouped(k), self._grouped_bias(q)), self.place.at(x)
        maps = inside.new_zeros(*inside.shape[:2], x.shape[1], x.shape[1])
        maps[:, :, place.unsqueeze(2), place.unsqueeze(1)] = inside
        return maps

    def _grouped(self, heads: Tensor) -> Tensor:
        """`[B, H, N, K]` -> `[B, H, G, S, K]`."""
        return heads[:, :, self.place.at(heads)]

    def _grouped_bias(self, q: Tensor) -> Tensor | None:
        """What is added to the logits, of a shape that broadcasts to `[B, H, G, S, S]`."""
        bias, place = self.bias(q), self.place.at(q)
        terms = [] if bias is None else [bias[:, :, place.unsqueeze(2), place.unsqueeze(1)]]
        if self.offsets is not None:
            terms.append(rearrange(self.relative_position_bias_table[self.offsets.at(q)], "q k h -> 1 h 1 q k"))
        if self.apart is not None:
            terms.append(self.apart.at(q))
        return sum(terms[1:], start=terms[0]) if terms else None


class PatternAttention(Attention):
    """Attention of each patch to its own list of patches: all pairs are computed, and a mask hides the others.

    To gather each query's keys computes fewer pairs and takes 2 to 4 times as long on a CPU at 64 patches.
    """

    def __init__(self, model: ModelSpec, patterns: Groups) -> None:
        super().__init__(model)
        everything, seen = range(len(patterns)), map(set, patterns)
        self.hidden = Constant([[0.0 if key in keys else -math.inf for key in everything] for keys in seen])

    def bias(self, q: Tensor) -> Tensor:
        bias, hidden = super().bias(q), self.hidden.at(q)
        return hidden if bias is None else bias + hidden


def _apart(regions: Groups) -> list[Any]:
    """`[1, 1, G, S, S]`: APART for each pair of different regions `[G, S]`, else 0."""
    return [[[[[0.0 if a == b else APART for b in group] for a in group] for group in regions]]]
