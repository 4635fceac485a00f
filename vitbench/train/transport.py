"""Optimal transport between two sets of tokens, by proximal points.

Source: Xie et al. 2020 (IPOT), Algorithm 1, with the settings of Kim et al. 2021 (ViLT), App. A.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BETA = 0.5
NUM_STEPS = 50


def cosine_cost(rows: Tensor, columns: Tensor) -> Tensor:
    """1 - cosine `[..., R, C]` of tokens `[..., R, D]` and `[..., C, D]`.

    It is a sum of products, so that counted FLOPs are those of the networks.
    """
    a, b = F.normalize(rows.float(), dim=-1), F.normalize(columns.float(), dim=-1)
    return 1 - (a.unsqueeze(-2) * b.unsqueeze(-3)).sum(-1)


def transport_plan(cost: Tensor, beta: float = BETA, num_steps: int = NUM_STEPS) -> Tensor:
    """How much of each row goes to each column, `[..., R, C]`: every row has 1/R, every column gets 1/C.

    The sums of the rows are exact, those of the columns nearly so. The cost of the plan nears the least one from above.
    """
    num_rows, num_columns = cost.shape[-2:]
    kernel, plan = (-cost / beta).exp(), torch.ones_like(cost)
    row_scale = torch.full_like(cost[..., 0], 1 / num_rows)
    for _ in range(num_steps):
        moved = kernel * plan
        column_scale = 1 / (num_columns * (moved * row_scale.unsqueeze(-1)).sum(-2))
        row_scale = 1 / (num_rows * (moved * column_scale.unsqueeze(-2)).sum(-1))
        plan = row_scale.unsqueeze(-1) * moved * column_scale.unsqueeze(-2)
    return plan


def transport_cost(rows: Tensor, columns: Tensor) -> Tensor:
    """The cost `[...]` of moving tokens `[..., R, D]` to `[..., C, D]`; gradients reach the tokens, not the plan."""
    cost = cosine_cost(rows, columns)
    with torch.no_grad():
        plan = transport_plan(cost.detach())
    return (cost * plan).sum((-2, -1))
