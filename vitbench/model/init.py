"""A tensor's first values, from its entry in `vitbench.model.tensors`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from vitbench.base.seeding import derive_seed
from vitbench.model import tensors

TRUNCATED_STD = 0.87962566103423978
"""The standard deviation of a standard normal cut at 2; flax divides by it."""


def draw(parameter: tensors.Tensor, seed: int) -> Tensor:
    """Values of one tensor, fp32 on the CPU: a function of (seed, name, shape, init) and of nothing else."""
    kind, _, argument = parameter.init.partition(":")
    generator = Generator().manual_seed(derive_seed(seed, f"init/{parameter.name}"))
    tensor = torch.empty(parameter.shape)
    FILL[kind](tensor, float(argument or 0), generator)
    return tensor


def _truncated_normal(tensor: Tensor, std: float, bound: float, generator: Generator) -> None:
    """Normal values; those beyond `bound` are drawn again, until none is left.

    These are the draws of `nn.init.trunc_normal_` in torch 2.15. Older ones draw other values from the same generator
    (2.11: by the inverse of the distribution), so that a trial would hold another number under each.
    """
    bound = torch.tensor(bound, dtype=tensor.dtype).item()  # as the tensor can hold it
    tensor.normal_(0.0, std, generator=generator)
    while (outside := tensor.abs() > bound).any():
        tensor.copy_(torch.where(outside, torch.empty_like(tensor).normal_(0.0, std, generator=generator), tensor))


def _fan_in(tensor: Tensor) -> int:
    return tensor[0].numel()


def _lecun_normal(tensor: Tensor, _: float, generator: Generator) -> None:
    """As in flax: a normal cut at two standard deviations, of variance 1 / fan_in after the cut."""
    std = _fan_in(tensor) ** -0.5 / TRUNCATED_STD
    _truncated_normal(tensor, std, 2 * std, generator)


def _kaiming_normal(tensor: Tensor, _: float, generator: Generator) -> None:
    nn.init.kaiming_normal_(tensor, mode="fan_out", nonlinearity="relu", generator=generator)


def _xavier_qkv(tensor: Tensor, _: float, generator: Generator) -> None:
    """Xavier's bound for query, key and value each, which one fused weight holds."""
    bound = math.sqrt(6 / (_fan_in(tensor) + len(tensor) // 3))
    tensor.uniform_(-bound, bound, generator=generator)


FILL: dict[str, Callable[[Tensor, float, Generator], object]] = {
    "zeros": lambda tensor, _, generator: tensor.zero_(),
    "ones": lambda tensor, _, generator: tensor.fill_(1.0),
    "constant": lambda tensor, value, generator: tensor.fill_(value),
    "ramp": lambda tensor, end, _: tensor.copy_(torch.linspace(-end, end, len(tensor)).view(-1, 1)),
    "normal": lambda tensor, std, generator: tensor.normal_(0.0, std, generator=generator),
    "trunc_normal": lambda tensor, std, generator: _truncated_normal(tensor, std, 2.0, generator),
    "uniform": lambda tensor, bound, generator: tensor.uniform_(-bound, bound, generator=generator),
    "lecun_normal": _lecun_normal,
    "kaiming_normal": _kaiming_normal,
    "xavier_uniform": lambda tensor, _, generator: nn.init.xavier_uniform_(tensor, generator=generator),
    "xavier_uniform_qkv": _xavier_qkv,
    "softmax_rows": lambda tensor, _, generator: tensor.copy_(tensor.uniform_(generator=generator).softmax(-1)),
}
